"""Error replies as Redis 6, Redis 7 and Valkey write them: whom each concerns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.counters_url import Address
from gateway.counters.redis.refusals import AGAIN, ASK, MOVED, NO_SCRIPT, QUESTION, SERVER, refusal_of

IN_6 = "ERR Error running script (call to f_7c8c83): @user_script:229: @user_script: 229: "


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", NO_SCRIPT, "does not know the script"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: 7c8c", SERVER, "is out of memory"),
        (IN_6 + "-OOM command not allowed when used memory > 'maxmemory'.", SERVER, "is out of memory"),
        ("READONLY You can't write against a read only replica. script: 7c8c", SERVER, "takes no writes"),
        (IN_6 + "-READONLY You can't write against a read only replica.", SERVER, "takes no writes"),
        ("LOADING Redis is loading the dataset in memory", SERVER, "is loading its data"),
        ("MASTERDOWN Link with MASTER is down", SERVER, "has lost its master"),
        ("BUSY Redis is busy running a script.", SERVER, "busy with somebody's script"),
        ("CLUSTERDOWN The cluster is down", SERVER, "says that its cluster is down"),
        ("NOAUTH Authentication required.", SERVER, "wants a password"),
        ("NOPERM this user has no permissions to run the 'evalsha' command", SERVER, "+evalsha"),
        (IN_6 + "The user executing the script can't run this command or subcommand", SERVER, "+evalsha"),
        ("ERR ACL failure in script: User counter has no permissions, NOPERM", SERVER, "+evalsha"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", AGAIN, "is moving"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", QUESTION, "answered: WRONGTYPE"),
        ("ERR bad argument #1 to OOMPH", QUESTION, "answered: ERR bad argument"),
        ("", QUESTION, "answered: "),
    ],
)
def test_what_a_reply_means(reply: str, kind: str, text: str) -> None:
    refusal = refusal_of(reply)
    assert refusal.kind == kind
    assert text in refusal.text


@pytest.mark.parametrize(
    ("reply", "kind", "slot", "address"),
    [
        ("MOVED 3999 127.0.0.1:6381", MOVED, 3999, Address("127.0.0.1", 6381)),
        ("ASK 3999 ::1:6381", ASK, 3999, Address("::1", 6381)),
        ("MOVED 0 :6381", MOVED, 0, Address("", 6381)),
        ("MOVED 1 redis.example:6379", MOVED, 1, Address("redis.example", 6379)),
    ],
)
def test_where_else_to_ask(reply: str, kind: str, slot: int, address: Address) -> None:
    refusal = refusal_of(reply)
    assert (refusal.kind, refusal.slot, refusal.address) == (kind, slot, address)


@given(st.text(max_size=400))
def test_what_is_said_is_one_short_line(reply: str) -> None:
    text = refusal_of(reply).text
    assert text.isprintable()
    assert len(text) < 200
