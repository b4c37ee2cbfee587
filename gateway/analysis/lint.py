"""Lints: what a configuration may say, but hardly means.

Each rule yields located problems; none of them stops the gateway.  This room may look at policies by name
(law 6 binds the path of a request, not advice about it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gateway.config.loader import Loaded
from gateway.config.model import Config
from gateway.config.policies import OFF, effective
from gateway.config.problems import Path, Problem, listed
from gateway.config.services import Route
from gateway.core.http import fold
from gateway.core.path import PathRules
from gateway.routing.pattern import parse

#: What a route takes besides its path and methods.
_Conditions = tuple[frozenset[str], frozenset[tuple[str, tuple[str, ...]]], int]


def _routes(config: Config) -> Iterator[tuple[Path, Route, dict[str, Any]]]:
    """Every route with its path in the file and the settings that hold there, innermost, by policy."""
    for service_number, service in enumerate(config.services):
        for route_number, route in enumerate(service.routes):
            holding = {name: entries[-1].config for name, entries in _effective(config, service, route).items()}
            yield ("services", service_number, "routes", route_number), route, holding


def _effective(config: Config, service: Any, route: Route) -> dict[str, Any]:
    return dict(effective(config.levels(service, route)))


def _allowed(acl: Any) -> frozenset[str]:
    return frozenset(getattr(acl, "allow", None) or ())


def _named(acl: Any) -> frozenset[str]:
    return _allowed(acl) | frozenset(getattr(acl, "deny", None) or ())


def _is_public(settings: dict[str, Any]) -> bool:
    return bool(getattr(settings.get("auth"), "none", False))


def shadowed_routes(config: Config) -> Iterator[Problem]:
    """A route all of whose requests an earlier one takes, because it is written the same."""
    seen: dict[tuple[str, _Conditions], list[tuple[frozenset[str], str]]] = {}
    for path, route, _ in _routes(config):
        headers = frozenset((name.lower(), values) for name, values in route.headers.items())
        conditions: _Conditions = (frozenset(route.hosts), headers, route.regex_priority)
        methods = frozenset(route.methods)
        shadows: list[str] = []
        for pattern in dict.fromkeys(route.paths or ("",)):
            earlier = seen.setdefault((pattern, conditions), [])
            # A route with methods has one kind of condition more than one without, so only alike ones compare.
            by = [name for taken, name in earlier if bool(taken) == bool(methods) and methods <= taken]
            shadows += by[:1] or [""]
            earlier.append((methods, route.name))
        if all(shadows):
            names = listed(dict.fromkeys(shadows), "and")
            yield Problem(path, f"can never match: {names}, written earlier, takes the same requests")


def idle_consumers(config: Config) -> Iterator[Problem]:
    """A consumer without groups where every route that is not public wants one."""
    closed = [settings for _, _, settings in _routes(config) if not _is_public(settings)]
    if not closed or not all(_allowed(settings.get("acl")) for settings in closed):
        return
    for number, consumer in enumerate(config.consumers):
        if not consumer.groups:
            yield Problem(("consumers", number), "is in no group, and every route that is not public wants one")


def unknown_groups(config: Config) -> Iterator[Problem]:
    """A group of a consumer that no acl names, although there are acls."""
    named: set[str] = set()
    for _, _, settings in _routes(config):
        named |= _named(settings.get("acl"))
    for number, consumer in enumerate(config.consumers if named else ()):
        for place, group in enumerate(consumer.groups):
            if group not in named:
                yield Problem(("consumers", number, "groups", place), f"no acl names the group {group}")


#: Policies that judge who is calling, and how one speaks of them.
_WANT_SOMEBODY = {"acl": "an acl", "scopes": "scopes", "organization": "an organization"}


def public_but_closed(config: Config) -> Iterator[Problem]:
    """A public route with a policy that wants to know the caller: nobody is known there, so nobody gets in."""
    for path, _, settings in _routes(config):
        closing = [words for name, words in _WANT_SOMEBODY.items() if settings.get(name) not in (None, OFF)]
        if _is_public(settings) and closing:
            words = f"{listed(closing, 'and')}, which {'refuses' if len(closing) == 1 else 'refuse'} everybody"
            yield Problem(path, f"is public (auth: none) and has {words}")


#: In a `vary_by`, these part one organization's callers from another's.
_NAME_AN_ORGANIZATION = frozenset({"credential", "consumer", "organization"})


def organization_without_capture(config: Config) -> Iterator[Problem]:
    """A route whose organization stands in a capture that one of its paths has not: that path lets nobody in."""
    rules = PathRules(config.paths.encoded_slash, config.paths.merge_slashes)
    for path, route, settings in _routes(config):
        kind, _, name = str(getattr(settings.get("organization"), "match", "")).partition(".")
        if kind != "path":
            continue
        if not route.paths:
            yield Problem(path, f"has no path that captures {{{name}}}, without which organization refuses everybody")
        for number, written in enumerate(route.paths):
            pattern = parse(written, rules)
            if name not in pattern.names and name not in dict(pattern.groups):
                place = (*path, "paths", number)
                yield Problem(place, f"captures no {{{name}}}, without which organization refuses everybody")


def organization_overwritten(config: Config) -> Iterator[Problem]:
    """What `organization` judged, and a later step then lets the client overwrite."""
    for path, _, settings in _routes(config):
        match = str(getattr(settings.get("organization"), "match", ""))
        kind, _, name = match.partition(".")
        transformer = settings.get("request-transformer")
        for step in ("rename", "append"):
            sides = getattr(transformer, step, None)
            if kind == "header":
                pairs = getattr(sides, "headers", ())
                wanted = fold(name.encode("ascii"))
                hit = any(fold(pair[step == "rename"].encode("ascii")) == wanted for pair in pairs)
            else:
                pairs = getattr(sides, "query", ()) or getattr(sides, "querystring", ())
                hit = kind == "query" and any(pair[step == "rename"] == name for pair in pairs)
            if hit:
                yield Problem(path, f"its request-transformer ({step}) writes {match} after organization has judged it")


def organizations_share_responses(config: Config) -> Iterator[Problem]:
    """A cache that gives one organization what another was answered, where `organization` keeps them apart."""
    for path, _, settings in _routes(config):
        match = str(getattr(settings.get("organization"), "match", ""))
        kind, _, name = match.partition(".")
        vary_by = getattr(settings.get("proxy-cache"), "vary_by", ())
        counts = {value if value.startswith("query.") else value.lower() for value in vary_by}
        whole_query = not any(value.startswith("query.") for value in counts)
        told = kind == "path" or (kind == "query" and whole_query)
        everybody = "none" in counts or ("groups" in counts and counts.isdisjoint(_NAME_AN_ORGANIZATION))
        if name and everybody and not told and (match if kind == "query" else match.lower()) not in counts:
            yield Problem(path, f"its proxy-cache gives one organization's answers to others: vary_by lacks {match}")


def fewer_than_workers(config: Config) -> Iterator[Problem]:
    """A limit that is divided among more workers than it has parts: each has one all the same."""
    workers = config.workers
    if workers == "auto":
        return  # it depends on where the gateway runs
    limited: list[tuple[Path, int]] = [(("limits", "connections"), config.limits.connections)]
    limited += [
        (("services", number, "max_connections"), service.max_connections)
        for number, service in enumerate(config.services)
    ]
    for path, limit in limited:
        if 0 < limit < workers:
            yield Problem(path, f"is shared by {workers} workers, each of which has at least 1: it comes to {workers}")


RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    shadowed_routes,
    idle_consumers,
    unknown_groups,
    public_but_closed,
    organization_without_capture,
    organization_overwritten,
    organizations_share_responses,
    fewer_than_workers,
)


def lint(loaded: Loaded) -> list[str]:
    """Every lint of a loaded configuration, as lines `FILE:LINE:COLUMN: key.path: text` in file order."""
    return loaded.report(problem for rule in RULES for problem in rule(loaded.config))
