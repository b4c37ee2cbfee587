"""Collecting a response's body while it is relayed, as far as there is room.

The tap may not hold the response up: what does not fit is let go of, and the response goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from gateway.core.context import Tap


class Ending(Enum):
    """Why a body was not collected: larger than may be stored, no room for it now, or cut short."""

    TOO_LARGE = 0
    NO_ROOM = 1
    CUT = 2


class Collector:
    """A `Tap` that hands the whole body to `complete`, or says with `ended` why there is none; one of them, once.

    `limit` is the largest body in bytes; `collect(bytes)` takes room that all collectors share, or (less than 0)
    gives it back.
    """

    __slots__ = ("_collect", "_complete", "_ended", "_left", "_over", "_pieces", "_size")

    def __init__(
        self,
        limit: int,
        collect: Callable[[int], bool],
        complete: Callable[[bytes], None],
        ended: Callable[[Ending], None],
    ) -> None:
        self._left = limit
        self._collect = collect
        self._complete = complete
        self._ended = ended
        self._pieces: list[bytes] = []
        self._size = 0
        self._over = False

    def write(self, payload: bytes, last: bool) -> None:
        """A piece of the body."""
        if self._over:
            return
        size = len(payload)
        if size:
            if size > self._left:
                self._end(Ending.TOO_LARGE)
                return
            if not self._collect(size):
                self._end(Ending.NO_ROOM)
                return
            self._left -= size
            self._size += size
            self._pieces.append(payload)
        if last:
            body = b"".join(self._pieces)
            self._release()
            self._complete(body)

    def abort(self) -> None:
        """The body will never be complete."""
        if not self._over:
            self._end(Ending.CUT)

    def _end(self, how: Ending) -> None:
        self._release()
        self._ended(how)

    def _release(self) -> None:
        self._over = True
        self._pieces.clear()
        self._collect(-self._size)


class Both:
    """Two taps that see the same body."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Tap, second: Tap) -> None:
        self._first = first
        self._second = second

    def write(self, payload: bytes, last: bool) -> None:
        """A piece of the body, to either."""
        self._first.write(payload, last)
        self._second.write(payload, last)

    def abort(self) -> None:
        """The end, to either."""
        self._first.abort()
        self._second.abort()
