"""What CLUSTER SLOTS says."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.counters_url import Address
from gateway.core.errors import CountersError
from gateway.counters.redis.slots import Range, ranges_of

ASKED = Address("10.0.0.9", 7000)


def test_masters_alone_are_read() -> None:
    reply = [
        [0, 5460, [b"10.0.0.1", 7001, b"id1"], [b"10.0.0.4", 7004, b"id4", []]],
        [5461, 16383, ["redis.example", 7002, "id2", ["ip", "10.0.0.2"]]],
    ]
    first, second = Address("10.0.0.1", 7001), Address("redis.example", 7002)
    assert ranges_of(reply, ASKED) == [Range(0, 5460, first), Range(5461, 16383, second)]


@pytest.mark.parametrize("host", [b"", None, b"?"])
def test_a_node_that_does_not_know_its_host_is_where_it_was_asked(host: bytes | None) -> None:
    assert ranges_of([[0, 0, [host, 7001, b"id"]]], ASKED) == [Range(0, 0, Address("10.0.0.9", 7001))]


@pytest.mark.parametrize(
    "reply",
    [None, 5, [5], [[0, 1]], [[0, 16384, [b"h", 1, b"i"]]], [[2, 1, [b"h", 1, b"i"]]], [[0, 1, [b"h", b"x", b"i"]]]],
    ids=repr,
)
def test_what_makes_no_sense_is_a_fault(reply: Any) -> None:
    with pytest.raises(CountersError, match="does not say which slots"):
        ranges_of(reply, ASKED)
