"""When a name is asked for again, and what c-ares says of it."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycares import AddrInfoCname, AddrInfoNode, AddrInfoResult

from gateway.proxy.resolver import Name, Resolved, ResolveError, Resolver, has_way, is_name, read
from gateway.snapshot import SECOND
from tests.integration.name_server import A, NameServer


@pytest.mark.parametrize(
    ("host", "asks"),
    [
        ("lms.internal", True),
        ("lms", True),
        ("1e100.net", True),
        ("127.0.0.1.example.org", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("2001:db8::7", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_what_is_asked_for(host: str, asks: bool) -> None:
    assert is_name(host) is asks


@pytest.mark.parametrize(("lifetime", "seconds"), [(0, 1), (1, 1), (60, 60), (300, 300), (86400, 300)])
def test_an_answer_holds_for_its_lifetime(lifetime: int, seconds: int) -> None:
    name = Name("lms")
    assert name.due == 0
    assert name.answered(Resolved(("192.0.2.1",), lifetime), 5 * SECOND)
    assert name.due == (5 + seconds) * SECOND


def test_failures_keep_the_last_answer_and_are_told_once() -> None:
    name = Name("lms")
    name.answered(Resolved(("192.0.2.1",), 60), 0)
    pauses = []
    for number in range(8):
        assert name.failed("nobody answers", 0) is (number == 0)
        pauses.append(name.due // SECOND)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert (name.addresses, name.error) == (("192.0.2.1",), "nobody answers")
    assert not name.answered(Resolved(("192.0.2.1",), 60), 0), "the same addresses"
    assert name.error == ""
    assert name.failed("again", 0)
    assert name.due == SECOND, "the pauses begin anew"


@given(st.lists(st.one_of(st.none(), st.integers(0, 10**6)), max_size=30))
def test_it_is_never_asked_for_more_than_once_a_second_nor_forgotten(lifetimes: list[int | None]) -> None:
    name, now = Name("lms"), 0
    for lifetime in lifetimes:
        if lifetime is None:
            name.failed("x", now)
        else:
            name.answered(Resolved(("192.0.2.1",), lifetime), now)
        assert SECOND <= name.due - now <= 300 * SECOND
        assert name.asked
        now = name.due


def node(address: str, ttl: int) -> AddrInfoNode:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return AddrInfoNode(ttl, 0, family, socket.SOCK_STREAM, 0, (address.encode(), 0))


@pytest.mark.parametrize(
    ("nodes", "aliases", "expected"),
    [
        ([("127.0.0.2", 60)], [], Resolved(("127.0.0.2",), 60)),
        ([("127.0.0.9", 60), ("127.0.0.1", 30), ("127.0.0.9", 60)], [], Resolved(("127.0.0.1", "127.0.0.9"), 30)),
        ([("127.0.0.1", 60)], [5], Resolved(("127.0.0.1",), 5)),
        ([], [5], "the name has no address"),
    ],
)
def test_answers_are_read(nodes: list[tuple[str, int]], aliases: list[int], expected: Resolved | str) -> None:
    found = AddrInfoResult([AddrInfoCname(ttl, "a", "b") for ttl in aliases], [node(*each) for each in nodes])
    if isinstance(expected, Resolved):
        assert read(found) == expected
    else:
        with pytest.raises(ResolveError, match=expected):
            read(found)


@pytest.mark.parametrize(
    ("ways", "expected"),
    [({"192.0.2.1"}, ("192.0.2.1",)), (set(), ("192.0.2.1", "2001:db8::1"))],
)
def test_addresses_without_a_route_are_left_out_where_there_are_others(
    ways: set[str], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.resolver.has_way", ways.__contains__)
    found = AddrInfoResult([], [node("2001:db8::1", 60), node("192.0.2.1", 60)])
    assert read(found).addresses == expected


def test_loopback_has_a_way() -> None:
    assert has_way("127.0.0.1")
    assert not has_way("no address")


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with NameServer() as server:
        yield server


@pytest.fixture
async def resolver(names: NameServer) -> AsyncIterator[Resolver]:
    found = Resolver(asyncio.get_running_loop(), [names.server])
    yield found
    found.close()


async def test_all_addresses_and_the_shortest_lifetime(names: NameServer, resolver: Resolver) -> None:
    names.set("lms.test", "127.0.0.2", "127.0.0.3", ttl=7)
    assert await resolver.resolve("lms.test") == Resolved(("127.0.0.2", "127.0.0.3"), 7)


async def test_no_memory_outlasts_ours(names: NameServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """c-ares' own would keep the first answer, and that there was none, for up to an hour."""
    monkeypatch.setattr("gateway.proxy.resolver._CHANNEL_AGE", 0.0)
    names.set("lms.test", "127.0.0.2", ttl=3000)
    assert await resolver.resolve("lms.test") == Resolved(("127.0.0.2",), 3000)
    names.set("lms.test", "127.0.0.3", ttl=3000)
    assert await resolver.resolve("lms.test") == Resolved(("127.0.0.3",), 3000)


