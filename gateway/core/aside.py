"""Work in a thread beside a loop that must not be held up: the thread gives the interpreter back often."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final, TypeVar

_T = TypeVar("_T")

#: How often the thread gives the interpreter back, in seconds (the default, 5 ms, stalls the loop).
_SWITCH_INTERVAL: Final = 0.0002


class _Aside:
    """How many threads are at it, and the interval that holds when there are none."""

    def __init__(self) -> None:
        self._running = 0
        self._interval = sys.getswitchinterval()

    def begin(self) -> None:
        if not self._running:
            self._interval = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_INTERVAL)
        self._running += 1

    def end(self) -> None:
        self._running -= 1
        if not self._running:
            sys.setswitchinterval(self._interval)


_aside = _Aside()


async def aside(work: Callable[..., _T], *arguments: object) -> _T:
    """The result of `work(*arguments)`, done in a thread; raises what that raises."""
    _aside.begin()
    try:
        return await asyncio.to_thread(work, *arguments)
    finally:
        _aside.end()
