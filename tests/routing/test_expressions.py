"""A set of expressions that runs out of memory is not taken for one in which nothing matched."""

from __future__ import annotations

import pytest
import re2

from gateway.routing import expressions
from gateway.routing.router import Router, RouteSpec


class _Exhausted(re2.Set):  # type: ignore[misc]  # re2 has no type stubs
    """What RE2 does when a set's automaton does not fit: no error, no matches."""

    def Match(self, text: bytes) -> None:  # noqa: N802  (re2's name)
        return None


class _Re2:
    """The module with that set in it."""

    Set = _Exhausted
    Options, error = re2.Options, re2.error


def test_an_exhausted_set_is_answered_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "re2", _Re2)
    router = Router([RouteSpec(str(n), n, paths=(f"~^/a{n}$",)) for n in range(3)] + [RouteSpec("open", -1)])
    assert router.match("GET", "", "/a2", {}) == (2, 3, None)
    assert router.match("GET", "", "/a3", {}) == (-1, 0, None)
