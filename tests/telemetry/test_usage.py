"""What processes use, read from the system and shown as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry import usage
from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import Metrics, Reading
from gateway.telemetry.usage import Usage, own_usage, usage_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    """Another process, which is idle."""
    return subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip


def test_a_process_knows_what_it_uses() -> None:
    spent = sum(index * index for index in range(200_000))
    before = own_usage()
    assert spent
    assert before.cpu > 0
    assert before.virtual > before.resident > 1 << 20
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
    assert own_usage().descriptors >= before.descriptors + 40
    for descriptor in descriptors:
        os.close(descriptor)


def test_another_process_is_seen_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    seen = usage_of(sleeper.pid)
    assert seen is not None
    assert seen.cpu >= 0
    assert seen.virtual > seen.resident > 0
    assert seen.descriptors >= 3
    sleeper.communicate(b"\n")
    assert usage_of(sleeper.pid) is None


def test_where_nothing_is_told_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(usage, "Path", lambda name: tmp_path / name.lstrip("/"))
    assert own_usage()[1:] == (0, 0, 0)
    assert own_usage().cpu > 0
    assert usage_of(os.getpid()) is None


def shown(reading: Reading) -> dict[str, float]:
    body, _ = render(reading, "")
    families = text_string_to_metric_families(body.decode())
    return {s.name: s.value for f in families for s in f.samples if s.name.startswith("process_")}


def test_the_nodes_processes_are_shown_as_one() -> None:
    metrics = Metrics()
    alone = metrics.read()
    together = metrics.read()
    together.others = Usage(1000.0, 1 << 40, 1 << 42, 100_000)
    one, all_ = shown(alone), shown(together)
    assert one.keys() == all_.keys()
    grown = {name for name in one if all_[name] > one[name] + 500}
    assert grown == {
        "process_cpu_seconds_total", "process_open_fds",
        "process_resident_memory_bytes", "process_virtual_memory_bytes",
    }  # fmt: skip
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert one[name] == all_[name]
