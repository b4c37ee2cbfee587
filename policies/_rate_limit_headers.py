"""The header fields of `rate-limiting`, both generations, written from what the counters answered (contract §4).

`RateLimit-Limit`, `-Remaining` and `-Reset` are draft-ietf-httpapi-ratelimit-headers-03; `RateLimit-Policy` and
`RateLimit` are draft 10, structured fields of RFC 9651.  Whatever the limits alone decide is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from gateway.core.ports import WindowState

SECOND = 1_000_000_000

DRAFT_03 = "draft-03"
DRAFT_10 = "draft-10"

_NAMES = {
    DRAFT_03: frozenset({b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset"}),
    DRAFT_10: frozenset({b"ratelimit-policy", b"ratelimit"}),
}


class Window(NamedTuple):
    """A window as headers show it; `drafts` are the generations in which it is shown."""

    name: str
    limit: int
    seconds: int
    drafts: tuple[str, ...]


def quoted(text: str) -> str:
    """A String of RFC 9651 §3.3.3; what it cannot hold becomes `?`."""
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def seconds_up(nanoseconds: int) -> int:
    """Whole seconds, rounded up."""
    return -(-nanoseconds // SECOND)


class Fields:
    """The header fields of one list of windows, whose states come in the same order.

    `names` are the lower-case names written here, which replace an upstream's own.
    """

    __slots__ = ("_combined", "_draft_03", "_draft_10", "_order", "_orders", "names", "windows")

    def __init__(self, windows: Sequence[Window]) -> None:
        self.windows = tuple(windows)
        # The shorter first, so that it is the one described when two have as few left.
        order = sorted(range(len(self.windows)), key=lambda index: self.windows[index].seconds)
        self._orders = {
            draft: tuple(index for index in order if draft in self.windows[index].drafts)
            for draft in (DRAFT_03, DRAFT_10)
        }
        self.names: frozenset[bytes] = frozenset().union(
            *(_NAMES[draft] for draft, some in self._orders.items() if some)
        )
        members = [self.windows[index] for index in sorted(self._orders[DRAFT_10])]
        policy = ", ".join(f"{quoted(member.name)};q={member.limit};w={member.seconds}" for member in members)
        # Templates are filled with `%`, so what is text in them says it twice.
        line = f"RateLimit-Policy: {policy}\r\n".replace("%", "%%")
        self._draft_03 = tuple(
            f"RateLimit-Limit: {window.limit}\r\nRateLimit-Remaining: %d\r\nRateLimit-Reset: %d\r\n"
            for window in self.windows
        )
        self._draft_10 = tuple(
            f"{line}RateLimit: {quoted(window.name).replace('%', '%%')};r=%d;t=%d\r\n" for window in self.windows
        )
        same = self._orders[DRAFT_03] == self._orders[DRAFT_10]
        self._order = self._orders[DRAFT_03] if same else ()
        self._combined = tuple(old + new for old, new in zip(self._draft_03, self._draft_10, strict=True))

    def counted(self, states: Sequence[WindowState]) -> bytes:
        """The lines of a request that was counted: the window with the fewest left, the shorter of equals."""
        order = self._order
        if order:
            chosen = order[0]
            left, reset = states[chosen]
            for index in order:
                state = states[index]
                if state[0] < left:
                    chosen = index
                    left, reset = state
            reset = -(-reset // 1_000_000_000)
            return (self._combined[chosen] % (left, reset, left, reset)).encode()
        return self._apart(states, refused=False)

    def refused(self, states: Sequence[WindowState]) -> bytes:
        """The lines of a request that was refused: the exhausted window that frees last."""
        return self._apart(states, refused=True)

    def _apart(self, states: Sequence[WindowState], refused: bool) -> bytes:
        """Each generation by itself, over the windows that are shown in it."""
        lines = ""
        for draft, templates in ((DRAFT_03, self._draft_03), (DRAFT_10, self._draft_10)):
            order = self._orders[draft]
            if order:
                exhausted = [index for index in order if states[index][0] == 0] if refused else []
                if exhausted:
                    chosen = max(exhausted, key=lambda index: states[index][1])
                else:
                    chosen = min(order, key=lambda index: states[index][0])
                left, reset = states[chosen]
                lines += templates[chosen] % (left, seconds_up(reset))
        return lines.encode()


@lru_cache(maxsize=4096)
def fields_of(windows: tuple[Window, ...]) -> Fields:
    """The `Fields` of these windows, one object for equal ones."""
    return Fields(windows)


@lru_cache(maxsize=4096)
def joined(first: Fields, second: Fields) -> Fields:
    """The `Fields` of two lists of windows, one after the other."""
    return fields_of(first.windows + second.windows)
