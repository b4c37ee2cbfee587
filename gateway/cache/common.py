"""What both caches of responses share: when resources were dropped, room for what is coming, and counts.

Plain arithmetic, bounded whatever clients ask for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

#: Resources that share a number do not notice it, but for a response that is not stored now and then.
_SLOTS: Final = 4096


class Common(ABC):
    """The parts of `ResponseCache` that need no storage; `largest` is the largest value, `room` what may be collected
    at once, both in bytes."""

    def __init__(self, largest: int, room: int) -> None:
        self.largest: Final = largest
        #: Answers by route and result, for `postern_cache_total`.
        self.tally: Final[dict[tuple[str, str], float]] = {}
        #: Told of each resource that is dropped here: other processes may have stored it, too.
        self.on_drop: Callable[[str], None] | None = None
        self._room = room
        self._dropped = [0] * _SLOTS

    def moment(self, resource: str) -> int:
        """A number that changes whenever something of this resource is dropped."""
        return self._dropped[hash(resource) % _SLOTS]

    def collect(self, size: int) -> bool:
        """Take room for so many bytes, or (less than 0) give it back; False if there is none left."""
        if size > self._room:
            return False
        self._room -= size
        return True

    def count(self, route: str, result: str) -> None:
        """Count one answer."""
        key = route, result
        self.tally[key] = self.tally.get(key, 0) + 1

    def drop(self, resource: str) -> None:
        """Forget all that is stored of a resource, here at once and in the other processes as soon as they are told."""
        self.forget(resource)
        if self.on_drop is not None:
            self.on_drop(resource)

    @abstractmethod
    def forget(self, resource: str) -> None:
        """Forget all that is stored of a resource, and tell no other process."""

    def _note_drop(self, resource: str) -> None:
        self._dropped[hash(resource) % _SLOTS] += 1
