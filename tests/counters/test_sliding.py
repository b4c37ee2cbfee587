"""The log behind the sliding window: how it grows, what it forgets, what it costs."""

from __future__ import annotations

import pytest

from gateway.core.units import Rate
from gateway.counters.sliding import SlidingLog, SlidingState, SlidingWindow
from gateway.counters.windows import SECOND, Windows, windows_of

ALGORITHM = SlidingWindow()


def windows(*pairs: tuple[int, int]) -> Windows:
    return windows_of([Rate(limit, seconds, "w") for limit, seconds in pairs])


def count(state: SlidingState | None, limits: Windows, *moments: int) -> SlidingState:
    for moment in moments:
        assert ALGORITHM.admits(state, limits, moment)
        state, _ = ALGORITHM.count(state, limits, moment)
    assert state is not None
    return state


def log(state: SlidingState) -> SlidingLog:
    assert isinstance(state, SlidingLog)
    return state


def test_an_identity_seen_once_is_a_bare_number() -> None:
    limits = windows((3, 60), (9, 3600))
    state = count(None, limits, 5 * SECOND)
    assert isinstance(state, int)
    assert ALGORITHM.look(state, limits, 5 * SECOND) == ((2, 60 * SECOND), (8, 3600 * SECOND))
    assert not ALGORITHM.idle(state, 3605 * SECOND - 1)
    assert ALGORITHM.idle(state, 3605 * SECOND)


def test_it_stays_a_bare_number_when_it_comes_back_after_its_longest_window() -> None:
    limits = windows((3, 60))
    assert isinstance(count(None, limits, 0, 60 * SECOND, 120 * SECOND), int)
    assert isinstance(count(None, limits, 0, 60 * SECOND - 1), SlidingLog)


def test_the_ring_grows_as_used_up_to_the_longest_windows_limit() -> None:
    limits = windows((5000, 3600))
    state = count(None, limits, *range(100))
    assert log(state).size == 128
    state = count(state, limits, *range(100, 5000))
    assert log(state).ring.itemsize * len(log(state).ring) == 40_000
    assert not ALGORITHM.admits(state, limits, 5000)


def test_what_no_window_counts_makes_room() -> None:
    limits = windows((10, 1))
    state = count(None, limits, *(index * SECOND // 4 for index in range(1000)))
    assert log(state).size <= 10


def test_a_high_limit_that_is_lowered_lets_the_log_stand() -> None:
    state = count(None, windows((100, 60)), *range(100))
    lower = windows((10, 60))
    assert not ALGORITHM.admits(state, lower, 60 * SECOND)
    # Room comes when all but nine have gone: the ninety-first counted at 90 ns.
    assert ALGORITHM.look(state, lower, 200) == ((0, 90 + 60 * SECOND - 200),)
    assert ALGORITHM.admits(state, lower, 90 + 60 * SECOND)


def test_another_window_finds_its_place_in_the_same_log() -> None:
    state = count(None, windows((100, 3600)), *(index * SECOND for index in range(50)))
    assert ALGORITHM.look(state, windows((40, 10), (100, 3600)), 50 * SECOND) == (
        (31, 1 * SECOND),
        (50, 3550 * SECOND),
    )


def test_a_longer_window_no_longer_asked_about_is_let_go_after_its_own_length() -> None:
    hour, second = windows((20_000, 3600)), windows((10, 1))
    state = count(None, hour, *range(20))
    moments = range(2 * SECOND, 3590 * SECOND, SECOND // 4)
    state = count(state, second, *moments)
    # The hour may be asked about again within the hour, so all its moments are still there.
    assert ALGORITHM.look(state, hour, 3590 * SECOND)[0][0] == 20_000 - 20 - len(moments)
    # When it has not been for an hour, the log keeps what the second needs, whatever the ring's size is by now.
    state = count(state, second, *range(3590 * SECOND, 11_000 * SECOND, SECOND // 4))
    assert log(state).horizon == SECOND
    assert ALGORITHM.look(state, second, 11_000 * SECOND)[0][0] == 7


@pytest.mark.parametrize("pause", [1, 5, 9, 100, 4999, 10_000])
def test_a_cursor_passes_any_number_of_moments(pause: int) -> None:
    limits = windows((6000, 5))
    state = count(None, limits, *(index * SECOND // 1000 for index in range(5000)))
    now = 4999 * SECOND // 1000 + pause * SECOND // 1000
    alive = sum(index * SECOND // 1000 + 5 * SECOND > now for index in range(5000))
    assert ALGORITHM.look(state, limits, now)[0][0] == 6000 - alive


def test_a_copy_counts_for_itself() -> None:
    limits = windows((5, 60))
    state = count(None, limits, 1, 2, 3)
    twin = ALGORITHM.copy(state)
    count(twin, limits, 4, 5)
    assert ALGORITHM.look(state, limits, 6)[0][0] == 2
    assert ALGORITHM.look(twin, limits, 6)[0][0] == 0
