"""A stored response: how it is written down, read again, and answered with.

Written down it is a line of numbers, a line for each name and each value of a header, and the body; a record of the
fields that choose a variant (`Vary`) is one line.  What cannot be read is no entry: caches outlive versions of Postern.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Final

from gateway.core.context import Context
from gateway.core.decision import Reply
from gateway.core.http import RESPONSE_DROP, tokens
from policies._cache_directives import Asked, http_date

Headers = tuple[tuple[bytes, bytes], ...]

_MAGIC: Final = b"postern/1"
_VARY: Final = b"postern/vary "
_VIA: Final = (b"Via", b"1.1 postern")

#: Fields of the response that are this hop's, another answer's, or counted anew each time.
_UNSTORED: Final = RESPONSE_DROP | {
    b"age",
    b"x-cache-status",
    b"x-request-id",
    b"traceparent",
    b"authentication-info",
    b"proxy-authentication-info",
}
#: What a 304 says of the response that it stands for (RFC 9110 §15.4.5).
_OF_304: Final = frozenset(
    {b"cache-control", b"content-location", b"date", b"etag", b"expires", b"last-modified", b"vary", b"server"}
)
#: An entity tag without its mark of weakness: comparison is weak.
_TAG: Final = re.compile(rb'"[^"]*"')
_NO_NAMES: Final[frozenset[bytes]] = frozenset()


class Stored:
    """A response as it is stored; `born` and `lifetime` as in `Terms`, `key` is where it stands."""

    __slots__ = ("body", "born", "headers", "key", "lifetime", "never_stale", "shared", "status")

    def __init__(
        self,
        key: str,
        status: int,
        born: float,
        lifetime: float,
        shared: bool,
        never_stale: bool,
        headers: Headers,
        body: bytes,
    ) -> None:
        self.key = key
        self.status = status
        self.born = born
        self.lifetime = lifetime
        self.shared = shared
        self.never_stale = never_stale
        self.headers = headers
        self.body = body

    def fits(self, asked: Asked | None, now: float) -> bool:
        """May it answer a request that asks this, at `now`, without the upstream (RFC 9111 §4.2, §5.2.1)?"""
        age = now - self.born
        if asked is None:
            return age < self.lifetime
        if asked.no_cache:
            return False
        if asked.max_age is not None and (age > asked.max_age or not asked.max_age):
            return False
        if age + (asked.min_fresh or 0) < self.lifetime:
            return True
        return asked.max_stale is not None and not self.never_stale and age <= self.lifetime + asked.max_stale


def stored_headers(fields: list[tuple[bytes, bytes]], index: dict[bytes, bytes], date: bytes) -> Headers:
    """The fields of a response that are stored; `date` is when it came, for one that does not say when it was made."""
    drop = _UNSTORED
    if b"connection" in index:
        drop = drop.union(tokens(index[b"connection"]))
    kept = tuple([(name, value) for name, value in fields if name.lower() not in drop])
    return kept if b"date" in index else (*kept, (b"Date", date))


def size_of(headers: Headers) -> int:
    """About how many bytes these fields take in a stored response."""
    return 64 + sum([len(name) + len(value) + 4 for name, value in headers])


def encode(stored: Stored) -> bytes:
    """A response as bytes."""
    flags = (1 if stored.shared else 0) | (2 if stored.never_stale else 0)
    head = b"\r\n".join([part for field in stored.headers for part in field])
    numbers = (_MAGIC, len(head), len(stored.body), stored.status, stored.born, stored.lifetime, flags)
    return b"%b %d %d %d %.3f %.3f %d\r\n%b%b" % (*numbers, head, stored.body)


def decode(key: str, value: bytes) -> Stored | None:
    """The response that was stored under `key`; None for what is none."""
    first, _, rest = value.partition(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 7 or parts[0] != _MAGIC:
        return None
    try:
        size, length, status, flags = int(parts[1]), int(parts[2]), int(parts[3]), int(parts[6])
        born, lifetime = float(parts[4]), float(parts[5])
    except ValueError:
        return None
    if len(rest) != size + length or not (200 <= status <= 599 and isfinite(born) and isfinite(lifetime)):
        return None
    lines = rest[:size].split(b"\r\n") if size else []
    headers = tuple(zip(lines[::2], lines[1::2], strict=False))
    return Stored(key, status, born, lifetime, bool(flags & 1), bool(flags & 2), headers, rest[size:])


def encode_vary(names: tuple[bytes, ...]) -> bytes:
    """The record that responses of this key differ by these request fields."""
    return _VARY + b",".join(names)


def decode_vary(value: bytes) -> tuple[bytes, ...] | None:
    """The names of such a record; None for what is none."""
    return tuple(value[len(_VARY) :].split(b",")) if value.startswith(_VARY) else None


def reply(stored: Stored, context: Context, now: float) -> Reply:
    """The answer to a request that a stored response fits: the response, or 304 if the client has it already."""
    status, body, only = stored.status, stored.body, _NO_NAMES
    index = context.index
    conditional = b"if-none-match" in index or b"if-modified-since" in index
    if conditional and status == 200 and _unchanged(stored, index, now):
        status, body, only = 304, b"", _OF_304
    drop = frozenset().union(*context.replaced) if context.replaced else _NO_NAMES
    headers = stored.headers
    if drop or only:
        headers = tuple(
            [
                (name, value)
                for name, value in headers
                if (lower := name.lower()) not in drop and (not only or lower in only)
            ]
        )
    age = (b"Age", b"%d" % max(0, int(now - stored.born)))
    return Reply(status, headers=(*headers, age, _VIA), body=body, facts={"cache": "hit"})


def _unchanged(stored: Stored, index: dict[bytes, bytes], now: float) -> bool:
    """Does the client have this very response (RFC 9110 §13.1.2, §13.1.3; RFC 9111 §4.3.2)?"""
    given = index.get(b"if-none-match")
    if given is not None:
        if given == b"*":
            return True
        etag = _field(stored, b"etag")
        return etag is not None and etag.removeprefix(b"W/") in _TAG.findall(given)
    since = http_date(index[b"if-modified-since"], now)
    changed = http_date(_field(stored, b"last-modified") or _field(stored, b"date") or b"", now)
    return since is not None and changed is not None and changed <= since


def _field(stored: Stored, wanted: bytes) -> bytes | None:
    for name, value in stored.headers:
        if name.lower() == wanted:
            return value
    return None
