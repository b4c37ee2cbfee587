"""Building large things beside a loop that must not be held up: the collector kept off, the old let go in small pieces.

Two things of Python's stop every thread for as long as they take: a collection, which walks through all that lives,
and the freeing of a large structure, which is one call.  Building makes many objects and no garbage.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """No collections until the end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def for_good() -> Iterator[None]:
    """What is built here is to live long: no collections, and none ever looks at it again.

    It is still freed when nobody refers to it; only a cycle in it never would be.
    """
    with collector_off():
        yield
        gc.freeze()


def pieces(value: object, depth: int) -> Iterator[object]:
    """What lies `depth` levels deep in nested lists and mappings, and everything above that is neither."""
    below: Iterable[object] = ()
    if isinstance(value, dict):
        below = value.values()
    elif isinstance(value, list | tuple):
        below = value
    elif value is not None:
        yield value
    for inner in below:
        if depth > 1:
            yield from pieces(inner, depth - 1)
        else:
            yield inner


def let_go(parts: list[object]) -> None:
    """Free the parts one by one, so that other threads come in between; the caller holds nothing else of them."""
    while parts:
        parts.pop()
