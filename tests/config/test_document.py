"""YAML into plain values: no surprises, bounded, every value with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.document import MAX_DEPTH, parse
from gateway.config.interpolate import Interpolator
from gateway.config.problems import Place


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[off, on, no, yes, y, n]", ["off", "on", "no", "yes", "y", "n"]),
        ("[true, True, FALSE, null, ~, ]", [True, True, False, None, None]),
        ("[1, -2, +3, 0, 007, 0x10, 0o7, 1_000]", [1, -2, 3, 0, "007", "0x10", "0o7", "1_000"]),
        ("[1.5, -0.25, 1e3, .5, 1., .inf, .nan]", [1.5, -0.25, "1e3", ".5", "1.", ".inf", ".nan"]),
        ("[12:30, 2027-01-31, 1.2.3, 10.0.0.1]", ["12:30", "2027-01-31", "1.2.3", "10.0.0.1"]),
        ("['1', \"true\", !!str 5, ! 6]", ["1", "true", "5", "6"]),
        ("[99999999999999999999999]", ["99999999999999999999999"]),
        ("{1: a, true: b, ~: c}", {"1": "a", "true": "b", "~": "c"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("%YAML 1.2\n---\na: 1\n...\n", {"a": 1}),
        ("a: &x {k: [1]}\nb: *x", {"a": {"k": [1]}, "b": {"k": [1]}}),
        ("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}", {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}}),
        ("b: {<<: [{k: 1}, {k: 2, l: 3}]}", {"b": {"k": 1, "l": 3}}),
        ('b: {"<<": 1}', {"b": {"<<": 1}}),
        ("a: ${X} $$ $2b$10", {"a": "${X} $$ $2b$10"}),
    ],
)
def test_values(text: str, value: Any) -> None:
    document = parse(text.encode())
    assert document.problems == []
    assert document.value == value


@pytest.mark.parametrize(
    ("content", "place", "text"),
    [
        (b"a: \xff", (1, 4), "0xff is not UTF-8"),
        (b"a: \xc3\xa9\nb: \xe9x", (2, 4), "0xe9 is not UTF-8"),
        (b"\xff\xfea\x00", (1, 1), "UTF-16"),
        (b"\xef\xbb\xbfa: 1", (1, 1), "byte order mark"),
        (b"a: 1\nb: \x00", (2, 4), "a NUL character"),
        (b"a: \x1b[0m", (1, 4), "control character U+001B"),
        (b'a: "\\0"', (1, 4), "NUL"),
        (b'"\\0": 1', (1, 1), "NUL"),
        (b"a:\n\tb: 1", (2, 1), "a tab"),
        (b"a: b: c", (1, 5), "a colon"),
        (b"a: [1", (1, 6), "breaks here"),
        (b"a: {b: ${X}}", (1, 9), "wants quotes"),
        (b"a: 1\nb: 2\na: 3", (3, 1), "stands twice; the first is at line 1, column 1"),
        (b"a: 1\n---\nb: 2", (2, 1), "second document"),
        (b"a: !!int 5", (1, 4), "tag"),
        (b"a: !x {}", (1, 4), "tag"),
        (b"a: !x []", (1, 4), "tag"),
        (b"? [1]\n: 2", (1, 3), "a key must be text"),
        (b"? {a: 1}\n: 2", (1, 3), "a key must be text"),
        (b"a: &a k\n*a : 1", (2, 1), "a key must be text"),
        (b"a: *b", (1, 4), "has no anchor"),
        (b"a: &a [*a]", (1, 8), "inside its own anchor"),
        (b"a: &a {b: {c: *a}}", (1, 15), "inside its own anchor"),
        (b"<<: 1", (1, 5), "merge key"),
        (b"<<: [1]", (1, 6), "merge key"),
        (b"[" * 100_000, (1, MAX_DEPTH + 1), "deeper than"),
        (b"- " * 100_000, (1, 2 * MAX_DEPTH + 1), "deeper than"),
        (b"{a: " * 100_000, (1, 4 * MAX_DEPTH + 1), "deeper than"),
    ],
)
def test_problems(content: bytes, place: tuple[int, int], text: str) -> None:
    found, problem = parse(content).problems[0]
    assert (found.line, found.column) == place
    assert text in problem.text


def test_aliases_are_bounded() -> None:
    lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (_, problem), *more = parse("\n".join(lines).encode()).problems
    assert "aliases stand for more than" in problem.text
    assert more == []


def test_aliases_do_not_add_depth_unseen() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, MAX_DEPTH + 1)]
    (_, problem), *_ = parse("\n".join(lines).encode()).problems
    assert "deeper than" in problem.text


def test_a_large_file_is_refused_unread() -> None:
    assert "larger than 64 MiB" in parse(b" " * (64 * 1024 * 1024 + 1)).problems[0][1].text


def test_places() -> None:
    document = parse(b"a:\n  b: [x, {c: 1}]\n  d: &d {e: 1}\nf:\n  <<: *d\n")
    for path, at_key, place in [
        (("a",), True, Place(1, 1)),
        (("a",), False, Place(2, 3)),
        (("a", "b"), True, Place(2, 3)),
        (("a", "b"), False, Place(2, 6)),
        (("a", "b", 0), False, Place(2, 7)),
        (("a", "b", 1, "c"), False, Place(2, 14)),
        (("f", "e"), False, Place(3, 13)),
        (("f", "e"), True, Place(3, 10)),
        (("a", "b", 1, "missing"), False, Place(2, 10)),
        (("a", "b", 1, "missing"), True, Place(2, 10)),
        (("nowhere", 3), False, Place(1, 1)),
        ((), False, Place(1, 1)),
    ]:
        assert document.place(path, at_key) == place, path


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(categories=["L", "N", "P", "Z"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<$*&! ", max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(_json)
def test_what_is_dumped_is_read(value: Any) -> None:
    document = parse(yaml.safe_dump(value, allow_unicode=True).encode())
    assert document.problems == []
    assert document.value == value


@given(
    st.binary()
    | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)
    | st.text("abc:-[]{}&*!<>|'\"%#\n\t $").map(str.encode)
)
def test_nothing_is_raised(content: bytes) -> None:
    document = parse(content, Interpolator({}, Path()))
    assert document.complete or document.problems or document.value is None
