"""Many regular expressions tried in one pass over the path (RE2's sets), then captured by the winner alone.

Law: linear time in the length of the path, whatever the expressions; and a set that could not answer is
never taken for "nothing matched", which would let a request slip to a lesser route.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import re2

from gateway.routing.candidate import Candidate
from gateway.routing.level import Level

T = TypeVar("T")


class Expressions(Generic[T]):
    """The candidates of one kind of host whose paths are regular expressions; `best` is their least rank."""

    __slots__ = ("_levels", "_sets", "best")

    def __init__(self, candidates: Sequence[Candidate[T]]) -> None:
        """Compile candidates that come in the order of their ranks; there is at least one."""
        by_source: dict[bytes, list[Candidate[T]]] = {}
        for candidate in candidates:
            by_source.setdefault(candidate.pattern.source, []).append(candidate)
        # The first of each group has its least rank, so the groups stand in the order of those.
        self._levels = [Level(group, None) for group in by_source.values()]
        self._sets = _compile([group[0].pattern.expression for group in by_source.values()], list(by_source))
        self.best = candidates[0].rank

    def choose(
        self, method: str, path: str, index: Mapping[bytes, bytes], known: Candidate[T] | None
    ) -> Candidate[T] | None:
        """The best candidate for a canonical path, or `known` if better."""
        text = path.encode("ascii")
        hits: list[int] = []
        offset = 0
        for each in self._sets:
            hits.extend(offset + hit for hit in each.match(text))
            offset += each.size
        levels = self._levels
        for hit in sorted(hits):
            level = levels[hit]
            if known is not None and level.best >= known.rank:
                break
            known = level.choose(method, index, known)
        return known


class _Set:
    """One RE2 set over `expressions`, which are also kept one by one."""

    __slots__ = ("_expressions", "_set", "size")

    def __init__(self, expressions: Sequence[Any], sources: Sequence[bytes]) -> None:
        """Raises re2.error when the set would not fit RE2's memory limit."""
        options = re2.Options()
        options.log_errors = False
        self._set = re2.Set.MatchSet(options)
        # Matches always: an answer without it means that the set ran out of memory.
        self._set.Add(b"")
        for source in sources:
            self._set.Add(source)
        self._set.Compile()
        self._expressions = expressions
        self.size = len(sources)

    def match(self, text: bytes) -> list[int]:
        """Which expressions match at the beginning of `text`, in no order."""
        hits = self._set.Match(text)
        if hits is None or 0 not in hits:
            return [number for number, each in enumerate(self._expressions) if each.match(text) is not None]
        return [hit - 1 for hit in hits if hit]


class _Single:
    """One expression whose set does not fit by itself."""

    __slots__ = ("_expression", "size")

    def __init__(self, expression: Any) -> None:  # re2 has no type stubs
        self._expression = expression
        self.size = 1

    def match(self, text: bytes) -> list[int]:
        """[0] when the expression matches at the beginning of `text`."""
        return [] if self._expression.match(text) is None else [0]


def _compile(expressions: Sequence[Any], sources: Sequence[bytes]) -> list[_Set | _Single]:
    """As few sets as fit RE2's memory limit."""
    if len(sources) == 1:
        return [_Single(expressions[0])]
    try:
        return [_Set(expressions, sources)]
    except re2.error:
        half = len(sources) // 2
        return _compile(expressions[:half], sources[:half]) + _compile(expressions[half:], sources[half:])
