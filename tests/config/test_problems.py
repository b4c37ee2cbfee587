"""How problems are put: key paths, suggestions, one line each."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.problems import did_you_mean, format_path, listed, printable, value_at


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "(document)"),
        (("listen",), "listen"),
        (("services", 0, "routes", 1, "policies", "acl", "allow"), "services[0].routes[1].policies.acl.allow"),
        ((3, "a"), "[3].a"),
        (("a\nb", "\x1b[0m"), "a\\nb.\\x1b[0m"),
    ],
)
def test_format_path(path: tuple[str | int, ...], text: str) -> None:
    assert format_path(path) == text


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("lisen", ["listen", "limits"], " (did you mean listen?)"),
        ("CONTENTUSER", ["contentUser", "contentAdmin"], " (did you mean contentUser?)"),
        ("zzz", ["listen"], ""),
        ("x", [], ""),
        ("route-700", [f"route-{n}" for n in range(400)] + ["route-7000"], " (did you mean route-7000?)"),
        ("route-1", [f"route-{n}" for n in range(10_000)], " (did you mean route-1?)"),
        ("x" * 100_000, ["y"], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], text: str) -> None:
    assert did_you_mean(word, known) == text


def test_listed() -> None:
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed("abc", "and")] == ["", "a", "a or b", "a, b and c"]


def test_printable() -> None:
    assert printable("plain … text") == "plain … text"
    assert printable("a\nb\x00\u202e") == "a\\nb\\x00\\u202e"


@pytest.mark.parametrize(
    ("path", "value"),
    [((), {"a": [1, {"b": 2}]}), (("a", 1, "b"), 2), (("a", 2), None), (("a", "b"), None), (("x", 0), None)],
)
def test_value_at(path: tuple[str | int, ...], value: Any) -> None:
    assert value_at({"a": [1, {"b": 2}]}, path) == value
