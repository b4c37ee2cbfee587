"""The compiled router against the contract's own words: an oracle that reads every route in turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.path import PathError, canonical
from gateway.routing.router import Router, RouteSpec

# ── the oracle ──────────────────────────────────────────────────────────────────────────────────


def path_score(text: str, priority: int, path: str) -> tuple[Any, ...] | None:
    """How well one path of a route matches: the lesser the better, None for not at all."""
    if text.startswith("~"):
        return (1, -priority) if re.match(text[1:].replace("(?<", "(?P<"), path) else None
    exact, plain = text.startswith("= "), text.endswith("*") and not text.startswith("= ")
    literal = text.removeprefix("= ") if exact else text.removesuffix("*") if plain else text
    pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(literal))
    partial = plain or (literal.endswith("/") and not exact)
    if not re.match(pattern + ("$" if exact else "" if partial else "(?=/|$)"), path):
        return None
    whole, _, rest = literal[1:].rpartition("/") if partial else (literal[1:], "", "")
    segments = whole.split("/") if whole or exact else []
    tail = len(rest) if partial else -1
    return 0 if exact else 2, 0, -len(segments), [segment.startswith("{") for segment in segments], -tail


def best(specs: list[RouteSpec[int]], method: str, host: str, path: str, index: Mapping[bytes, bytes]) -> int | None:
    """The route that the contract says, found by scoring them all."""
    scores = []
    for number, spec in enumerate(specs):
        if spec.methods and method not in spec.methods:
            continue
        if any(index.get(name.encode()) not in [v.encode() for v in values] for name, values in spec.headers.items()):
            continue
        if not spec.hosts:
            host_score = 2
        elif host in spec.hosts:
            host_score = 0
        elif any(h.startswith("*.") and host.endswith(h[1:]) and len(host) > len(h) - 1 for h in spec.hosts):
            host_score = 1
        else:
            continue
        kinds = bool(spec.hosts) + bool(spec.methods) + bool(spec.headers)
        for place, text in enumerate(spec.paths or ("",)):
            score = path_score(text, spec.regex_priority, path) if text else (2, 0, 1)
            if score is not None:
                scores.append((-kinds, host_score, *score, number, place))
    # Exact and prefix scores have the same fields; another form differs before the fields do.
    return min(scores)[-2] if scores else None


# ── random routes and requests, over few words, so that they meet ───────────────────────────────

WORD = st.sampled_from(["a", "b", "ab", "abc"])
SEGMENT = st.one_of(WORD, WORD, st.just("{}"))


@st.composite
def route_path(draw: st.DrawFn) -> str:
    form = draw(st.sampled_from(["prefix", "prefix", "slash", "exact", "plain", "expression"]))
    if form == "expression":
        return draw(
            st.sampled_from(
                ["~^/a", "~^/a/b$", "~/(?<x>[ab]+)/b", "~^/[^/]+/b", "~.*b$", "~/ab?", "~^/(?<x>a)(?:/(?<y>b))?"]
            )
        )
    segments = draw(st.lists(SEGMENT, max_size=3))
    names = iter("xyz")
    text = "/" + "/".join("{" + next(names) + "}" if segment == "{}" else segment for segment in segments)
    if form == "exact":
        return "= " + text + draw(st.sampled_from(["", "/"] if segments else [""]))
    if form == "slash" and segments:
        return text + "/"
    if form == "plain":
        return text + ("/*" if text.endswith("}") else "*")
    return text


HOSTS = ["x.org", "w.x.org", "v.w.x.org", "y.org", ""]
SPEC_HOST = st.sampled_from(["x.org", "w.x.org", "*.x.org", "*.w.x.org"])
METHODS = ["GET", "PUT", "POST"]
HEADERS = st.dictionaries(
    st.sampled_from(["x-a", "x-b"]), st.lists(st.sampled_from("12"), min_size=1, max_size=2, unique=True).map(tuple)
)


@st.composite
def route(draw: st.DrawFn) -> RouteSpec[int]:
    return RouteSpec(
        "r",
        0,
        hosts=tuple(draw(st.lists(SPEC_HOST, max_size=2))) if draw(st.booleans()) else (),
        methods=frozenset(draw(st.lists(st.sampled_from(METHODS), max_size=2))),
        paths=tuple(draw(st.lists(route_path(), max_size=3))),
        headers=draw(HEADERS) if draw(st.booleans()) else {},
        regex_priority=draw(st.integers(0, 2)),
    )


ROUTES = st.lists(route(), max_size=12).map(
    lambda specs: [
        RouteSpec(f"r{n}", n, s.hosts, s.methods, s.paths, s.headers, s.regex_priority) for n, s in enumerate(specs)
    ]
)
PATH = st.builds(
    lambda segments, slash: "/" + "/".join(segments) + ("/" if slash and segments else ""),
    st.lists(WORD, max_size=4),
    st.booleans(),
)
REQUEST = st.tuples(
    st.sampled_from(METHODS),
    st.sampled_from(HOSTS),
    PATH,
    st.dictionaries(st.sampled_from([b"x-a", b"x-b", b"x-c"]), st.sampled_from([b"1", b"2", b"3"])),
)


@given(ROUTES, st.lists(REQUEST, min_size=1, max_size=8))
def test_the_least_rank_that_matches(specs: list[RouteSpec[int]], requests: list[Any]) -> None:
    router = Router(specs)
    for request in requests:
        match = router.match(*request)
        expected = best(specs, *request)
        assert (None if match is None else match.target) == expected, request
        rows = router.explain(*request)
        assert next((row.name for row in rows if row.matched), None) == (None if expected is None else f"r{expected}")
        if match is not None:
            path = request[2]
            assert 0 <= match.matched <= len(path)
            for value in (match.captures or {}).values():
                assert value in path[: match.matched]


SPELLINGS = {"a": ["a", "%61"], "b": ["b", "%62"], "/": ["/", "//", "/./", "/z/../"]}


@given(ROUTES, REQUEST, st.data())
def test_every_spelling_routes_as_its_canonical_path(
    specs: list[RouteSpec[int]], request: tuple[str, str, str, dict[bytes, bytes]], data: st.DataObject
) -> None:
    method, host, path, index = request
    spelled = "".join(data.draw(st.sampled_from(SPELLINGS.get(character, [character]))) for character in path)
    router = Router(specs)
    assert router.match(method, host, canonical(spelled.encode()), index) == router.match(method, host, path, index)


@given(PATH, PATH, st.data())
def test_a_route_may_be_spelled_too(path: str, request_path: str, data: st.DataObject) -> None:
    spelled = "".join(data.draw(st.sampled_from(SPELLINGS.get(character, [character]))) for character in path)
    plain, other = Router([RouteSpec("r", 1, paths=(path,))]), Router([RouteSpec("r", 1, paths=(spelled,))])
    assert other.match("GET", "", request_path, {}) == plain.match("GET", "", request_path, {})


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12), PATH)
def test_any_text_compiles_or_is_refused(text: str, path: str) -> None:
    try:
        router = Router([RouteSpec("r", 1, paths=(text,))])
    except ValueError as error:
        assert not isinstance(error, PathError)  # noqa: PT017  (the kind of refusal is what is tested)
        return
    router.match("GET", "", path, {})
