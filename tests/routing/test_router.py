"""The router: hosts, methods, headers, the order of precedence, what it refuses, and that it tells why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.path import canonical, join_upstream
from gateway.routing.router import RouteError, Router, RouteSpec

GET = frozenset({"GET"})


def spec(name: str, *paths: str, methods: str = "", **fields: Any) -> RouteSpec[str]:
    return RouteSpec(name, name, paths=paths, methods=frozenset(methods.split()), **fields)


def winner(router: Router[str], request: str, host: str = "", **headers: str) -> str | None:
    method, path = request.split()
    index = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    match = router.match(method, host, path, index)
    return match.target if match else None


# Each row: the routes in the order of the file, the request, its host, the winner.
PRECEDENCE: list[tuple[str, list[RouteSpec[str]], str, str, str | None]] = [
    ("longest path", [spec("short", "/a"), spec("long", "/a/b")], "GET /a/b/c", "", "long"),
    ("exact before all paths", [spec("x", r"~^/a/b"), spec("y", "/a/b"), spec("z", "= /a/b")], "GET /a/b", "", "z"),
    ("expression before a longer prefix", [spec("p", "/a/b/c"), spec("r", "~^/a")], "GET /a/b/c", "", "r"),
    (
        "regex_priority, higher first",
        [spec("low", "~^/a/b"), spec("high", "~^/a", regex_priority=5)],
        "GET /a/b",
        "",
        "high",
    ),
    ("expressions of one priority: the file", [spec("1st", "~^/a"), spec("2nd", "~^/a/b")], "GET /a/b", "", "1st"),
    ("literal before captured", [spec("c", "/o/{x}/l"), spec("l", "/o/a/l")], "GET /o/a/l", "", "l"),
    ("a longer capture before a literal", [spec("l", "/o/a"), spec("c", "/o/{x}/l")], "GET /o/a/l", "", "c"),
    (
        "the first difference decides",
        [spec("c", "/{x}/a/b"), spec("l", "/o/{y}/{z}")],
        "GET /o/a/b",
        "",
        "l",
    ),
    ("a segment before part of one", [spec("p", "/ab*"), spec("s", "/ab")], "GET /ab", "", "s"),
    ("part of a segment before less", [spec("l", "/a*"), spec("m", "/ab*"), spec("s", "/")], "GET /abc", "", "m"),
    ("a last slash is longer", [spec("s", "/a"), spec("t", "/a/")], "GET /a/b", "", "t"),
    ("and needs to be there", [spec("s", "/a"), spec("t", "/a/")], "GET /a", "", "s"),
    ("any path last", [spec("none"), spec("root", "/")], "GET /a", "", "root"),
    ("the file decides", [spec("1st", "/a"), spec("2nd", "/a")], "GET /a", "", "1st"),
    ("a method is a kind", [spec("long", "/a/b"), spec("kind", "/", methods="GET")], "GET /a/b", "", "kind"),
    ("that must match", [spec("long", "/a/b"), spec("kind", "/", methods="PUT")], "GET /a/b", "", "long"),
    (
        "two kinds before one",
        [spec("host", "= /a", hosts=("x.org",)), spec("two", "/", methods="GET", headers={"accept": ("*/*",)})],
        "GET /a",
        "x.org",
        "two",
    ),
    (
        "exact host before wildcard",
        [spec("wild", "= /a", hosts=("*.x.org",)), spec("exact", "/", hosts=("w.x.org",))],
        "GET /a",
        "w.x.org",
        "exact",
    ),
    (
        "a host before a method",
        [spec("method", "= /a", methods="GET"), spec("host", "/", hosts=("*.x.org",))],
        "GET /a",
        "w.x.org",
        "host",
    ),
    (
        "between wildcards the path decides",
        [spec("near", "/", hosts=("*.a.x.org",)), spec("far", "/a", hosts=("*.x.org",))],
        "GET /a",
        "w.a.x.org",
        "far",
    ),
    (
        "a host's routes do not hide the others",
        [spec("host", "/h", hosts=("x.org",)), spec("any", "/a")],
        "GET /a",
        "x.org",
        "any",
    ),
    ("nothing", [spec("a", "/a"), spec("b", "/b", methods="GET")], "POST /b", "", None),
]


@pytest.mark.parametrize(("label", "specs", "request_line", "host", "expected"), PRECEDENCE)
def test_precedence(
    label: str, specs: list[RouteSpec[str]], request_line: str, host: str, expected: str | None
) -> None:
    router = Router(specs)
    accept = {"accept": "*/*"}
    assert winner(router, request_line, host, **accept) == expected, label
    method, path = request_line.split()
    rows = router.explain(method, host, path, {b"accept": b"*/*"})
    assert next((row.name for row in rows if row.matched), None) == expected
    assert len(rows) == len(specs)


@pytest.mark.parametrize(
    ("given", "host", "matches"),
    [
        ("learn.example.org", "learn.example.org", True),
        ("Learn.Example.ORG", "learn.example.org", True),
        ("learn.example.org", "learn.example.org.", True),
        ("learn.example.org", "x.learn.example.org", False),
        ("learn.example.org", "", False),
        ("*.example.org", "learn.example.org", True),
        ("*.example.org", "a.b.c.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", ".example.org", False),
        ("*.example.org", "badexample.org", False),
        ("*.example.org", "example.org.evil", False),
        ("[::1]", "[::1]", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("localhost", "localhost", True),
    ],
)
def test_hosts(given: str, host: str, matches: bool) -> None:
    router = Router([spec("r", "/", hosts=(given,))])
    assert (winner(router, "GET /", host) == "r") is matches
    assert router.explain("GET", host, "/", {})[0].matched is matches


@pytest.mark.parametrize(
    ("headers", "sent", "matches"),
    [
        ({"X-Env": ("test",)}, {"x_env": "test"}, True),
        ({"X-Env": ("Test",)}, {"x_env": "tEST"}, True),
        ({"X-Env": ("test", "stage")}, {"x_env": "stage"}, True),
        ({"X-Env": ("test",)}, {"x_env": "tests"}, False),
        ({"X-Env": ("test",)}, {"x_env": "test, prod"}, False),
        ({"X-Env": ("test",)}, {}, False),
        ({"X-Env": ("test",), "X-Two": ("2",)}, {"x_env": "test", "x_two": "2"}, True),
        ({"X-Env": ("test",), "X-Two": ("2",)}, {"x_env": "test"}, False),
    ],
)
def test_headers(headers: dict[str, tuple[str, ...]], sent: dict[str, str], matches: bool) -> None:
    router = Router([spec("r", "/", headers=headers)])
    assert (winner(router, "GET /", **sent) == "r") is matches


def test_many_routes_in_one_place() -> None:
    tenants = [
        spec(f"{method}-{n}", "/a", methods=method, headers={"x-tenant": (f"t{n}",), "x-kind": ("a", "b")})
        for n in range(50)
        for method in ("GET", "PUT")
    ]
    router = Router([spec("plain", "/a"), *tenants, spec("late", "/a", headers={"x-kind": ("b",)})])
    assert winner(router, "PUT /a", x_tenant="t49", x_kind="B") == "PUT-49"
    assert winner(router, "POST /a", x_tenant="t49", x_kind="B") == "late"
    assert winner(router, "GET /a", x_tenant="t50", x_kind="a") == "plain"


def test_the_target_comes_back_as_it_is() -> None:
    target = object()
    match = Router([RouteSpec("r", target, paths=("/a",))]).match("GET", "", "/a/b", {})
    assert match is not None
    assert match.target is target
    assert (match.matched, match.captures) == (2, None)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (spec("r", "a"), r"route r: path 'a': a path begins with /"),
        (spec("r", "/a", "~("), r"route r: path '~\(': not a regular expression"),
        (spec("r", methods="get"), "write GET, not get"),
        (spec("r", methods="G,T"), "not a method"),
        (spec("r", hosts=("x.org:8080",)), "without a port"),
        (spec("r", hosts=("[::1]:80",)), "without a port"),
        (spec("r", hosts=("x.*",)), "wildcard stands alone in front"),
        (spec("r", hosts=("*",)), "wildcard stands alone in front"),
        (spec("r", hosts=("*.[::1]",)), "not a host name"),
        (spec("r", hosts=("bücher.example",)), "xn--"),
        (spec("r", hosts=("a..b",)), "not a host name"),
        (spec("r", hosts=("",)), "not a host name"),
        (spec("r", headers={"Host": ("x",)}), "under `hosts`"),
        (spec("r", headers={"x y": ("x",)}), "not a header name"),
        (spec("r", headers={"x": ()}), "no values"),
        (spec("r", headers={"x": ("1",), "X": ("2",)}), "given twice"),
        (spec("r", headers={"x": ("~*a",)}), "compared exactly"),
        (spec("r", headers={"x": ("a\n",)}), "no request can carry"),
    ],
)
def test_refused(bad: RouteSpec[str], why: str) -> None:
    with pytest.raises(RouteError, match=why):
        Router([spec("good", "/"), bad])


def test_a_thousand_expressions() -> None:
    router = Router([spec(f"r{n}", rf"~^/svc{n}/(?<id>\d+)$", methods="GET") for n in range(1000)])
    assert router.match("GET", "", "/svc999/7", {}) == ("r999", 9, {"id": "7"})
    assert router.match("GET", "", "/svc9990/x", {}) is None
    assert router.match("PUT", "", "/svc999/7", {}) is None


def test_expressions_too_large_for_one_set_are_split() -> None:
    # Together they are far past RE2's memory limit; each alone is well below it.
    wide = [spec(f"w{n}", rf"~^/w{n}/(?:[a-z0-9]{{1,40}}\.){{1,20}}$") for n in range(200)]
    router = Router(wide)
    assert winner(router, "GET /w0/a.b.") == "w0"
    assert winner(router, "GET /w199/a.b.") == "w199"
    assert winner(router, "GET /w200/a.b.") is None


def test_a_shared_expression_is_told_apart_by_method() -> None:
    router = Router([spec("get", "~^/a", methods="GET"), spec("put", "~^/a", methods="PUT"), spec("any", "~^/a")])
    assert [winner(router, f"{method} /a") for method in ("GET", "PUT", "POST")] == ["get", "put", "any"]


def test_explain_says_why() -> None:
    router = Router(
        [
            spec("write", "/a", methods="POST PUT"),
            spec("root", "/"),
            spec("tenant", "/a", hosts=("x.org",), headers={"x-env": ("test",), "x-two": ("2",)}),
            spec("read", "/a", "/b", methods="GET"),
            spec("same", "/a", methods="GET"),
        ]
    )
    rows = {
        (row.name, row.path): (row.matched, row.why)
        for row in router.explain("GET", "y.org", "/a/1", {b"x-env": b"prod"})
    }
    assert rows == {
        ("tenant", "/a"): (
            False,
            "the host y.org is not one of x.org; the header x-env has another value; the header x-two is missing",
        ),
        ("write", "/a"): (False, "the method GET is not one of POST, PUT"),
        ("read", "/a"): (True, "wins"),
        ("read", "/b"): (False, "the path does not match"),
        ("same", "/a"): (True, "loses to read: it stands earlier in the file"),
        ("root", "/"): (True, "loses to read: it gives more kinds of match fields (host, method, headers)"),
    }


def test_no_routes() -> None:
    assert Router[str]([]).match("GET", "x.org", "/", {}) is None
    assert Router[str]([]).explain("GET", "x.org", "/", {}) == []


CASES = Path(__file__).resolve().parents[3] / "shared/cases/kong/router-paths.json"


def test_paths_as_kong_v0() -> None:
    if not CASES.exists():
        pytest.skip("the public cases are not here")
    rows = [row for row in json.loads(CASES.read_text()) if row["path_handling"] == "v0"]
    assert rows
    for row in rows:
        paths = (row["route_path"] + "*",) if row["route_path"] is not None else ()
        path = canonical(row["request_path"].encode())
        match = Router([spec("r", *paths)]).match("GET", "", path, {})
        assert match is not None, row
        assert join_upstream(row["service_path"], path, match.matched, row["strip_path"]) == row["expected_path"], row
