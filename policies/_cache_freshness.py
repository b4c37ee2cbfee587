"""May a response be stored, by whom may it be read, and how long is it fresh (RFC 9111 §3, §4.2)?

Pure: fields and times in, `Terms` or None out.  Postern is a shared cache; it validates nothing with the upstream, so
what could only be used after a validation is not stored at all.
"""

from __future__ import annotations

from typing import Final

from policies._cache_directives import FOREVER, delta_seconds, directives, http_date

#: What lets a response to a request with a credential be given to others (RFC 9111 §3.5).
_SHARED: Final = frozenset({b"public", b"s-maxage", b"must-revalidate"})
#: What forbids to use a stale response (RFC 9111 §4.2.4).
_NEVER_STALE: Final = frozenset({b"must-revalidate", b"proxy-revalidate", b"s-maxage"})


class Terms:
    """On what terms a response is stored.

    `born` is when it was made, as near as can be told, in Unix seconds, so that its age is the time since;
    `lifetime` how old it may become, in seconds; `shared` says that it is for everybody, whatever credential the
    request carried; `never_stale` that `max-stale` does not hold for it.
    """

    __slots__ = ("born", "lifetime", "never_stale", "shared")

    def __init__(self, born: float, lifetime: float, shared: bool, never_stale: bool) -> None:
        self.born = born
        self.lifetime = lifetime
        self.shared = shared
        self.never_stale = never_stale


def terms(index: dict[bytes, bytes], ttl: float, requested: float, received: float) -> Terms | None:
    """The terms of a response with these fields, or None if it may not be stored.

    `ttl` is the lifetime, from `received` on, of one that does not say how long it is fresh; `requested` and
    `received` are when the request arrived and the head came, in Unix seconds.
    """
    if b"set-cookie" in index:
        return None
    control = index.get(b"cache-control")
    if control is not None:
        said = directives(control)
    elif b"no-cache" in index.get(b"pragma", b"").lower():
        return None  # what servers say that know HTTP/1.0 alone
    else:
        said = {}
    # `private` is for one user alone; a credential is not one: an application carries the same for all of its users.
    if b"no-store" in said or b"no-cache" in said or b"private" in said:
        return None
    date = http_date(index.get(b"date", b""), received)
    born = received - _initial_age(index, date, requested, received)
    given = _lifetime(index, said, received if date is None else date, received)
    if given is not None:
        lifetime = given
    elif ttl > 0:
        lifetime = received - born + ttl
    else:
        return None
    if received - born >= lifetime:
        return None
    names = said.keys()
    return Terms(
        born,
        lifetime,
        not _SHARED.isdisjoint(names),
        not _NEVER_STALE.isdisjoint(names),
    )


def _initial_age(index: dict[bytes, bytes], date: int | None, requested: float, received: float) -> float:
    """How old the response was when it came (RFC 9111 §4.2.3)."""
    apparent = 0 if date is None else int(received) - date
    if apparent <= 1:
        # Dates are whole seconds: one that has just passed says nothing.
        apparent = 0
    age = delta_seconds(index.get(b"age", b"").partition(b",")[0].strip()) or 0
    return float(max(apparent, age + max(0.0, received - requested)))


def _lifetime(index: dict[bytes, bytes], said: dict[bytes, bytes | None], date: float, received: float) -> float | None:
    """What the response itself says of its lifetime (RFC 9111 §4.2.1), 0 for what cannot be read; None for nothing."""
    for name in (b"s-maxage", b"max-age"):
        if name in said:
            return float(delta_seconds(said[name]) or 0)
    if b"expires" in index:
        until = http_date(index[b"expires"], received)
        return 0.0 if until is None else min(float(until - date), float(FOREVER))
    return None
