"""Building beside a loop: no collections meanwhile, none later, and the old freed piece by piece."""

from __future__ import annotations

import gc
import weakref

import pytest

from gateway.core.garbage import collector_off, for_good, let_go, pieces


class Thing:
    """Something that the collector watches, and that can be watched."""


def test_the_collector_is_off_within_and_as_it_was_after() -> None:
    assert gc.isenabled()
    with collector_off(), collector_off():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ValueError, match="odd"), collector_off():
            raise ValueError("odd")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_built_for_good_is_out_of_the_collectors_sight_and_still_freed() -> None:
    try:
        with for_good():
            thing = Thing()
        assert all(seen is not thing for seen in gc.get_objects())
        watched = weakref.ref(thing)
        del thing
        assert watched() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("value", "depth", "expected"),
    [
        (None, 3, []),
        ("a", 3, ["a"]),
        ({"a": 1, "b": [2, 3]}, 1, [1, [2, 3]]),
        ({"a": 1, "b": [2, {"c": 3}]}, 2, [1, 2, {"c": 3}]),
        ({"a": 1, "b": [2, {"c": 3}]}, 9, [1, 2, 3]),
        ([[], {}], 2, []),
    ],
)
def test_pieces(value: object, depth: int, expected: list[object]) -> None:
    assert list(pieces(value, depth)) == expected


def test_letting_go_frees_every_part() -> None:
    parts: list[object] = [Thing(), Thing()]
    watched = [weakref.ref(part) for part in parts]
    let_go(parts)
    assert [each() for each in watched] == [None, None]
