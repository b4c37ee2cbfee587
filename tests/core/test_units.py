"""Durations and sizes: what they mean, and that nothing overflows."""

from __future__ import annotations

import pytest

from gateway.core.units import MAX_DURATION, MAX_SIZE, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("500ms", 0.5), ("5s", 5), ("1.5h", 5400), ("90d", 7_776_000), ("36500d", MAX_DURATION)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4096", 4096), ("64KiB", 65536), ("1MB", 10**6), ("4194304TiB", MAX_SIZE)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "s", "-5s", "5", "5 years", "36501d", "9" * 400 + "ms"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "KiB", "-5", "5 pages", "4194305TiB", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)
