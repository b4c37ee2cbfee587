"""What memory alone must keep: bounded, swept a little at a time, stricter and never looser past the bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.ports import Demand
from gateway.core.units import parse_rate
from gateway.counters.memory import MemoryCounters

SECOND = 1_000_000_000
ALGORITHMS = ("sliding-window", "fixed-window", "token-bucket")
algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)


def demand(key: object, *texts: str, algorithm: str = "sliding-window") -> tuple[Demand]:
    return (Demand(str(key), tuple(parse_rate(text) for text in texts or ("2/minute",)), algorithm),)


def forget(counters: MemoryCounters, now: int) -> None:
    for _ in range(200):
        counters.sweep(now)


@algorithms
def test_idle_identities_are_forgotten_and_others_are_not(algorithm: str) -> None:
    counters = MemoryCounters()
    for key in range(500):
        counters.take(demand(key, algorithm=algorithm), key)
    for key in range(10):
        counters.take(demand(key, algorithm=algorithm), 30 * SECOND)
    forget(counters, 59 * SECOND)
    assert len(counters) == 500
    forget(counters, 61 * SECOND)
    assert len(counters) == (0 if algorithm == "fixed-window" else 10)
    forget(counters, 91 * SECOND)
    assert len(counters) == 0


def test_a_sweep_stays_within_its_budget() -> None:
    counters = MemoryCounters()
    for key in range(1000):
        counters.take(demand(key), 0)
    assert counters.sweep(3600 * SECOND, budget=5) == 5
    # With no budget named, a tick looks at a small share.
    assert 0 < counters.sweep(3600 * SECOND) < 50


def test_newcomers_pay_for_the_clean_up_without_a_tick() -> None:
    counters = MemoryCounters()
    for key in range(20_000):
        counters.take(demand(key), key * SECOND)
        assert len(counters) < 200


def test_an_identity_is_remembered_as_long_as_its_longest_window() -> None:
    counters = MemoryCounters()
    counters.take(demand("k", "2/minute", "3/hour"), 0)
    counters.take(demand("k", "2/minute"), 1)
    forget(counters, 3599 * SECOND)
    assert counters.take(demand("k", "3/hour"), 3599 * SECOND).states[0][0] == 0


@algorithms
def test_a_refusal_leaves_nothing_behind(algorithm: str) -> None:
    counters = MemoryCounters()
    full = demand("full", "1/minute", algorithm=algorithm)
    counters.take(full, 0)
    before = counters.stats()
    for key in range(100):
        assert not counters.take((*demand(key, algorithm=algorithm), *full), 1).admitted
    assert counters.stats() == before


@algorithms
def test_past_the_bound_newcomers_share_and_memory_stays(algorithm: str) -> None:
    counters = MemoryCounters(identities=100)
    for key in range(20_000):
        counters.take(demand(key, algorithm=algorithm), key)
    stats = counters.stats()
    assert stats["identities"] == stats["capacity"] == 100
    assert 0 < stats["shared"] <= 1024
    # Those who were there first are not touched by it.
    assert counters.take(demand(0, algorithm=algorithm), 20_001).admitted
    forget(counters, 3600 * SECOND)
    assert counters.stats() == {"identities": 0, "capacity": 100, "shared": 0}


@algorithms
def test_counts_made_while_sharing_go_along_to_a_place_of_its_own(algorithm: str) -> None:
    counters = MemoryCounters(identities=1)
    counters.take(demand("first", "1/second", algorithm=algorithm), 0)
    late = demand("late", "3/hour", algorithm=algorithm)
    assert [counters.take(late, 1).admitted for _ in range(2)] == [True, True]
    assert counters.stats()["shared"] == 1
    forget(counters, 2 * SECOND)
    assert [counters.take(late, 3 * SECOND).admitted for _ in range(2)] == [True, False]
    assert len(counters) == 1
    assert not counters.take(late, 4 * SECOND).admitted


@algorithms
@given(
    requests=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20 * SECOND)), max_size=80),
    capacity=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_never_looser_than_with_room_for_all(algorithm: str, requests: list[tuple[int, int]], capacity: int) -> None:
    """Whatever is admitted in a crowd respects the identity's own limit."""
    crowded = MemoryCounters(identities=capacity)
    admitted: dict[int, list[int]] = {}
    now = 0
    for key, gap in requests:
        now += gap
        crowded.sweep(now)
        if crowded.take(demand(key, algorithm=algorithm), now).admitted:
            admitted.setdefault(key, []).append(now)
    # In a minute a sliding window admits its limit; the two others up to twice as many.
    most = 2 if algorithm == "sliding-window" else 4
    for moments in admitted.values():
        for start in moments:
            assert sum(start <= moment < start + 60 * SECOND for moment in moments) <= most


def test_each_algorithm_counts_for_itself_under_one_key() -> None:
    counters = MemoryCounters()
    for algorithm in ALGORITHMS:
        assert counters.take(demand("k", algorithm=algorithm), 0).states[0][0] == 1


def test_many_sets_of_rates_do_not_pile_up() -> None:
    counters = MemoryCounters()
    for index in range(10_000):
        counters.take(demand(index % 7, f"{1000 + index}/minute"), index)
    assert len(counters._windows) <= 4096
    assert counters.take(demand(1, "5/minute"), 10_000).admitted is False
