"""Consistent hashing: who owns a key, and how little moves when owners come and go."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.ring import Ring, position

KEYS = [f"consumer-{number}" for number in range(5000)]


def owners(ring: Ring, names: list[str]) -> dict[str, str]:
    return {key: names[ring.first(key, [True] * len(names))] for key in KEYS}


def test_places_are_the_same_in_every_process() -> None:
    assert position("mobile_app") == 0x40EDD4CA34528F3D


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_removing_one_moves_only_its_own_keys(count: int) -> None:
    names = [f"http://lms-{number}:9000" for number in range(count)]
    before = owners(Ring([(name, 1) for name in names]), names)
    for gone in names:
        left = [name for name in names if name != gone]
        after = owners(Ring([(name, 1) for name in left]), left)
        moved = {key for key in KEYS if before[key] != after[key]}
        assert moved == {key for key in KEYS if before[key] == gone}
        assert len(moved) == pytest.approx(len(KEYS) / count, rel=0.4)


def test_passing_one_over_is_as_good_as_removing_it() -> None:
    names = ["a", "b", "c", "d"]
    whole = Ring([(name, 1) for name in names])
    rest = Ring([(name, 1) for name in names if name != "b"])
    for key in KEYS:
        assert names[whole.first(key, [True, False, True, True])] == ["a", "c", "d"][rest.first(key, [True] * 3)]


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 5), (10, 10, 1)])
def test_keys_are_shared_by_weight(weights: tuple[int, ...]) -> None:
    names = [f"target {number}" for number in range(len(weights))]
    counts = Counter(owners(Ring(list(zip(names, weights, strict=True))), names).values())
    for name, weight in zip(names, weights, strict=True):
        assert counts[name] / len(KEYS) == pytest.approx(weight / sum(weights), abs=0.08)


@given(st.permutations(["a", "b", "c", "d", "e"]), st.text(max_size=20))
def test_the_order_of_the_list_makes_no_difference(names: list[str], key: str) -> None:
    ordered = sorted(names)
    one, other = Ring([(name, 1) for name in names]), Ring([(name, 1) for name in ordered])
    assert names[one.first(key, [True] * 5)] == ordered[other.first(key, [True] * 5)]


@given(st.lists(st.booleans(), max_size=6), st.text())
def test_only_who_is_eligible_is_given(eligible: list[bool], key: str) -> None:
    found = Ring([(str(number), number + 1) for number in range(len(eligible))]).first(key, eligible)
    assert eligible[found] if any(eligible) else found == -1
