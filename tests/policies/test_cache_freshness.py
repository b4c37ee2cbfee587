"""RFC 9111 §3 and §4.2 as a table: may a response be stored, how old is it, how old may it become?"""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies._cache_directives import FOREVER
from policies._cache_freshness import terms

NOW = 1_700_000_000.0
TTL = 300.0


def date(offset: float) -> bytes:
    return formatdate(NOW + offset, usegmt=True).encode()


def judged(**fields: bytes) -> tuple[float, float] | None:
    """`(age, lifetime)` of a response with these fields that came just now."""
    found = terms({name.replace("_", "-").encode(): value for name, value in fields.items()}, TTL, NOW, NOW)
    return None if found is None else (NOW - found.born, found.lifetime)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # Nothing said: the policy's ttl, counted from when it came.
        ({}, (0, 300)),
        ({"date": date(-10)}, (10, 310)),
        ({"age": b"100"}, (100, 400)),
        ({"cache_control": b"public"}, (0, 300)),
        # s-maxage, then max-age, then Expires.
        ({"cache_control": b"max-age=60"}, (0, 60)),
        ({"cache_control": b"s-maxage=10, max-age=60"}, (0, 10)),
        ({"cache_control": b"max-age=60", "expires": b"0"}, (0, 60)),
        ({"expires": date(60), "date": date(0)}, (0, 60)),
        ({"expires": date(60)}, (0, 60)),
        ({"expires": date(60), "date": date(-30)}, (30, 90)),
        ({"expires": date(60), "date": b"yesterday"}, (0, 60)),
        # Stale already, or not to be read: not stored.
        ({"cache_control": b"max-age=0"}, None),
        ({"cache_control": b"s-maxage=0, max-age=60"}, None),
        ({"cache_control": b"max-age=x"}, None),
        ({"cache_control": b"max-age=60, max-age=90"}, None),
        ({"expires": b"0"}, None),
        ({"expires": b"-1"}, None),
        ({"expires": date(-1), "date": date(-2)}, None),
        ({"cache_control": b"max-age=60", "age": b"60"}, None),
        ({"cache_control": b"max-age=60", "date": date(-60)}, None),
        # Age: the older of what it says and what its date says; dates are whole seconds.
        ({"cache_control": b"max-age=60", "age": b"20", "date": date(-10)}, (20, 60)),
        ({"cache_control": b"max-age=60", "age": b"5", "date": date(-10)}, (10, 60)),
        ({"cache_control": b"max-age=60", "age": b"5, 50"}, (5, 60)),
        ({"cache_control": b"max-age=60", "age": b"-5"}, (0, 60)),
        ({"cache_control": b"max-age=60", "date": date(-1)}, (0, 60)),
        ({"cache_control": b"max-age=60", "date": date(1000)}, (0, 60)),
        # Forbidden.
        ({"cache_control": b"no-store, max-age=60"}, None),
        ({"cache_control": b"no-cache, max-age=60"}, None),
        ({"cache_control": b'no-cache="x", max-age=60'}, None),
        ({"pragma": b"no-cache"}, None),
        ({"pragma": b"no-cache", "cache_control": b"max-age=60"}, (0, 60)),
        ({"set_cookie": b"a=1", "cache_control": b"public, max-age=60"}, None),
    ],
)
def test_terms(fields: dict[str, bytes], expected: tuple[float, float] | None) -> None:
    assert judged(**fields) == expected


def test_without_a_ttl_only_what_says_how_long_is_stored() -> None:
    assert terms({}, 0.0, NOW, NOW) is None
    assert terms({b"cache-control": b"max-age=1"}, 0.0, NOW, NOW) is not None


def test_the_time_that_the_answer_took_counts_as_age() -> None:
    found = terms({b"cache-control": b"max-age=60", b"age": b"10"}, TTL, NOW - 5, NOW)
    assert found is not None
    assert NOW - found.born == 15


@pytest.mark.parametrize(
    ("control", "shared", "never_stale"),
    [
        (b"max-age=1", False, False),
        (b"max-age=1, public", True, False),
        (b"s-maxage=1", True, True),
        (b"max-age=1, must-revalidate", True, True),
        (b"max-age=1, proxy-revalidate", False, True),
    ],
)
def test_for_whom(control: bytes, shared: bool, never_stale: bool) -> None:
    found = terms({b"cache-control": control}, TTL, NOW, NOW)
    assert found is not None
    assert (found.shared, found.never_stale) == (shared, never_stale)


@given(
    st.dictionaries(
        st.sampled_from([b"cache-control", b"expires", b"date", b"age", b"pragma", b"vary"]), st.binary(max_size=40)
    )
)
def test_nothing_that_an_upstream_says_breaks_it(index: dict[bytes, bytes]) -> None:
    found = terms(index, TTL, NOW, NOW)
    assert found is None or 0 <= NOW - found.born < found.lifetime <= FOREVER + TTL
