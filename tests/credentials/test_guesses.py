"""Failed guesses: the window, reservations, networks, and bounded memory."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.units import Rate
from gateway.credentials.guesses import Guesses, network

SECOND = 1_000_000_000
RATE = Rate(3, 10, "10s")


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002/64"),
        ("2001:db8:1:2::", "20010db800010002/64"),
        ("fe80::1%eth0", "fe80000000000000/64"),
        ("", ""),
        ("unix:", "unix:"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_network(client: str, expected: str) -> None:
    assert network(client) == expected


def test_the_window_slides() -> None:
    guesses = Guesses(RATE)
    assert [guesses.fail("a", second * SECOND) for second in (0, 4, 8)] == [True, True, True]
    assert guesses.fail("a", 9 * SECOND) is False
    assert guesses.blocked("a", 9 * SECOND) == SECOND
    assert guesses.blocked("b", 9 * SECOND) == 0
    assert guesses.blocked("a", 10 * SECOND) == 0
    assert guesses.fail("a", 10 * SECOND) is True
    assert guesses.blocked("a", 10 * SECOND) == 4 * SECOND


def test_guesses_in_flight_take_room() -> None:
    guesses = Guesses(RATE)
    assert guesses.fail("a", 0)
    assert [guesses.reserve("a", 0) for _ in range(3)] == [True, True, False]
    assert guesses.blocked("a", 0) == 0, "what is in flight may yet be right"
    guesses.release("a")
    assert guesses.reserve("a", 0)
    guesses.release("a")
    guesses.release("a")
    assert guesses.reserve("a", 0)


def test_another_limit_goes_on_from_the_counts_that_stand() -> None:
    guesses = Guesses(RATE)
    for _ in range(3):
        guesses.fail("a", 0)
    guesses.configure(Rate(5, 10, "10s"))
    assert guesses.blocked("a", 0) == 0
    guesses.configure(Rate(2, 10, "10s"))
    assert guesses.blocked("a", 1 * SECOND) == 9 * SECOND


def test_memory_is_bounded_and_newcomers_share() -> None:
    guesses = Guesses(RATE, addresses=10)
    for number in range(5000):
        guesses.fail(f"a{number}", 0)
    assert len(guesses) <= 10 + 256
    assert guesses.blocked("late", 1) > 0, "stricter, never looser"
    assert guesses.blocked("a0", 10 * SECOND) == 0
    for number in range(20):
        guesses.fail(f"b{number}", 30 * SECOND)
    assert guesses.blocked("b19", 30 * SECOND) == 0


def test_an_idle_window_makes_room_for_a_newcomer() -> None:
    guesses = Guesses(RATE, addresses=2)
    guesses.fail("a", 0)
    guesses.fail("b", 1)
    guesses.fail("c", 20 * SECOND)
    assert len(guesses) == 2


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3 * SECOND)), max_size=200),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_never_more_than_the_limit_in_any_window(steps: list[tuple[str, int]], limit: int, addresses: int) -> None:
    guesses = Guesses(Rate(limit, 5, "5s"), addresses)
    counted: dict[str, list[int]] = {}
    now = 0
    for address, delta in steps:
        now += delta
        free_in = guesses.blocked(address, now)
        assert guesses.fail(address, now) is (free_in == 0)
        if free_in == 0:
            counted.setdefault(address, []).append(now)
        else:
            later = copy.deepcopy(guesses)  # the clock never goes back: look ahead in a copy
            assert later.blocked(address, now + free_in - 1) > 0
            assert later.blocked(address, now + free_in) == 0
    for times in counted.values():
        for start in times:
            assert sum(start <= time < start + 5 * SECOND for time in times) <= limit
