"""One path of one route under one kind of host: the unit that is ranked, and what choosing it gives.

Law: every candidate has a rank of its own, fixed when the configuration is compiled, so that "which route
wins" is always "which matching candidate has the least rank".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

from gateway.routing.pattern import Form, Pattern
from gateway.routing.spec import HeaderConditions

T = TypeVar("T")


class HostKind(IntEnum):
    """How a candidate's host is compared; the numbers are the order of precedence."""

    EXACT = 0
    WILDCARD = 1
    ANY = 2


class Match(NamedTuple, Generic[T]):
    """A route that matched: its `target`, how many characters of the path its own path took (what
    `strip_path` removes), and the named parts of the path in their canonical spelling, None for none."""

    target: T
    matched: int
    captures: dict[str, str] | None


class Order(NamedTuple):
    """The contract's order of precedence: the lesser tuple wins.

    `kinds` and `priority` are negative counts, `depth` the negative number of whole segments (1 for a route
    without paths), `captured` holds 0 for a literal and 1 for a captured segment, left to right, and `tail`
    is the negative length of what follows them.
    """

    kinds: int
    host: int
    form: int
    priority: int
    depth: int
    captured: tuple[int, ...]
    tail: int
    route: int
    path: int


def order(kinds: int, host: HostKind, pattern: Pattern, regex_priority: int, route: int, path: int) -> Order:
    """The place of a candidate in the order; `route` and `path` count from the top of the file."""
    segments = pattern.segments
    return Order(
        -kinds,
        host,
        pattern.form,
        -regex_priority if pattern.form is Form.EXPRESSION else 0,
        -len(segments) if pattern.text else 1,
        tuple([1 if segment is None else 0 for segment in segments]) if pattern.names else (0,) * len(segments),
        1 if pattern.tail is None else -len(pattern.tail),
        route,
        path,
    )


class Candidate(Generic[T]):
    """A candidate: `rank` among all of them, `methods` (empty: any), `headers`, and the ready-made `match`
    where it is the same for every path."""

    __slots__ = ("headers", "match", "methods", "order", "pattern", "rank", "target")

    def __init__(
        self, order: Order, target: T, pattern: Pattern, methods: frozenset[str], headers: HeaderConditions
    ) -> None:
        self.order = order
        self.rank = 0
        self.target = target
        self.pattern = pattern
        self.methods = methods
        self.headers = headers
        varies = pattern.form is Form.EXPRESSION or bool(pattern.names)
        self.match: Match[T] | None = None if varies else Match(target, pattern.length, None)

    def resolve(self, path: str) -> Match[T]:
        """The match for a path that this candidate was chosen for."""
        matched, captures = self.pattern.measure(path)
        return Match(self.target, matched, captures)

    def accepts_headers(self, index: Mapping[bytes, bytes]) -> bool:
        """Whether every header condition holds."""
        for name, values in self.headers:
            value = index.get(name)
            if value is None or value.lower() not in values:
                return False
        return True
