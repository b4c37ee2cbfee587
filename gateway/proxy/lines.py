"""The memory of header lines that llhttp has accepted: most lines come again and again.

Laws: a line stands for itself whatever its neighbours are, so a head of nothing but known lines needs no second
judgement; the memory is bounded, follows the traffic, and never keeps a line that may hold a secret.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from gateway.core.http import CREDENTIALS, Watched

V = TypeVar("V")


class LineMemo(Generic[V]):
    """Lines, and what follows from each.  Bounded: 64 a name, 4,096 in all, after which it starts anew."""

    __slots__ = ("_per_name", "known")

    def __init__(self) -> None:
        self.known: dict[bytes, V] = {}
        self._per_name: dict[bytes, int] = {}

    def learn(self, line: bytes, lower: bytes, value: V) -> None:
        """Keep a line of the field `lower`."""
        number = self._per_name.get(lower, 0)
        if number >= 64 or len(line) > 256 or lower in _SECRET_LINES or lower in _declared_secrets:
            return
        if len(self.known) >= 4096:
            self.reset()
        self._per_name[lower] = number + 1
        self.known[line] = value

    def reset(self) -> None:
        """Start anew."""
        self.known.clear()
        self._per_name.clear()


#: Names whose values are secrets, or may be.
_SECRET_LINES: Final = CREDENTIALS | {
    b"cookie",
    b"set-cookie",
    b"proxy-authorization",
    b"x-csrf-token",
    b"x-xsrf-token",
}
#: Names that a configuration gives to the headers that carry its keys.
_declared_secrets: Final[set[bytes]] = set()

#: Line to (lower-case name, value, kind).
REQUEST_LINES: Final[LineMemo[tuple[bytes, bytes, int]]] = LineMemo()
#: Line to the lower-case name where it needs a look, b"" where it is simply relayed.
RESPONSE_LINES: Final[LineMemo[bytes]] = LineMemo()
#: The response headers that need a look.
WATCHED: Final = Watched()


def watch(names: frozenset[bytes]) -> None:
    """Tell these response headers apart from now on: policies replace them."""
    if WATCHED.add(names):
        RESPONSE_LINES.reset()


def keep_secret(names: frozenset[bytes]) -> None:
    """Never remember lines of these names (lower case): a configuration lets them carry keys."""
    if not names <= _declared_secrets:
        _declared_secrets.update(names)
        REQUEST_LINES.reset()


def forget_lines() -> None:
    """Let the memory of lines follow the traffic: called now and then."""
    REQUEST_LINES.reset()
    RESPONSE_LINES.reset()
