"""How an input is made of a seed: a few edits, each a plain value, so that a test can shrink them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

#: What edits put in besides a target's own words: the octets that grammars turn on.
OCTETS = tuple(bytes([octet]) for octet in b'\x00\x01\t\n\r\x1f "#%&()*+,-./0:;<=>?@[\\]^_`a{|}~\x7f\x80\xc3\xff')


@dataclass(frozen=True)
class Edit:
    """At `at` (millionths of the input's length) `drop` bytes give way to `put`, or with `twice` stand there twice."""

    at: int
    drop: int = 0
    put: bytes = b""
    twice: bool = False

    def apply(self, data: bytes) -> bytes:
        """The input after this edit."""
        at = self.at * (len(data) + 1) // 1_000_001
        if self.twice:
            return data[:at] + data[at : at + max(1, self.drop)] + data[at:]
        return data[:at] + self.put + data[at + self.drop :]


def edited(seed: bytes, edits: Sequence[Edit]) -> bytes:
    """The seed after all edits."""
    for edit in edits:
        seed = edit.apply(seed)
    return seed


def mutated(chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A seed with one to six random edits, sometimes with the end of another seed."""
    data = chance.choice(seeds)
    if chance.random() < 0.1:
        other = chance.choice(seeds)
        data = data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]
    edits = []
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 6))):
        kind = chance.randrange(5)
        put = chance.choice(words or OCTETS) if kind < 2 else chance.choice(OCTETS) if kind < 4 else chance.randbytes(3)
        drop = chance.choice((0, 0, 1, 1, 2, 5, len(put)))
        edits.append(Edit(chance.randrange(1_000_001), drop, put, twice=chance.random() < 0.1))
    return edited(data, edits)
