"""What a route asks of a request, as values: the router's input, and the checks that need no compiling.

Law: what could never match, or could match by surprise, is refused when the configuration is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

T = TypeVar("T")

NO_HEADERS: Mapping[str, tuple[str, ...]] = MappingProxyType({})

#: Lower-case header name to its lower-case values, any of which will do.
HeaderConditions = tuple[tuple[bytes, frozenset[bytes]], ...]

_is_token = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_is_host = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*").fullmatch
_is_bracketed = re.compile(r"\[[0-9a-f:.]+\]").fullmatch


class RouteError(ValueError):
    """A route that cannot be compiled; the text names the route and what is wrong with it."""


@dataclass(frozen=True)
class RouteSpec(Generic[T]):
    """One route.

    `target` is what a match hands back; the router never looks at it.  Empty `hosts`, `methods`, `paths`
    or `headers` mean "any".  `hosts` are exact names or `*.example.org` (whatever lies below, at any depth,
    not `example.org` itself), without a port.  `methods` are compared exactly.  `paths` are in the forms of
    `gateway.routing.pattern`.  `headers` maps a name to its allowed values: a request's value, several
    fields of one name joined by ", ", must equal one of them; upper and lower case are alike in both.
    `regex_priority` orders regular expressions among themselves, higher first.
    """

    name: str
    target: T
    hosts: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NO_HEADERS)
    regex_priority: int = 0


def kinds(spec: RouteSpec[T]) -> int:
    """How many kinds of match fields a route gives, of host, method and headers."""
    return bool(spec.hosts) + bool(spec.methods) + bool(spec.headers)


def check_methods(spec: RouteSpec[T]) -> frozenset[str]:
    """The methods, each a token in capitals as methods are; RouteError for any other."""
    for method in sorted(spec.methods):
        if _is_token(method) is None:
            raise RouteError(f"route {spec.name}: {method!r} is not a method")
        if method != method.upper():
            raise RouteError(f"route {spec.name}: methods are case-sensitive: write {method.upper()}, not {method}")
    return spec.methods


def parse_hosts(spec: RouteSpec[T]) -> tuple[list[str], list[str]]:
    """`(exact, suffixes)` of the hosts: lower-case names, and `.example.org` for each `*.example.org`."""
    exact: list[str] = []
    suffixes: list[str] = []
    for host in spec.hosts:
        lower = host.lower().removesuffix(".")
        name = lower.removeprefix("*.")
        if _is_host(name) is None and (_is_bracketed(name) is None or name != lower):
            raise RouteError(f"route {spec.name}: host {host!r}: {_host_fault(name)}")
        known, entry = (exact, lower) if name == lower else (suffixes, "." + name)
        if entry not in known:
            known.append(entry)
    return exact, suffixes


def _host_fault(name: str) -> str:
    if re.search(r":\d*$", name):
        return "a host is given without a port"
    if "*" in name:
        return "a wildcard stands alone in front, as in *.example.org"
    if not name.isascii():
        return "a name in other letters is written in its xn-- form"
    return "not a host name such as learn.example.org or *.example.org"


def parse_headers(spec: RouteSpec[T]) -> HeaderConditions:
    """The header conditions, names and values in lower-case bytes."""
    conditions: dict[bytes, frozenset[bytes]] = {}
    for name, values in spec.headers.items():
        place = f"route {spec.name}: header {name!r}"
        if _is_token(name) is None:
            raise RouteError(f"{place} is not a header name")
        lower = name.lower().encode("ascii")
        if lower == b"host":
            raise RouteError(f"{place}: give hosts under `hosts`")
        if lower in conditions:
            raise RouteError(f"{place} is given twice")
        if not values:
            raise RouteError(f"{place} has no values, so that nothing could match")
        for value in values:
            if value.startswith("~*"):
                raise RouteError(f"{place}: values are compared exactly; {value!r} is a regular expression")
            if value != value.strip() or not value.isprintable():
                raise RouteError(f"{place}: no request can carry the value {value!r}")
        conditions[lower] = frozenset(value.encode("utf-8").lower() for value in values)
    return tuple(conditions.items())
