"""The candidates that stand in one place, arranged so that method and headers find the best of them at once.

Places nest (what matches `/a/b/c` also matches `/a/b` and `/`), so a level knows the next one out and the
least rank that can be found beyond it: a search stops where nothing better can follow.

Law: the time to choose does not grow with the number of routes that stand in one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Generic, TypeVar

from gateway.routing.candidate import Candidate

T = TypeVar("T")

#: Worse than every rank.
WORST: Final = 1 << 62


class Level(Generic[T]):
    """One place.  `methods.get(method, otherwise)` is the best candidate of those without header conditions;
    `headed` holds the others.  `best` is the least rank here, `outer` the next place out, `beyond` the least
    rank in `outer` and further out."""

    __slots__ = ("best", "beyond", "headed", "methods", "otherwise", "outer")

    def __init__(self, candidates: Iterable[Candidate[T]], outer: Level[T] | None) -> None:
        """Arrange `candidates`, which come in the order of their ranks; there is at least one."""
        methods: dict[str, Candidate[T]] = {}
        otherwise: Candidate[T] | None = None
        headed: list[Candidate[T]] = []
        best = WORST
        for candidate in candidates:
            best = min(best, candidate.rank)
            if candidate.headers:
                headed.append(candidate)
            elif candidate.methods:
                for method in candidate.methods:
                    methods.setdefault(method, candidate)
            else:
                # It takes whatever comes here: nothing after it can win.
                otherwise = candidate
                break
        self.methods = methods
        self.otherwise = otherwise
        self.headed = _Headed(headed) if headed else None
        self.best: int = best
        self.outer = outer
        self.beyond: int = WORST if outer is None else min(outer.best, outer.beyond)

    def choose(self, method: str, index: Mapping[bytes, bytes], known: Candidate[T] | None) -> Candidate[T] | None:
        """The best candidate here and further out for a request that reached this place, or `known` if better."""
        level: Level[T] | None = self
        best = WORST if known is None else known.rank
        while level is not None:
            if level.best < best:
                candidate = level.methods.get(method, level.otherwise)
                if candidate is not None and candidate.rank < best:
                    known, best = candidate, candidate.rank
                if level.headed is not None:
                    candidate = level.headed.choose(method, index, best)
                    if candidate is not None:
                        known, best = candidate, candidate.rank
            if level.beyond >= best:
                return known
            level = level.outer
        return known


class _Headed(Generic[T]):
    """Candidates with header conditions, found by the method and by the value of one header of each."""

    __slots__ = ("any_method", "methods")

    def __init__(self, candidates: list[Candidate[T]]) -> None:
        by_method: dict[str, list[Candidate[T]]] = {}
        any_method: list[Candidate[T]] = []
        for candidate in candidates:
            for method in candidate.methods:
                by_method.setdefault(method, []).append(candidate)
            if not candidate.methods:
                any_method.append(candidate)
        self.methods = {method: _ByValue(group) for method, group in by_method.items()}
        self.any_method = _ByValue(any_method) if any_method else None

    def choose(self, method: str, index: Mapping[bytes, bytes], best: int) -> Candidate[T] | None:
        found: Candidate[T] | None = None
        for group in (self.methods.get(method), self.any_method):
            if group is not None:
                candidate = group.choose(index, best)
                if candidate is not None:
                    found, best = candidate, candidate.rank
        return found


class _ByValue(Generic[T]):
    """Candidates filed under the header, of those that they ask for, whose values they share with the fewest."""

    __slots__ = ("names",)

    def __init__(self, candidates: list[Candidate[T]]) -> None:
        shared: Counter[tuple[bytes, bytes]] = Counter(
            (name, value) for candidate in candidates for name, values in candidate.headers for value in values
        )
        self.names: dict[bytes, dict[bytes, list[Candidate[T]]]] = {}
        for candidate in candidates:
            name, values = min(
                candidate.headers, key=lambda condition: max(shared[condition[0], value] for value in condition[1])
            )
            file = self.names.setdefault(name, {})
            for value in values:
                file.setdefault(value, []).append(candidate)

    def choose(self, index: Mapping[bytes, bytes], best: int) -> Candidate[T] | None:
        names = self.names
        found: Candidate[T] | None = None
        for name in names if len(names) <= len(index) else index:
            if name not in names or name not in index:
                continue
            for candidate in names[name].get(index[name].lower(), ()):
                if candidate.rank >= best:
                    break
                if candidate.accepts_headers(index):
                    found, best = candidate, candidate.rank
                    break
        return found
