"""Waiting for others: a clock that is fair, and ever longer pauses."""

from __future__ import annotations

import pytest

from gateway.control.patience import AwakeClock, Backoff


@pytest.mark.parametrize(
    ("moments", "most", "awake"),
    [
        ([], 0.5, 0.0),
        ([0.1, 0.2, 0.3], 0.5, 0.3),
        ([0.1, 5.1, 5.2], 0.5, 0.7),
        ([3.0], 0.1, 0.1),
        ([1.0, 0.5, 0.6], 2.0, 1.1),
    ],
    ids=["not looked at", "looked at often", "a stall in between", "a stall at once", "a clock that went back"],
)
def test_a_stall_counts_for_little(moments: list[float], most: float, awake: float) -> None:
    clock = AwakeClock(100.0)
    read = 0.0
    for moment in moments:
        read = clock.read(100.0 + moment, most)
    assert read == pytest.approx(awake)


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        ([30.0, 30.0, 30.0], [0, 0, 0]),
        ([0.0, 0.0, 0.0, 0.0, 0.0], [0, 0.1, 0.2, 0.4, 0.8]),
        ([0.0] * 12, [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5, 5]),
        ([0.0, 0.0, 0.0, 10.0, 0.0, 0.0], [0, 0.1, 0.2, 0, 0, 0.1]),
    ],
    ids=["grown", "young", "no longer than 5 s", "forgiven"],
)
def test_who_ends_young_waits_longer(lives: list[float], delays: list[float]) -> None:
    backoff = Backoff()
    assert [backoff.delay(lived) for lived in lives] == pytest.approx(delays)


def test_it_ends_young_a_thousand_times() -> None:
    backoff = Backoff()
    assert max(backoff.delay(0.0) for _ in range(2000)) == Backoff.LONGEST
    assert backoff.failures == 2000
