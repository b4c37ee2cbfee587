"""Consistent hashing: a ring of points, several an owner, and the owners in the order in which a key meets them.

Karger et al., "Consistent hashing and random trees" (STOC 1997).  A key belongs to the owner of the first point at
or after its own hash; when an owner goes, only its own keys move, each to the next owner on the ring.  Hashes are
BLAKE2b and the same in every process, so that several gateways agree.  Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b
from typing import Final

#: Points of the heaviest owner; a lighter one has fewer in proportion, and at least one.
POINTS: Final = 160
_DIGEST: Final = 64
_WORD: Final = 8


def position(key: str) -> int:
    """Where a key lies on the ring: 64 bits."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_WORD).digest(), "big")


class Ring:
    """`owners` are `(name, weight)`; owners are told by their index.  Weights are relative to the heaviest."""

    __slots__ = ("_owners", "_positions")

    def __init__(self, owners: list[tuple[str, int]]) -> None:
        heaviest = max((weight for _, weight in owners), default=1)
        points: list[tuple[int, str, int]] = []
        for index, (name, weight) in enumerate(owners):
            count = max(1, round(POINTS * weight / heaviest))
            points += [(point, name, index) for point in _points(name, count)]
        # Two owners at one point: the same one wins in every process, whatever the order of the list.
        points.sort()
        self._positions = [point for point, _, _ in points]
        self._owners = [index for _, _, index in points]

    def first(self, key: str, eligible: list[bool]) -> int:
        """The first owner that is eligible (by index), going on from the key's place; -1 where none is."""
        owners = self._owners
        size = len(owners)
        at = bisect_left(self._positions, position(key))
        for step in range(size):
            index = owners[(at + step) % size]
            if eligible[index]:
                return index
        return -1


def _points(name: str, count: int) -> list[int]:
    """`count` points of an owner; a larger count adds to those of a smaller one."""
    found: list[int] = []
    block = 0
    while len(found) < count:
        digest = blake2b(f"{block}|{name}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
        found += [int.from_bytes(digest[at : at + _WORD], "big") for at in range(0, _DIGEST, _WORD)]
        block += 1
    return found[:count]
