"""`proxy/retries.py`: never more than a fifth of the requests in a window, however they fail."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.retries import HALF, ONE_IN, RESERVE, RetryBudget


@given(st.lists(st.tuples(st.integers(0, HALF), st.integers(0, 60), st.integers(0, 60)), max_size=40))
def test_a_fifth_of_the_window_or_the_reserve(steps: list[tuple[int, int, int]]) -> None:
    """Steps of `(time that passes, requests, failures that want a retry)`; each window holds to the budget."""
    budget, now = RetryBudget(), 0
    windows: list[tuple[int, int]] = [(0, 0)]  # (requests, retries) by half a window
    starts = 0
    for passed, asked, wanted in steps:
        now += passed
        budget.move(now)
        if now >= starts:
            if now >= starts + HALF:
                windows.append((0, 0))
            windows.append((0, 0))
            starts = now + HALF
        budget.asked += asked
        spent = sum(budget.spend() for _ in range(wanted))
        windows[-1] = (windows[-1][0] + asked, windows[-1][1] + spent)
        requests = sum(window[0] for window in windows[-2:])
        if spent:
            assert sum(window[1] for window in windows[-2:]) <= max(RESERVE, requests // ONE_IN)


def test_what_was_long_ago_counts_no_more() -> None:
    budget = RetryBudget()
    budget.move(1)
    budget.asked += 100
    assert sum(budget.spend() for _ in range(100)) == 20
    budget.move(1 + 3 * HALF)
    assert sum(budget.spend() for _ in range(100)) == RESERVE


def test_what_was_spent_before_the_first_look_counts() -> None:
    budget = RetryBudget()
    budget.asked += 100
    assert sum(budget.spend() for _ in range(100)) == 20
    budget.move(100 * HALF)
    assert not budget.spend()
