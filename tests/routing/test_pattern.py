"""The forms of a route's path: what each matches, how much of the path it takes, and what is refused."""

from __future__ import annotations

import pytest

from gateway.core.path import DEFAULT, PathRules
from gateway.routing.pattern import PatternError, parse
from gateway.routing.router import Router, RouteSpec

MATCHES: list[tuple[str, str, int | None, dict[str, str] | None]] = [
    # A prefix at a segment boundary.
    ("/a/b", "/a/b", 4, None),
    ("/a/b", "/a/b/", 4, None),
    ("/a/b", "/a/b/c/d", 4, None),
    ("/a/b", "/a/bc", None, None),
    ("/a/b", "/a", None, None),
    ("/a/b", "/A/b", None, None),
    ("/", "/", 1, None),
    ("/", "/a/b", 1, None),
    # With its own last slash it begins below.
    ("/a/b/", "/a/b/", 5, None),
    ("/a/b/", "/a/b/c", 5, None),
    ("/a/b/", "/a/b", None, None),
    ("/a/b/", "/a/bc", None, None),
    # Exact.
    ("= /a/b", "/a/b", 4, None),
    ("=/a/b", "/a/b", 4, None),
    ("= /a/b", "/a/b/", None, None),
    ("= /a/b", "/a/b/c", None, None),
    ("= /a/b/", "/a/b/", 5, None),
    ("= /a/b/", "/a/b", None, None),
    ("= /", "/", 1, None),
    ("= /", "/a", None, None),
    ("= /a*", "/a*", 3, None),
    ("= /a*", "/ab", None, None),
    ("= /orgs/{org}", "/orgs/x", 7, {"org": "x"}),
    ("= /orgs/{org}", "/orgs/x/y", None, None),
    # A plain prefix.
    ("/a/b*", "/a/b", 4, None),
    ("/a/b*", "/a/bc/d", 4, None),
    ("/a/b*", "/a/", None, None),
    ("/a/b*", "/a/c", None, None),
    ("/a/*", "/a/", 3, None),
    ("/a/*", "/a", None, None),
    ("/*", "/", 1, None),
    ("/*", "/x", 1, None),
    ("/orgs/{org}/les*", "/orgs/x/lessons", 11, {"org": "x"}),
    # Captures.
    ("/orgs/{org}/lessons", "/orgs/springfield/lessons", 25, {"org": "springfield"}),
    ("/orgs/{org}/lessons", "/orgs/springfield/lessons/1", 25, {"org": "springfield"}),
    ("/orgs/{org}/lessons", "/orgs//lessons", None, None),
    ("/orgs/{org}/lessons", "/orgs/a/b/lessons", None, None),
    ("/orgs/{org}", "/orgs/", None, None),
    ("/orgs/{org}", "/orgs/a%20b/c", 11, {"org": "a%20b"}),
    ("/orgs/{org}/", "/orgs/x", None, None),
    ("/orgs/{org}/", "/orgs/x/y", 8, {"org": "x"}),
    ("/{a}/{b}", "/x/y/z", 4, {"a": "x", "b": "y"}),
    # Regular expressions, tried at the beginning.
    (r"~^/a/(?<id>\d+)$", "/a/12", 5, {"id": "12"}),
    (r"~^/a/(?P<id>\d+)$", "/a/12", 5, {"id": "12"}),
    (r"~/a/(?<id>\d+)", "/a/12/x", 5, {"id": "12"}),
    (r"~^/a/(?<id>\d+)$", "/a/12/x", None, None),
    (r"~/a/\d", "/x/a/1", None, None),
    (r"~/a(?:/(?<id>\d+))?", "/a", 2, None),
    (r"~(?i)/A", "/a", 2, None),
    (r"~/x|/y", "/z/y", None, None),
    # Written in another spelling, it is the same path.
    ("/a%62", "/ab/c", 3, None),
    ("/caf%c3%a9", "/caf%C3%A9", 10, None),
    ("/café au lait", "/caf%C3%A9%20au%20lait/x", 22, None),
    ("/a//b/./c", "/a/b/c", 6, None),
    ("/x/../a", "/a", 2, None),
    ("/orgs//{org}/./x", "/orgs/1/x", 9, {"org": "1"}),
    ("/a*b", "/a*b/c", 4, None),
]


@pytest.mark.parametrize(("text", "path", "matched", "captures"), MATCHES)
def test_forms(text: str, path: str, matched: int | None, captures: dict[str, str] | None) -> None:
    match = Router([RouteSpec("r", "target", paths=(text,))]).match("GET", "", path, {})
    if matched is None:
        assert match is None
    else:
        assert match == ("target", matched, captures)
    assert parse(text, DEFAULT).accepts(path) == (matched is not None)


def test_empty_segments_count_where_they_are_kept() -> None:
    rules = PathRules(merge_slashes=False)
    router = Router([RouteSpec("r", 1, paths=("/a//{x}",))], rules)
    assert router.match("GET", "", "/a//b", {}) == (1, 5, {"x": "b"})
    assert router.match("GET", "", "/a/b", {}) is None


def test_a_kept_slash_is_a_character_of_its_segment() -> None:
    router = Router([RouteSpec("r", 1, paths=("/repo/{name}/x",))], PathRules(encoded_slash="keep"))
    assert router.match("GET", "", "/repo/a%2Fb/x", {}) == (1, 13, {"name": "a%2Fb"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with /"),
        ("a/b", "begins with /"),
        ("= a", "begins with /"),
        ("*", "begins with /"),
        ("/a/../..", "climbs above"),
        ("/{x}/../..", "climbs above"),
        ("/a%2fb", "encoded slash"),
        ("/a%", "broken percent"),
        ("/a%2*", "broken percent"),
        ("/a?b", "not allowed"),
        ("/a/..*", "dot segment"),
        ("/a/.*", "dot segment"),
        ("/a/{x}.json", "whole segment"),
        ("/a/x{x}", "whole segment"),
        ("/a/{x", "whole segment"),
        ("/a/{x}*", "whole segment"),
        ("/a/{}", "named by"),
        ("/a/{1x}", "named by"),
        ("/{x}/{x}", "captured twice"),
        ("~", "empty"),
        ("~^/a(", "RE2"),
        ("~^/a(?=b)", "RE2"),
        (r"~^/(a)\1", "RE2"),
        ("~^/(?<x>a)(?<x>b)", "captured twice"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(PatternError, match=why):
        parse(text, DEFAULT)
