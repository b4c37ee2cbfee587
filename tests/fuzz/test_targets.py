"""Every fuzz target shortly, on its seeds and on edits of them: the same inputs each time (`make fuzz` is for long)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.lines import forget_lines
from tests.fuzz.mutate import OCTETS, Edit, edited
from tests.fuzz.targets import TARGETS_BY_NAME, Target

ROOT = Path(__file__).resolve().parents[2]
SLOW = {"config": 60}


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Seeds with a few edits."""
    put = st.sampled_from((*target.words, *OCTETS, b"")) | st.binary(max_size=4)
    edit = st.builds(Edit, st.integers(0, 1_000_000), st.integers(0, 6), put, st.booleans())
    return st.builds(edited, st.sampled_from(target.seeds), st.lists(edit, max_size=6))


@pytest.mark.parametrize("name", TARGETS_BY_NAME)
def test_seeds(name: str) -> None:
    forget_lines()
    target = TARGETS_BY_NAME[name]
    for seed in (*target.seeds, b"", b"\x00", b"\n", bytes(range(256))):
        target.run(seed)


@pytest.mark.parametrize("name", TARGETS_BY_NAME)
def test_edited_seeds(name: str) -> None:
    forget_lines()
    target = TARGETS_BY_NAME[name]

    @settings(max_examples=SLOW.get(name, 200), derandomize=True, deadline=None, database=None)
    @given(inputs(target))
    def run(data: bytes) -> None:
        target.run(data)

    run()


def test_make_fuzz_runs_without_atheris(tmp_path: Path) -> None:
    arguments = ["--runs", "2000", "--engine", "random", "--output", str(tmp_path), "chunked", "key"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "key" / "figures.json").read_text("ascii"))
    assert figures["inputs"] == 667
    assert "chunked" in done.stdout


def test_a_broken_invariant_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import one

    def run(data: bytes) -> None:
        assert b"!" not in data

    monkeypatch.setitem(TARGETS_BY_NAME, "broken", Target(run, (b"abc",), (b"!",)))
    with pytest.raises(AssertionError):
        one.by_chance("broken", 1000, tmp_path, seed=1)
    (kept,) = tmp_path.glob("crash-*")
    assert b"!" in kept.read_bytes()
