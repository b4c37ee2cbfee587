"""The router: which route a request belongs to (contract §2, Paths).  Pure, and compiled once a snapshot.

Every (route, kind of host, path) is a candidate with a rank of its own (`candidate.Order`); a match is the
candidate of least rank whose host, path, method and headers hold.  Candidates are filed by host, and under
each host in a tree of segments (`tree`), whose places tell methods and headers apart (`level`).

Law: the cost of a match does not grow with the number of routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from gateway.core.path import DEFAULT, PathRules
from gateway.routing.candidate import Candidate, HostKind, Match, Order, order
from gateway.routing.explain import Compiled, Explanation, explain
from gateway.routing.pattern import ANY_PATH, Pattern, PatternError, parse
from gateway.routing.spec import RouteError, RouteSpec, check_methods, kinds, parse_headers, parse_hosts
from gateway.routing.tree import Tree

__all__ = ["Explanation", "Match", "RouteError", "RouteSpec", "Router"]

T = TypeVar("T")


class Router(Generic[T]):
    """A compiled set of routes; immutable, and safe to share between threads."""

    __slots__ = ("_any_host", "_compiled", "_exact", "_longest_suffix", "_names_hosts", "_suffixes")

    def __init__(self, specs: Sequence[RouteSpec[T]], rules: PathRules = DEFAULT) -> None:
        """Compile routes, given in the order of the file; RouteError names the route and what is wrong.

        `rules` are those that requests' paths are made canonical by.
        """
        anywhere: list[Candidate[T]] = []
        exact: dict[str, list[Candidate[T]]] = {}
        suffixes: dict[str, list[Candidate[T]]] = {}
        candidates: list[Candidate[T]] = []
        self._compiled: list[Compiled[T]] = []
        expressions: dict[str, Pattern] = {}
        for number, spec in enumerate(specs):
            methods, headers, count = check_methods(spec), parse_headers(spec), kinds(spec)
            names, wildcards = parse_hosts(spec) if spec.hosts else ((), ())
            for place, pattern in enumerate(_patterns(spec, rules, expressions)):
                made: list[Candidate[T]] = []
                for kind, given in (
                    (HostKind.EXACT, names),
                    (HostKind.WILDCARD, wildcards),
                    (HostKind.ANY, () if spec.hosts else ("",)),
                ):
                    if given:
                        ranked = order(count, kind, pattern, spec.regex_priority, number, place)
                        candidate = Candidate(ranked, spec.target, pattern, methods, headers)
                        made.append(candidate)
                        if kind is HostKind.ANY:
                            anywhere.append(candidate)
                            continue
                        filed = exact if kind is HostKind.EXACT else suffixes
                        for name in given:
                            filed.setdefault(name, []).append(candidate)
                candidates += made
                self._compiled.append(Compiled(spec, pattern, tuple(made), tuple(names), tuple(wildcards)))
        candidates.sort(key=_by_order)
        for rank, candidate in enumerate(candidates):
            candidate.rank = rank
        self._any_host = _tree(anywhere)
        self._exact = {name: _tree(filed) for name, filed in exact.items()}
        self._suffixes = {suffix: _tree(filed) for suffix, filed in suffixes.items()}
        self._longest_suffix = max(map(len, suffixes), default=0)
        self._names_hosts = bool(exact or suffixes)

    def match(self, method: str, host: str, path: str, index: Mapping[bytes, bytes]) -> Match[T] | None:
        """The route of a request, or None.

        `method` as sent; `host` in lower case without the port, "" where there is none; `path` canonical
        (`gateway.core.path`); `index` maps lower-case header names to values, several fields of one name
        joined with ", ".
        """
        if self._names_hosts:
            candidate = self._find_by_host(method, host, path, index)
        else:
            candidate = self._any_host.find(method, path, index, None)
        if candidate is None:
            return None
        return candidate.match or candidate.resolve(path)

    def _find_by_host(self, method: str, host: str, path: str, index: Mapping[bytes, bytes]) -> Candidate[T] | None:
        # A root-anchored name is the same name.
        host = host.removesuffix(".")
        found: Candidate[T] | None = None
        tree = self._exact.get(host)
        if tree is not None:
            found = tree.find(method, path, index, None)
        suffixes = self._suffixes
        if suffixes:
            # A wildcard stands for at least one character; no suffix longer than the longest is looked up.
            dot = host.find(".", max(1, len(host) - self._longest_suffix))
            while dot >= 0:
                tree = suffixes.get(host[dot:])
                if tree is not None:
                    found = tree.find(method, path, index, found)
                dot = host.find(".", dot + 1)
        return self._any_host.find(method, path, index, found)

    def explain(self, method: str, host: str, path: str, index: Mapping[bytes, bytes]) -> list[Explanation]:
        """What became of every path of every route for a request, in the order of precedence: the first that
        matched is the winner, and each of the others says why it lost.  Not for the hot path."""
        return explain(self._compiled, method, host.removesuffix("."), path, index)


def _by_order(candidate: Candidate[T]) -> Order:
    return candidate.order


def _tree(candidates: list[Candidate[T]]) -> Tree[T]:
    if len(candidates) > 1:
        candidates.sort(key=lambda candidate: candidate.rank)
    return Tree(candidates)


def _patterns(spec: RouteSpec[T], rules: PathRules, expressions: dict[str, Pattern]) -> list[Pattern]:
    """The paths of a route; an expression that several routes share is compiled once."""
    if not spec.paths:
        return [ANY_PATH]
    patterns: list[Pattern] = []
    for text in spec.paths:
        try:
            pattern = expressions.get(text) or parse(text, rules)
        except PatternError as error:
            raise RouteError(f"route {spec.name}: path {text!r}: {error}") from None
        if pattern.expression is not None:
            expressions[text] = pattern
        patterns.append(pattern)
    return patterns
