"""Why a request went to one route and not to another: the plain reading of the rules, path by path.

It walks every path of every route and shares the ranks with the compiled router, not its short cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from gateway.routing.candidate import Candidate, HostKind, Order
from gateway.routing.pattern import Pattern
from gateway.routing.spec import RouteSpec

T = TypeVar("T")


class Explanation(NamedTuple):
    """One path of one route: the route's `name`, the `path` as written ("" for a route without paths),
    whether it `matched`, and `why` it won, lost or did not match."""

    name: str
    path: str
    matched: bool
    why: str


@dataclass(frozen=True, slots=True)
class Compiled(Generic[T]):
    """One path of one route with its candidates (one for each kind of host that the route names)."""

    spec: RouteSpec[T]
    pattern: Pattern
    candidates: tuple[Candidate[T], ...]
    names: tuple[str, ...]
    suffixes: tuple[str, ...]


#: What decides, field by field of `Order`.
_REASONS = (
    "it gives more kinds of match fields (host, method, headers)",
    "an exact host goes before a wildcard, a wildcard before none",
    "an exact path goes before a regular expression, that before a prefix",
    "its regex_priority is higher",
    "its path is longer",
    "a literal segment goes before a captured one",
    "its path is longer",
    "it stands earlier in the file",
    "it stands earlier in the route",
)


def explain(
    compiled: Sequence[Compiled[T]], method: str, host: str, path: str, index: Mapping[bytes, bytes]
) -> list[Explanation]:
    """One row for every path of every route, in the order of precedence."""
    judged: list[tuple[Candidate[T], Compiled[T], list[str]]] = []
    for each in compiled:
        kind = _host_kind(each, host)
        candidate = next((one for one in each.candidates if one.order.host == kind), each.candidates[0])
        judged.append((candidate, each, _faults(each, candidate, kind, method, host, path, index)))
    judged.sort(key=lambda row: row[0].rank)
    rows: list[Explanation] = []
    winner: tuple[Candidate[T], Compiled[T]] | None = None
    for candidate, each, faults in judged:
        matched = not faults
        if faults:
            why = "; ".join(faults)
        elif winner is None:
            winner = candidate, each
            why = "wins"
        else:
            why = f"loses to {winner[1].spec.name}: {_reason(winner[0].order, candidate.order)}"
        rows.append(Explanation(each.spec.name, each.pattern.text, matched, why))
    return rows


def _reason(winner: Order, loser: Order) -> str:
    return next(reason for reason, won, lost in zip(_REASONS, winner, loser, strict=True) if won != lost)


def _host_kind(each: Compiled[T], host: str) -> HostKind | None:
    """How a route's hosts match a host; None if they do not."""
    if not each.spec.hosts:
        return HostKind.ANY
    if host in each.names:
        return HostKind.EXACT
    if any(host.endswith(suffix) and len(host) > len(suffix) for suffix in each.suffixes):
        return HostKind.WILDCARD
    return None


def _faults(
    each: Compiled[T],
    candidate: Candidate[T],
    kind: HostKind | None,
    method: str,
    host: str,
    path: str,
    index: Mapping[bytes, bytes],
) -> list[str]:
    """Everything about a request that does not match."""
    faults: list[str] = []
    if not each.pattern.accepts(path):
        faults.append("the path does not match")
    if kind is None:
        faults.append(f"the host {host or '(none)'} is not one of {', '.join(each.spec.hosts)}")
    if candidate.methods and method not in candidate.methods:
        faults.append(f"the method {method} is not one of {', '.join(sorted(candidate.methods))}")
    for name, values in candidate.headers:
        value = index.get(name)
        if value is None:
            faults.append(f"the header {name.decode()} is missing")
        elif value.lower() not in values:
            faults.append(f"the header {name.decode()} has another value")
    return faults
