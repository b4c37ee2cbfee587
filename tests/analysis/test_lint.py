"""Lints: what a configuration may say, but hardly means."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.analysis.lint import lint
from gateway.config.loader import load, load_bytes

ROOT = Path(__file__).resolve().parents[2]
KEY = "auth: {any_of: [api-key]}"
ROUTE = "c.yaml:6:9: services[0].routes[0]"
NONE = "no {org}, without which organization refuses everybody"


def lints(text: str) -> list[str]:
    return lint(load_bytes(text.encode(), Path("c.yaml"), environ={}))


def routes(*entries: str, more: str = "") -> str:
    lines = "".join(f"      - {{{entry}}}\n" for entry in entries)
    return f"policies: {{{KEY}}}\nservices:\n  - name: s\n    url: http://x\n    routes:\n{lines}{more}"


def test_the_shipped_file_has_none() -> None:
    assert lint(load(ROOT / "config.yaml", environ={})) == []


@pytest.mark.parametrize(
    ("first", "second", "shadowed"),
    [
        ("paths: [/a]", "paths: [/a]", True),
        ("paths: [/a, /b]", "paths: [/b]", True),
        ("paths: [/a]", "paths: [/a, /b]", False),
        ("paths: [/a]", "paths: [/a/b]", False),
        ("", "", True),
        ("paths: [/a], methods: [GET, POST]", "paths: [/a], methods: [GET]", True),
        ("paths: [/a], methods: [GET]", "paths: [/a], methods: [GET, POST]", False),
        ("paths: [/a]", "paths: [/a], methods: [GET]", False),  # a condition more: it is asked first
        ("paths: [/a], methods: [GET]", "paths: [/a]", False),
        ("paths: [/a], hosts: [h]", "paths: [/a], hosts: [H]", True),
        ("paths: [/a], hosts: [h]", "paths: [/a]", False),
        ("paths: [/a], headers: {X-A: b}", "paths: [/a], headers: {x-a: [b]}", True),
        ("paths: [~/a]", "paths: [~/a], regex_priority: 1", False),
    ],
)
def test_shadowed_routes(first: str, second: str, shadowed: bool) -> None:
    found = lints(routes(*(f"name: {name}, {match}" for name, match in (("one", first), ("two", second)))))
    expected = "c.yaml:7:9: services[0].routes[1]: can never match: one, written earlier, takes the same requests"
    assert found == ([expected] if shadowed else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            routes("name: r, policies: {acl: {allow: [a]}}", more="consumers: [{username: idle}]"),
            ["c.yaml:7:13: consumers[0]: is in no group, and every route that is not public wants one"],
        ),
        (routes("name: r, policies: {acl: {deny: [a]}}", more="consumers: [{username: idle}]"), []),
        (routes("name: r", more="consumers: [{username: idle}]"), []),
        (
            routes("name: r, policies: {acl: {allow: [a]}}", more="consumers: [{username: u, groups: [a, b]}]"),
            ["c.yaml:7:39: consumers[0].groups[1]: no acl names the group b"],
        ),
        (routes("name: r", more="consumers: [{username: u, groups: [a]}]"), []),
        (
            routes("name: r, policies: {auth: none, acl: {allow: [a]}}"),
            ["c.yaml:6:9: services[0].routes[0]: is public (auth: none) and has an acl, which refuses everybody"],
        ),
        (routes("name: r, policies: {auth: none, acl: off}"), []),
        (
            routes("name: r, policies: {auth: none, scopes: {require: [s]}, organization: {match: query.org}}"),
            [f"{ROUTE}: is public (auth: none) and has scopes and an organization, which refuse everybody"],
        ),
    ],
)
def test_groups(text: str, expected: list[str]) -> None:
    assert lints(text) == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ("paths: ['/a/{org}']", []),
        ("paths: ['= /{org}/a', '/b/{org}/c*', '~^/c/(?<org>[^/]+)/', '/d/{x}/{org}']", []),
        ("paths: ['/a/{org}', '/b/{org2}']", [f"c.yaml:6:39: services[0].routes[0].paths[1]: captures {NONE}"]),
        ("paths: ['~^/(?<school>[a-z]+)']", [f"c.yaml:6:27: services[0].routes[0].paths[0]: captures {NONE}"]),
        ("hosts: [h]", [f"{ROUTE}: has no path that captures {{org}}, without which organization refuses everybody"]),
    ],
)
def test_an_organization_in_the_path(paths: str, expected: list[str]) -> None:
    assert lints(routes(f"name: r, {paths}, policies: {{organization: {{match: path.org}}}}")) == expected
    assert lints(routes(f"name: r, {paths}, policies: {{organization: {{match: query.org}}}}")) == []


@pytest.mark.parametrize(
    ("match", "transformer", "step"),
    [
        ("header.X-School", "rename: {headers: {X-Other: x_school}}", "rename"),
        ("header.X-School", "append: {headers: {X-School: a}}", "append"),
        ("query.org", "rename: {query: {other: org}}", "rename"),
        ("query.org", "append: {querystring: {org: a}}", "append"),
        ("query.org", "replace: {query: {org: a}}", ""),
        ("query.org", "rename: {query: {org: other}}", ""),
        ("query.org", "rename: {headers: {X-A: org}}", ""),
    ],
)
def test_an_organization_that_is_overwritten(match: str, transformer: str, step: str) -> None:
    found = lints(
        routes(f"name: r, policies: {{organization: {{match: {match}}}, request-transformer: {{{transformer}}}}}")
    )
    text = f"{ROUTE}: its request-transformer ({step}) writes {match} after organization has judged it"
    assert found == ([text] if step else [])


@pytest.mark.parametrize(
    ("match", "vary_by", "shared"),
    [
        ("header.X-Org", "none", True),
        ("header.X-Org", "groups", True),
        ("header.X-Org", "[none, header.x-org]", False),
        ("header.X-Org", "[groups, organization]", False),
        ("header.X-Org", "[header.X-Lang]", False),  # the credential counts, too
        ("header.X-Org", "[credential]", False),
        ("query.org", "none", False),  # as the whole query does
        ("query.org", "[none, query.page]", True),
        ("query.org", "[none, query.page, query.org]", False),
        ("path.org", "none", False),
    ],
)
def test_organizations_that_share_responses(match: str, vary_by: str, shared: bool) -> None:
    policies = f"organization: {{match: {match}}}, proxy-cache: {{vary_by: {vary_by}}}"
    text = f"{ROUTE}: its proxy-cache gives one organization's answers to others: vary_by lacks {match}"
    assert lints(routes(f"name: r, paths: ['/{{org}}'], policies: {{{policies}}}")) == ([text] if shared else [])


@pytest.mark.parametrize(
    ("workers", "limit", "told"),
    [("4", 3, True), ("4", 4, False), ("4", 0, False), ("1", 1, False), ("auto", 1, False)],
)
def test_a_limit_that_cannot_be_shared(workers: str, limit: int, told: bool) -> None:
    limited = f"    max_connections: {limit}\n    routes:"
    text = "is shared by 4 workers, each of which has at least 1: it comes to 4"
    expected = [f"c.yaml:5:22: services[0].max_connections: {text}"] if told else []
    assert lints(routes("name: r", more=f"workers: {workers}\n").replace("    routes:", limited)) == expected
