"""What `workers: auto` means on this machine, in this container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.control import cores


@pytest.mark.parametrize(
    ("available", "quota", "workers", "number"),
    [
        (4, "max 100000", "auto", 4),
        (4, None, "auto", 4),
        (4, "nonsense", "auto", 4),
        (4, "200000 100000", "auto", 2),
        (4, "250000 100000", "auto", 3),
        (4, "50000 100000", "auto", 1),
        (4, "1000000 100000", "auto", 4),
        (4, "50000 100000", 7, 7),
        (1, None, "auto", 1),
    ],
)
def test_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: int,
    quota: str | None,
    workers: int | str,
    number: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(available)), raising=False)
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota + "\n", "ascii")
    assert cores.count(workers, file) == number


def test_slots_are_spread_over_the_processors_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 2, 5}, raising=False)
    assert [cores.core_of(slot) for slot in range(5)] == [2, 5, 7, 2, 5]
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.allowed() == list(range(os.cpu_count() or 1))
