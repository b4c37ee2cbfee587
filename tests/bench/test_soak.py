"""The soak in ten seconds: every kind of traffic goes well through every policy, and no descriptor is left over.

Memory needs minutes to say anything: of that only the verdict is tested.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.client import chunked, frame, request
from bench.kinds import KINDS
from bench.soak import checks
from bench.stage import ROOT, Sample
from gateway.registry import policies


def samples(rss: float = 0, descriptors: float = 0) -> list[Sample]:
    """Ten minutes in which memory and descriptors grow by so many parts after the first two."""
    return [
        Sample(at, round(10**8 * (1 + rss * max(0, at - 120) / 480)), round(100 * (1 + descriptors * (at > 300))))
        for at in range(0, 601, 5)
    ]


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (checks(samples(), 0, len(KINDS), 20, 24), []),
        (checks(samples(rss=0.04), 0, len(KINDS), 20, 20), []),
        (checks(samples(rss=0.08), 0, len(KINDS), 20, 20), ["growth of resident memory"]),
        (checks(samples(descriptors=0.1), 0, len(KINDS), 20, 20), ["growth of descriptors"]),
        (checks(samples(), 1, len(KINDS), 20, 20), ["unexpected answers, broken connections, silences"]),
        (checks(samples(), 0, len(KINDS) - 1, 20, 20), ["kinds of traffic that never went well"]),
        (checks(samples(), 0, len(KINDS), 20, 25), ["descriptors left over after the traffic"]),
        (checks(samples()[:5], 0, len(KINDS), 20, 20), []),
    ],
)
def test_what_a_soak_promises(found: list[object], missed: list[str]) -> None:
    assert [check.text for check in found if check.met is False] == missed  # type: ignore[attr-defined]  # a table


def test_what_the_client_says() -> None:
    assert request("POST", "/a", "X: y", body=b"ab").endswith(b"X: y\r\nContent-Length: 2\r\n\r\nab")
    assert chunked(b"abcde", 3) == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    for size, head in ((5, 6), (300, 8), (70_000, 14)):
        framed = frame(2, bytes(size))
        assert (framed[0], len(framed)) == (0x82, head + size)
        mask = framed[head - 4 : head]
        assert framed[head : head + 4] == mask


@pytest.mark.skipif(not (shutil.which("wrk") and shutil.which("nginx")), reason="wrk and nginx are needed")
def test_a_short_soak(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    arguments = [sys.executable, "-m", "bench.soak", "--seconds", "6", "--mixed", "40", "--output", str(output)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(output.read_text())
    assert told["faults"] == {}
    assert len(told["done"]) == len(KINDS)


def test_every_policy_is_soaked() -> None:
    text = (ROOT / "bench" / "soak.py").read_text()
    assert [name for name in policies() if f'"{name}"' not in text] == []