async def test_a_name_that_comes_up_is_found_at_once(names: NameServer, resolver: Resolver) -> None:
    with pytest.raises(ResolveError):
        await resolver.resolve("lms.test")
    names.set("lms.test", "127.0.0.2")
    assert (await resolver.resolve("lms.test")).addresses == ("127.0.0.2",)


async def test_a_question_under_way_survives_that_its_channel_is_forgotten(
    names: NameServer, resolver: Resolver
) -> None:
    names.silent = True
    names.set("lms.test", "127.0.0.2")
    asking = asyncio.ensure_future(resolver.resolve("lms.test"))
    while not names.asked:
        await asyncio.sleep(0.005)
    with pytest.raises(ResolveError):
        await resolver.resolve("a..b")
    gc.collect()
    names.silent = False
    assert (await asking).addresses == ("127.0.0.2",)


async def test_an_alias_is_followed(names: NameServer, resolver: Resolver) -> None:
    names.set("www.lms.test", "127.0.0.2", ttl=7, alias="node.lms.test")
    assert await resolver.resolve("www.lms.test") == Resolved(("127.0.0.2",), 7)


@pytest.mark.skipif(not has_way("::1"), reason="this machine has no IPv6")
async def test_addresses_of_both_families(names: NameServer, resolver: Resolver) -> None:
    names.set("lms.test", "127.0.0.2", "::1")
    assert (await resolver.resolve("lms.test")).addresses == ("127.0.0.2", "::1")


@pytest.mark.parametrize(
    ("host", "text"),
    [("nowhere.test", "Domain name not found"), ("a..b", "Misformatted domain name"), ("a" * 300, "name")],
)
async def test_names_that_do_not_resolve(resolver: Resolver, host: str, text: str) -> None:
    with pytest.raises(ResolveError, match=text):
        await resolver.resolve(host)


async def test_a_server_that_fails(names: NameServer, resolver: Resolver) -> None:
    names.failing = True
    with pytest.raises(ResolveError, match="general failure"):
        await resolver.resolve("lms.test")


async def test_the_hosts_file_comes_first(names: NameServer, resolver: Resolver) -> None:
    hosts = Path("/etc/hosts")
    lines = hosts.read_text("utf-8").splitlines() if hosts.exists() else []
    here = [fields for line in lines if len(fields := line.partition("#")[0].split()) > 1]
    known = {name: fields[0] for fields in here for name in fields[1:] if not name.endswith("localhost")}
    if not known:
        pytest.skip("the hosts file of this machine names nobody but localhost")
    name, address = next(iter(known.items()))
    assert address in (await resolver.resolve(name)).addresses
    assert names.asked == []


async def test_closing_gives_up_what_is_asked(names: NameServer, resolver: Resolver) -> None:
    names.silent = True
    asking = asyncio.ensure_future(resolver.resolve("lms.test"))
    while not names.asked:
        await asyncio.sleep(0.005)
    resolver.close()
    with pytest.raises(ResolveError, match="cancelled"):
        await asking
    assert ("lms.test", A) in names.asked
