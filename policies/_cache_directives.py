"""Reading the fields that caches go by: Cache-Control, numbers of seconds, dates (RFC 9111 §5.2; RFC 9110 §5.6.7).

Pure, linear in what is read.  Where a field is malformed, what forbids is heard and what permits is not.
"""

from __future__ import annotations

import re
from calendar import timegm
from typing import Final

#: What a number of seconds that cannot be represented counts as (RFC 9111 §1.2.2).
FOREVER: Final = 2**31

#: A member of a list whose quoted strings may hold commas.
_MEMBER: Final = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*")+', re.DOTALL)
_DIGITS: Final = re.compile(rb"[0-9]+")

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}
_FIXDATE: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_RFC850: Final = re.compile(
    rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, "
    rb"([0-9]{2})-([A-Z][a-z]{2})-([0-9]{2}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_ASCTIME: Final = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ([A-Z][a-z]{2}) ([0-9 ][0-9]) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})"
)


def directives(value: bytes) -> dict[bytes, bytes | None]:
    """The directives of a Cache-Control field: lower-case name to argument, None where it has none.

    Quotes around an argument are left out.  One that is given twice with different arguments has the argument b"",
    which is no number of seconds.
    """
    found: dict[bytes, bytes | None] = {}
    # A quotation that does not end might hide anything: then every comma counts.
    members = value.split(b",") if b'"' not in value or value.count(b'"') % 2 else _MEMBER.findall(value)
    for member in members:
        name, equals, given = member.partition(b"=")
        name = name.strip(b' \t"').lower()
        if not name:
            continue
        argument: bytes | None = given.strip().strip(b'"') if equals else None
        if name in found and found[name] != argument:
            argument = b""
        found[name] = argument
    return found


def delta_seconds(argument: bytes | None) -> int | None:
    """A number of seconds, `FOREVER` at the most; None for what is none."""
    if argument is None or not _DIGITS.fullmatch(argument):
        return None
    return min(int(argument), FOREVER) if len(argument) < 11 else FOREVER


def http_date(value: bytes, now: float) -> int | None:
    """An HTTP date in any of its three forms as Unix seconds; None for what is none.

    `now` tells the century of a year of two digits: one that would lie more than 50 years ahead is past.
    """
    match = _FIXDATE.fullmatch(value)
    if match is not None:
        day, month, year, hour, minute, second = match.groups()
        return _seconds(int(year), month, day, hour, minute, second)
    match = _RFC850.fullmatch(value)
    if match is not None:
        day, month, year, hour, minute, second = match.groups()
        this_year = 1970 + int(now / 31_556_952)
        full = this_year - this_year % 100 + int(year)
        return _seconds(full - 100 if full > this_year + 50 else full, month, day, hour, minute, second)
    match = _ASCTIME.fullmatch(value)
    if match is not None:
        month, day, hour, minute, second, year = match.groups()
        return _seconds(int(year), month, day, hour, minute, second)
    return None


def _seconds(year: int, month: bytes, day: bytes, hour: bytes, minute: bytes, second: bytes) -> int | None:
    number = _MONTHS.get(month)
    days, hours, minutes, seconds = int(day), int(hour), int(minute), int(second)
    if number is None or not 1 <= days <= 31 or hours > 23 or minutes > 59 or seconds > 60 or year < 1970:
        return None
    return timegm((year, number, days, hours, minutes, seconds, 0, 0, 0))


class Asked:
    """What a request asks of a cache (RFC 9111 §5.2.1): seconds where a directive has them, None where it is absent.

    `max_stale` is `FOREVER` where any staleness will do.  A number that cannot be read counts as the strictest.
    """

    __slots__ = ("max_age", "max_stale", "min_fresh", "no_cache", "no_store", "only_if_cached")

    def __init__(self, found: dict[bytes, bytes | None]) -> None:
        self.no_cache = b"no-cache" in found
        self.no_store = b"no-store" in found
        self.only_if_cached = b"only-if-cached" in found
        self.max_age: int | None = None
        self.min_fresh: int | None = None
        self.max_stale: int | None = None
        if b"max-age" in found:
            self.max_age = delta_seconds(found[b"max-age"]) or 0
        if b"min-fresh" in found:
            least = delta_seconds(found[b"min-fresh"])
            self.min_fresh = FOREVER if least is None else least
        if b"max-stale" in found:
            self.max_stale = FOREVER if found[b"max-stale"] is None else delta_seconds(found[b"max-stale"]) or 0


def asked_of(index: dict[bytes, bytes]) -> Asked | None:
    """What a request's fields ask of a cache; None where they ask nothing."""
    control = index.get(b"cache-control")
    if control is not None:
        asked = Asked(directives(control))
        nothing = not (asked.no_cache or asked.no_store or asked.only_if_cached) and (
            asked.max_age is None and asked.min_fresh is None and asked.max_stale is None
        )
        return None if nothing else asked
    if b"no-cache" in index.get(b"pragma", b"").lower():
        return Asked({b"no-cache": None})
    return None
