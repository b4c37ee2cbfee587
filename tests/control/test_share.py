"""The shares of a limit: together the limit, each at least one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.share import WHOLE, Share, share


@pytest.mark.parametrize(
    ("total", "slots", "shares"),
    [
        (10_000, 1, [10_000]),
        (10_000, 4, [2500] * 4),
        (10, 4, [3, 3, 2, 2]),
        (4, 4, [1, 1, 1, 1]),
        # None may be without: then the limit is exceeded, by as little as can be.
        (3, 4, [1, 1, 1, 1]),
        # No limit.
        (0, 3, [0, 0, 0]),
    ],
)
def test_shares(total: int, slots: int, shares: list[int]) -> None:
    assert [share(total, slot, slots) for slot in range(slots)] == shares
    assert [Share(slot, slots).of(total) for slot in range(slots)] == shares


@given(st.integers(1, 1 << 40), st.integers(1, 256))
def test_together_they_are_the_limit_and_differ_by_one(total: int, slots: int) -> None:
    shares = [share(total, slot, slots) for slot in range(slots)]
    assert sum(shares) == max(total, slots)
    assert min(shares) >= 1
    assert max(shares) - min(shares) <= 1


def test_who_is_alone_has_it_all() -> None:
    assert WHOLE.of(17) == 17
