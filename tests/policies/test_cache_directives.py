"""Cache-Control, numbers of seconds and HTTP dates: what is read out of them, and that nothing breaks the reading."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies._cache_directives import FOREVER, Asked, asked_of, delta_seconds, directives, http_date

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", {}),
        (b"no-store", {b"no-store": None}),
        (b"Max-Age=60, PUBLIC", {b"max-age": b"60", b"public": None}),
        (b" max-age = 60 ,,, public ", {b"max-age": b"60", b"public": None}),
        (b'max-age="60"', {b"max-age": b"60"}),
        (b'private="set-cookie, x-a", max-age=5', {b"private": b"set-cookie, x-a", b"max-age": b"5"}),
        (b'x="a\\"b\\", no-store", max-age=5', {b"x": b'a\\"b\\", no-store', b"max-age": b"5"}),
        # Two values, or a quotation that does not end: what forbids is heard, what permits is not.
        (b"max-age=60, max-age=60", {b"max-age": b"60"}),
        (b"max-age=60, max-age=90", {b"max-age": b""}),
        (b"max-age, max-age=90", {b"max-age": b""}),
        (b'private="a, no-store', {b"private": b"a", b"no-store": None}),
        (b'x="a\\", no-store"', {b"x": b"a\\", b"no-store": None}),
    ],
)
def test_directives(value: bytes, expected: dict[bytes, bytes | None]) -> None:
    assert directives(value) == expected


@pytest.mark.parametrize(
    ("argument", "seconds"),
    [
        (b"0", 0),
        (b"060", 60),
        (b"2147483648", FOREVER),
        (b"9999999999", FOREVER),
        (b"9" * 5000, FOREVER),
        (b"", None),
        (b"-1", None),
        (b"1.5", None),
        (b"1s", None),
        ("١".encode(), None),
        (None, None),
    ],
)
def test_delta_seconds(argument: bytes | None, seconds: int | None) -> None:
    assert delta_seconds(argument) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Monday, 06-Nov-34 08:49:37 GMT", 2046415777),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        (b"0", None),
        (b"-1", None),
        (b"", None),
        (b"Sun, 06 Nov 1994 08:49:37", None),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", None),
        (b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:38 GMT", None),
        (b"Sun, 06 Foo 1994 08:49:37 GMT", None),
        (b"Sun, 00 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 24:49:37 GMT", None),
        (b"Sun, 06 Nov 1969 08:49:37 GMT", None),
    ],
)
def test_dates(value: bytes, seconds: int | None) -> None:
    assert http_date(value, NOW) == seconds


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds
def test_what_the_library_writes_is_read(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    assert http_date(format_datetime(moment, usegmt=True).encode(), NOW) == int(moment.timestamp())


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(value: bytes) -> None:
    for argument in directives(value).values():
        delta_seconds(argument)
    http_date(value, NOW)
    asked_of({b"cache-control": value, b"pragma": value})


@given(st.lists(st.sampled_from([b"no-store", b"private", b"max-age=5", b'a="b', b'c"', b"\\", b"="])))
def test_what_forbids_is_never_overheard(members: list[bytes]) -> None:
    found = directives(b",".join(members))
    if b"no-store" in members and b",".join(members).count(b'"') % 2:
        assert b"no-store" in found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({b"cache-control": b"foo, bar=1"}, None),
        ({b"cache-control": b"no-cache"}, {"no_cache": True}),
        ({b"pragma": b"no-cache"}, {"no_cache": True}),
        ({b"pragma": b"No-Cache, x"}, {"no_cache": True}),
        ({b"pragma": b"no-cache", b"cache-control": b"foo"}, None),
        ({b"cache-control": b"no-store, only-if-cached"}, {"no_store": True, "only_if_cached": True}),
        ({b"cache-control": b"max-age=60"}, {"max_age": 60}),
        ({b"cache-control": b"max-age=x"}, {"max_age": 0}),
        ({b"cache-control": b"min-fresh=5"}, {"min_fresh": 5}),
        ({b"cache-control": b"min-fresh"}, {"min_fresh": FOREVER}),
        ({b"cache-control": b"max-stale"}, {"max_stale": FOREVER}),
        ({b"cache-control": b"max-stale=10"}, {"max_stale": 10}),
        ({b"cache-control": b"max-stale=x"}, {"max_stale": 0}),
    ],
)
def test_what_a_request_asks(fields: dict[bytes, bytes], expected: dict[str, object] | None) -> None:
    asked = asked_of(fields)
    if expected is None:
        assert asked is None
        return
    names = ("no_cache", "no_store", "only_if_cached", "max_age", "min_fresh", "max_stale")
    nothing = {name: getattr(Asked({}), name) for name in names}
    assert {name: getattr(asked, name) for name in names} == {**nothing, **expected}
