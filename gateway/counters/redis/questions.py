"""What is asked of Redis, as bytes that are made once: demands in, an EVALSHA out, and its answer read as states.

Keys are `postern:`, the algorithm's letter, and the demand's own key, whose subject stands in braces: in a cluster all
that counts by one identity lies in one slot, and is decided by one script.  Nothing here waits or fails.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, Final

from gateway.core.ports import Demand, WindowState
from gateway.counters.redis.scripts import UNDO, Script, take_for
from gateway.counters.redis.wire import packed

PREFIX: Final = "postern:"
SLOTS: Final = 16_384
#: Nanoseconds of a microsecond, in which Redis counts.
_MICROSECOND: Final = 1000
#: Sets of demands whose questions are remembered.
_REMEMBERED: Final = 8_192


def key_of(demand: Demand, prefix: str = PREFIX) -> bytes:
    """The key under which Redis keeps what `demand` counts."""
    rest, subject = demand.key, demand.subject
    if subject and rest.endswith(subject):
        rest = f"{rest[: -len(subject)]}{{{subject}}}"
    return f"{prefix}{demand.algorithm[0]}:{rest}".encode()


def slot_of(key: bytes) -> int:
    """The slot of a cluster in which `key` lies: of what stands in its first braces, or of all of it."""
    opened = key.find(b"{")
    if opened >= 0:
        closed = key.find(b"}", opened + 1)
        if closed > opened + 1:
            key = key[opened + 1 : closed]
    return crc_hqx(key, 0) % SLOTS


class Question:
    """One request's demands on what lies together: `request` counts them by Redis' own time.

    `places` says of each state in the answer which place it has among all states of the request.
    """

    __slots__ = ("_arguments", "_keys", "_take", "places", "request", "slot")

    def __init__(self, demands: Sequence[Demand], places: tuple[int, ...], prefix: str) -> None:
        keys = [key_of(demand, prefix) for demand in demands]
        self._take: Script = take_for({demand.algorithm[0] for demand in demands})
        arguments: list[bytes] = []
        for demand in demands:
            arguments.append(demand.algorithm[0].encode())
            arguments.append(b"%d" % len(demand.rates))
            for rate in demand.rates:
                arguments.append(b"%d" % rate.limit)
                arguments.append(b"%d" % rate.seconds)
        self._keys = (b"%d" % len(keys), *keys)
        self._arguments = tuple(arguments)
        self.places = places
        self.slot = slot_of(keys[0])
        self.request = self.at(b"")

    def at(self, clock: bytes) -> bytes:
        """The request by a clock that a test hands in (microseconds, as digits)."""
        return packed((b"EVALSHA", self._take.digest, *self._keys, clock, b"", *self._arguments))

    def undo(self, moment: int, clock: bytes) -> bytes:
        """What takes back the request that was counted at `moment`, by the answer to it."""
        return packed((b"EVALSHA", UNDO.digest, *self._keys, clock, b"%d" % moment, *self._arguments))


class Questions:
    """The questions of each set of demands, made when they are first asked; `scattered`: one for each slot."""

    def __init__(self, scattered: bool = False, prefix: str = PREFIX) -> None:
        self._scattered = scattered
        self._prefix = prefix
        self._known: dict[int, tuple[Sequence[Demand], list[Question]]] = {}

    def of(self, demands: Sequence[Demand]) -> list[Question]:
        """What to ask.  An object that is handed in again (a tuple) is not looked at again."""
        known = self._known.get(id(demands))
        if known is not None:
            return known[1]
        questions = self._make(demands)
        if type(demands) is tuple:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            # Keeping the object keeps its id from being reused.
            self._known[id(demands)] = (demands, questions)
        return questions

    def _make(self, demands: Sequence[Demand]) -> list[Question]:
        together: dict[int, list[Demand]] = {}
        places: dict[int, list[int]] = {}
        place = 0
        for demand in demands:
            slot = slot_of(key_of(demand, self._prefix)) if self._scattered else 0
            together.setdefault(slot, []).append(demand)
            places.setdefault(slot, []).extend(range(place, place + len(demand.rates)))
            place += len(demand.rates)
        return [Question(some, tuple(places[slot]), self._prefix) for slot, some in together.items()]


def states_of(reply: list[Any]) -> list[WindowState]:
    """The states in an answer of take.lua or undo.lua: pairs after the verdict and the moment."""
    states: list[WindowState] = []
    for index in range(2, len(reply), 2):
        left: int = reply[index]
        reset: int = reply[index + 1]
        states.append((left, reset * _MICROSECOND))
    return states
