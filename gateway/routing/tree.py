"""The paths of one kind of host as a tree of segments, and the walk that finds the best candidate in it.

A walk goes down as far as the request's segments lead.  What matches further up was decided when the tree
was compiled: each node knows the chain of levels that stand for it and everything above (`Level.outer`).
Only a prefix that ends inside a segment (`/a/b*`) and a captured segment need a look on the way.

Law: a walk costs by the request's segments and by the depth of the tree, never by the number of routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from gateway.routing.candidate import Candidate
from gateway.routing.expressions import Expressions
from gateway.routing.level import Level
from gateway.routing.pattern import Form

T = TypeVar("T")


class _Draft(Generic[T]):
    """A node while the tree is being filled: its candidates by how the path may go on, and its children."""

    __slots__ = ("captured", "children", "exact", "here", "tails")

    def __init__(self) -> None:
        self.children: dict[str, _Draft[T]] = {}
        self.captured: _Draft[T] | None = None
        self.exact: list[Candidate[T]] = []
        self.here: list[Candidate[T]] = []
        self.tails: dict[str, list[Candidate[T]]] = {}

    def add(self, candidate: Candidate[T]) -> None:
        """File a candidate under its segments, from this node on."""
        node = self
        pattern = candidate.pattern
        for segment in pattern.segments:
            child = node.captured if segment is None else node.children.get(segment)
            if child is None:
                child = _Draft()
                if segment is None:
                    node.captured = child
                else:
                    node.children[segment] = child
            node = child
        if pattern.form is Form.EXACT:
            node.exact.append(candidate)
        elif pattern.tail is None:
            node.here.append(candidate)
        else:
            node.tails.setdefault(pattern.tail, []).append(candidate)


_NO_CHILDREN: dict[str, Any] = {}


class _Node(Generic[T]):
    """A node: `end` is what holds when the path ends here, `more` when it goes on where no child leads;
    `tails` are the prefixes that end inside the next segment, by their length."""

    __slots__ = ("captured", "children", "end", "more", "tails")

    def __init__(self, draft: _Draft[T], outer: Level[T] | None) -> None:
        # Leaves share one empty mapping: one place less in memory to look at.
        self.children: dict[str, _Node[T]] = {} if draft.children else _NO_CHILDREN
        self.captured: _Node[T] | None = None
        self.end = self.more = Level(draft.here, outer) if draft.here else outer
        if draft.exact:
            self.end = Level(_merge(draft.exact, draft.here), outer)
        tails = draft.tails
        if "" in tails:
            self.more = Level(_merge(tails.pop(""), draft.here), outer)
        by_length: dict[int, dict[str, Level[T]]] = {}
        for tail, candidates in tails.items():
            by_length.setdefault(len(tail), {})[tail] = Level(candidates, None)
        self.tails = sorted(by_length.items()) if by_length else None


def _merge(left: list[Candidate[T]], right: list[Candidate[T]]) -> list[Candidate[T]]:
    return sorted(left + right, key=lambda candidate: candidate.rank) if right else left


class Tree(Generic[T]):
    """The candidates of one kind of host."""

    __slots__ = ("_branches", "_depth", "_expressions", "_root")

    def __init__(self, candidates: Sequence[Candidate[T]]) -> None:
        """Compile candidates that come in the order of their ranks."""
        root: _Draft[T] = _Draft()
        expressions: list[Candidate[T]] = []
        self._depth = 0
        self._branches = False
        for candidate in candidates:
            pattern = candidate.pattern
            if pattern.form is Form.EXPRESSION:
                expressions.append(candidate)
            else:
                root.add(candidate)
                self._depth = max(self._depth, len(pattern.segments))
                self._branches = self._branches or bool(pattern.names)
        self._expressions = Expressions(expressions) if expressions else None
        self._root = _Node(root, None)
        pending = [(root, self._root)]
        while pending:
            draft, node = pending.pop()
            for segment, child_draft in draft.children.items():
                child = node.children[segment] = _Node(child_draft, node.more)
                if child_draft.children or child_draft.captured is not None:
                    pending.append((child_draft, child))
            if draft.captured is not None:
                node.captured = _Node(draft.captured, node.more)
                pending.append((draft.captured, node.captured))

    def find(
        self, method: str, path: str, index: Mapping[bytes, bytes], known: Candidate[T] | None
    ) -> Candidate[T] | None:
        """The best candidate for a canonical path, or `known` if better.

        `index` maps lower-case header names to values.
        """
        if self._branches:
            known = self._find_branching(method, path, index, known)
        else:
            node = self._root
            for segment in path[1:].split("/", self._depth):
                if node.tails is not None:
                    known = _choose_tail(node.tails, segment, method, index, known)
                children = node.children
                if segment in children:
                    node = children[segment]
                else:
                    level = node.more
                    break
            else:
                level = node.end
            if level is not None:
                known = level.choose(method, index, known)
        expressions = self._expressions
        if expressions is not None and (known is None or expressions.best < known.rank):
            return expressions.choose(method, path, index, known)
        return known

    def _find_branching(
        self, method: str, path: str, index: Mapping[bytes, bytes], known: Candidate[T] | None
    ) -> Candidate[T] | None:
        """The walk where a segment may be literal and captured at once."""
        segments = path[1:].split("/", self._depth)
        count = len(segments)
        forks: list[tuple[_Node[T], int]] = [(self._root, 0)]
        while forks:
            node, position = forks.pop()
            level = None
            while position < count:
                segment = segments[position]
                position += 1
                if node.tails is not None:
                    known = _choose_tail(node.tails, segment, method, index, known)
                child = node.children.get(segment)
                captured = node.captured if segment else None
                if child is not None and captured is not None:
                    forks.append((captured, position))
                following = captured if child is None else child
                if following is None:
                    level = node.more
                    break
                node = following
            else:
                level = node.end
            if level is not None:
                known = level.choose(method, index, known)
        return known


def _choose_tail(
    tails: list[tuple[int, dict[str, Level[T]]]],
    segment: str,
    method: str,
    index: Mapping[bytes, bytes],
    known: Candidate[T] | None,
) -> Candidate[T] | None:
    """The best of the prefixes that end inside `segment`, or `known` if better."""
    available = len(segment)
    for length, table in tails:
        if length > available:
            break
        level = table.get(segment[:length])
        if level is not None:
            known = level.choose(method, index, known)
    return known
