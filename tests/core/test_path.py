"""The canonical path: a table of readings and refusals, Kong's v0 join, and what must hold for any bytes."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core.path import DEFAULT, PathError, PathRules, canonical, join_upstream

KEEP = PathRules(encoded_slash="keep")
UNMERGED = PathRules(merge_slashes=False)
RELAXED = PathRules(encoded_slash="keep", merge_slashes=False)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/", "/"),
        (b"/content/v1/read/do_1", "/content/v1/read/do_1"),
        (b"/content/", "/content/"),
        (b"/a/./b", "/a/b"),
        (b"/a/../b", "/b"),
        (b"/a/b/..", "/a/"),
        (b"/a/.", "/a/"),
        (b"/.", "/"),
        (b"/a/..", "/"),
        (b"/a//b///c//", "/a/b/c/"),
        (b"//", "/"),
        (b"//host/x", "/host/x"),
        (b"/a//../b", "/b"),
        (b"/%61%7E%2D%5f", "/a~-_"),
        (b"/caf%c3%a9", "/caf%C3%A9"),
        (b"/a%20b%3a%3B", "/a%20b%3A%3B"),
        (b"/%2561", "/%2561"),
        (b"/%25%32%66", "/%252f"),
        (b"/route%2E/req", "/route./req"),
        (b"/route%2e%2E/req", "/route../req"),
        (b"/...", "/..."),
        (b"/.well-known/x", "/.well-known/x"),
        (b"/a;v=1/b", "/a;v=1/b"),
        (b"/a.;v=1", "/a.;v=1"),
        (b'/"<>^`{|}[]', "/%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
        (b"/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
    ],
)
def test_one_reading(raw: bytes, expected: str) -> None:
    assert canonical(raw) == expected


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "begin with /"),
        (b"*", "begin with /"),
        (b"a/b", "begin with /"),
        (b"http://host/", "begin with /"),
        (b"/a%2fb", "encoded slash"),
        (b"/a%2Fb", "encoded slash"),
        (b"/a%5cb", "encoded backslash"),
        (b"/a%5C..%5Cb", "encoded backslash"),
        (b"/a\\b", "not allowed"),
        (b"/a\\..\\b", "not allowed"),
        (b"/a%00", "encoded control"),
        (b"/a%0d%0aSet-Cookie", "encoded control"),
        (b"/a%1F", "encoded control"),
        (b"/a%7f", "encoded control"),
        (b"/a\x00", "not allowed"),
        (b"/a\tb", "not allowed"),
        (b"/a b", "not allowed"),
        (b"/a\x7f", "not allowed"),
        (b"/caf\xc3\xa9", "not allowed"),
        (b"/a#b", "not allowed"),
        (b"/a?b", "not allowed"),
        (b"/a/..;/b", "with parameters"),
        (b"/a/..;x=1/b", "with parameters"),
        (b"/a/.;/b", "with parameters"),
        (b"/a/%2e%2e;/b", "with parameters"),
        (b"/a/.%2e%3b/b", "with parameters"),
        (b"/a/b..;/c", "with parameters"),
        (b"/a/%2e/b", "encoded dot segment"),
        (b"/a/%2E%2e/b", "encoded dot segment"),
        (b"/a/.%2e", "encoded dot segment"),
        (b"/a/%2e.", "encoded dot segment"),
        (b"/%2e", "encoded dot segment"),
        (b"/..", "climbs above"),
        (b"/../a", "climbs above"),
        (b"/a/../..", "climbs above"),
        (b"/a/../../b", "climbs above"),
        (b"//../a", "climbs above"),
        (b"/%", "broken percent"),
        (b"/%4", "broken percent"),
        (b"/%zz", "broken percent"),
        (b"/%u002e", "broken percent"),
        (b"/%%61", "broken percent"),
    ],
)
def test_refused(raw: bytes, why: str) -> None:
    with pytest.raises(PathError, match=why):
        canonical(raw)


@pytest.mark.parametrize(
    ("raw", "rules", "expected"),
    [
        (b"/a%2fb", KEEP, "/a%2Fb"),
        (b"/a%2Fb//c", KEEP, "/a%2Fb/c"),
        (b"/a//b/", UNMERGED, "/a//b/"),
        (b"//", UNMERGED, "//"),
        (b"/a//../b", UNMERGED, "/a/b"),
        (b"/a%2f%2fb//", RELAXED, "/a%2F%2Fb//"),
    ],
)
def test_relaxed(raw: bytes, rules: PathRules, expected: str) -> None:
    assert canonical(raw, rules) == expected


@pytest.mark.parametrize("raw", [b"/a%2f..", b"/..%2fa", b"/a%2f..%2fb", b"/a%2f.%2fb", b"/a%2F%2e%2e", b"/a%2f.;x"])
def test_a_kept_slash_reveals_no_dot_segment(raw: bytes) -> None:
    with pytest.raises(PathError, match="dot segment"):
        canonical(raw, KEEP)


@pytest.mark.parametrize(
    ("service_path", "path", "matched", "strip", "expected"),
    [
        # The service at the root forwards what came.
        ("/", "/lessons/1", 8, False, "/lessons/1"),
        ("", "/lessons/1", 8, False, "/lessons/1"),
        ("", "/", 1, True, "/"),
        # The service's own path stands first, with one slash between.
        ("/lms", "/lessons", 8, False, "/lms/lessons"),
        ("/lms/", "/lessons", 8, False, "/lms/lessons"),
        ("/lms", "/lessons/7", 8, True, "/lms/7"),
        ("/lms/", "/lessons/7", 8, True, "/lms/7"),
        ("/lms", "/lessons/7", 9, True, "/lms/7"),
        # A plain prefix may end inside a segment.
        ("/lms", "/lessons-old", 8, True, "/lms/-old"),
        ("/", "/lessons-old", 8, True, "/-old"),
        # A request for / is the service's path as written.
        ("/lms", "/", 1, True, "/lms"),
        ("/lms/", "/", 1, False, "/lms/"),
        ("/lms", "/", 0, True, "/lms"),
        # When all was cut off, the request's last slash decides.
        ("/lms/", "/lessons", 8, True, "/lms"),
        ("/lms", "/lessons/", 9, True, "/lms/"),
        ("/lms", "/lessons/", 8, True, "/lms/"),
        ("/", "/lessons", 8, True, "/"),
        # Dot segments that the cut reveals never climb.
        ("/lms", "/lessons../admin", 8, True, "/lms/admin"),
        ("/lms/", "/lessons./admin", 8, True, "/lms/admin"),
        ("/lms", "/lessons..", 8, True, "/lms/"),
        ("/lms", "/lessons.;x/admin", 8, True, "/lms/admin"),
        ("/", "/lessons../admin", 8, True, "/admin"),
        ("/lms", "/lessons..%2Fadmin", 8, True, "/lms/admin"),
        ("/lms", "/lessons...", 8, True, "/lms/..."),
        ("/lms", "/lessons../admin", 8, False, "/lms/lessons../admin"),
    ],
)
def test_join(service_path: str, path: str, matched: int, strip: bool, expected: str) -> None:
    assert join_upstream(service_path, path, matched, strip) == expected


CASES = Path(__file__).resolve().parents[3] / "shared/cases/kong/router-paths.json"


def test_join_as_kong_v0() -> None:
    if not CASES.exists():
        pytest.skip("the public cases are not here")
    rows = [row for row in json.loads(CASES.read_text()) if row["path_handling"] == "v0"]
    assert rows
    for row in rows:
        path = canonical(row["request_path"].encode())
        matched = len(row["route_path"] or "")
        assert join_upstream(row["service_path"], path, matched, row["strip_path"]) == row["expected_path"], row


# ── what holds for any bytes ────────────────────────────────────────────────────────────────────

PIECES = st.sampled_from(
    [b"/", b"//", b".", b"..", b"%2e", b"%2E", b";", b"%2f", b"%5c", b"%41", b"%c3%a9", b"%", b"a", b"Zz", b'"', b"{x}"]
)
RAW = st.one_of(
    st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map(lambda text: b"/" + text.encode()),
    st.binary(max_size=12).map(lambda tail: b"/" + tail),
)
RULES = st.sampled_from([DEFAULT, KEEP, UNMERGED, RELAXED])


def accepted(raw: bytes, rules: PathRules) -> str:
    try:
        return canonical(raw, rules)
    except PathError:
        assume(False)
        raise


def judge(path: str, rules: PathRules) -> None:
    """Fail unless `path` is written canonically."""
    assert re.fullmatch(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-F]{2})*", path)
    segments = path[1:].split("/")
    parts = [part for segment in segments for part in segment.split("%2F")]
    assert not {".", ".."} & set(parts)
    assert "..;" not in path
    if rules.merge_slashes:
        assert "//" not in path
    for escape in re.findall("%(..)", path):
        code = int(escape, 16)
        assert code > 0x1F
        assert code not in (0x7F, 0x5C)
        assert not re.fullmatch(r"[A-Za-z0-9\-._~]", chr(code))
        assert code != 0x2F or rules.encoded_slash == "keep"


@given(RAW, RULES)
def test_canonical_is_canonical_and_stays(raw: bytes, rules: PathRules) -> None:
    path = accepted(raw, rules)
    judge(path, rules)
    assert canonical(path.encode("ascii"), rules) == path


@given(RAW, RULES)
def test_nothing_but_a_path_error(raw: bytes, rules: PathRules) -> None:
    # Any other exception fails the test.
    with contextlib.suppress(PathError):
        canonical(raw, rules)


@given(RAW, RULES, st.sampled_from(["", "/", "/lms", "/lms/", "/a/b"]), st.data(), st.booleans())
def test_join_is_canonical_and_below_the_service(
    raw: bytes, rules: PathRules, service_path: str, data: st.DataObject, strip: bool
) -> None:
    path = accepted(raw, rules)
    # A route never matches half an escape or half of what an escape hides.
    cuts = [cut for cut in range(len(path) + 1) if "%" not in path[max(0, cut - 2) : cut]]
    joined = join_upstream(service_path, path, data.draw(st.sampled_from(cuts)), strip)
    judge(joined, rules)
    assert joined.startswith(service_path.rstrip("/"))
    assert canonical(joined.encode("ascii"), rules) == joined
