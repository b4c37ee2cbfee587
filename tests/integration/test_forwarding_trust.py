"""Who is believed about the client: a table of peers and headers, and what the upstream, the limits and the log see.

127.0.0.1 is a trusted proxy in these tests, and 127.0.0.9 is a client that nobody trusts; what each says is said over
a real socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.integration.gateways import Client, Gateway, Response, get, routed, running_gateway
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send

TRUSTED, STRANGER = "127.0.0.1", "127.0.0.9"
HOST = "gateway.example.org"
NETWORKS = "trusted_proxies: [127.0.0.1/32, 10.0.0.0/8, 2001:db8::/32]"


def ok(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


@dataclass(frozen=True)
class Setting:
    gateway: Gateway
    upstream: RawServer

    async def ask(self, peer: str, *lines: str, target: str = "/") -> Response:
        """One request from this address of the machine."""
        opened = await asyncio.open_connection("127.0.0.1", self.gateway.port, local_addr=(peer, 0))
        async with Client(*opened) as client:
            return await client.request(get(target, *lines))

    def seen(self, *names: str) -> list[list[str]]:
        """What the upstream's latest request says under each of these names, as a CGI server would find it."""
        headers = [(name.lower().replace("_", "-"), value) for name, value in self.upstream.requests[-1].headers]
        return [[value for key, value in headers if key == name.lower()] for name in names]


@asynccontextmanager
async def setting(policies: str = "{}", networks: str = NETWORKS) -> AsyncIterator[Setting]:
    async with (
        RawServer(ok) as upstream,
        running_gateway(routed(upstream.url, top=networks, policies=policies)) as gateway,
    ):
        yield Setting(gateway, upstream)


CHAIN = "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.1.1"


@pytest.mark.parametrize(
    ("peer", "lines", "chain"),
    [
        # A stranger says nothing about anybody.
        (STRANGER, [], [STRANGER]),
        (STRANGER, ["X-Forwarded-For: 192.0.2.7"], [STRANGER]),
        (STRANGER, ["X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 127.0.0.1"], [STRANGER]),
        (
            STRANGER,
            ["x_forwarded_for: 192.0.2.7", "X-Forwarded_For: 192.0.2.7", "X.Forwarded.For: 1.1.1.1"],
            [STRANGER],
        ),
        (STRANGER, ["X-Forwarded-For: 192.0.2.7", "Connection: X-Forwarded-For"], [STRANGER]),
        (STRANGER, ["X-Real-IP: 192.0.2.7", "Forwarded: for=192.0.2.7"], [STRANGER]),
        # A trusted proxy is believed, from the right and as far as the next one is trusted.
        (TRUSTED, [], [TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 192.0.2.7"], ["192.0.2.7", TRUSTED]),
        (TRUSTED, [CHAIN], ["192.0.2.7", "10.1.1.1", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.7"], ["192.0.2.7", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 10.2.2.2, 10.1.1.1"], ["10.2.2.2", "10.1.1.1", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 192.0.2.7:4711"], ["192.0.2.7", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: [2001:4860::7]:4711"], ["2001:4860::7", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 2001:4860:0::7, 2001:DB8::1"], ["2001:4860::7", "2001:db8::1", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: ::ffff:192.0.2.7"], ["192.0.2.7", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 192.0.2.7, garbage"], [TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 192.0.2.7, garbage, 10.1.1.1"], ["10.1.1.1", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 192.0.2.7, unknown"], [TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: 192.0.2.7, "], ["192.0.2.7", TRUSTED]),
        (TRUSTED, ["X-Forwarded-For: "], [TRUSTED]),
        (TRUSTED, ["x_forwarded_for: 6.6.6.6", "X-Forwarded-For: 192.0.2.7"], ["192.0.2.7", TRUSTED]),
        # Its other ways to name a client are not read.
        (TRUSTED, ["X-Real-IP: 192.0.2.7"], [TRUSTED]),
        (TRUSTED, ["Forwarded: for=192.0.2.7;proto=https"], [TRUSTED]),
        (TRUSTED, ["X-Real-IP: 6.6.6.6", "X-Forwarded-For: 192.0.2.7"], ["192.0.2.7", TRUSTED]),
    ],
)
async def test_which_address_counts(peer: str, lines: list[str], chain: list[str]) -> None:
    """The upstream, the access log and the policies see the same client."""
    async with setting(f"{{ip-restriction: {{allow: ['{chain[0]}']}}}}") as here:
        assert (await here.ask(peer, *lines)).status == 200
        assert here.seen("X-Forwarded-For", "X-Real-IP") == [[", ".join(chain)], [chain[0]]]
        (record,) = await here.gateway.recorded(1)
        assert record.client == chain[0]
    async with setting(f"{{ip-restriction: {{deny: ['{chain[0]}']}}}}") as here:
        assert (await here.ask(peer, *lines)).status == 403
        assert here.upstream.requests == []


@pytest.mark.parametrize(
    ("peer", "lines", "proto", "host"),
    [
        (STRANGER, [], "http", HOST),
        (STRANGER, ["X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1"], "http", HOST),
        (STRANGER, ["X_Forwarded_Proto: https", "X-Forwarded_Host: evil"], "http", HOST),
        (TRUSTED, [], "http", HOST),
        (TRUSTED, ["X-Forwarded-Proto: https", "X-Forwarded-Host: learn.example.org"], "https", "learn.example.org"),
        (TRUSTED, ["X-Forwarded-Proto: https,http", "X-Forwarded-For: 192.0.2.7"], "http", HOST),
        (TRUSTED, ["X-Forwarded-Proto: https,http", "X-Forwarded-For: 192.0.2.7, 10.1.1.1"], "https", HOST),
        (TRUSTED, ["X-Forwarded-Proto: http,https,http", CHAIN], "https", HOST),
        (TRUSTED, ["X-Forwarded-Proto: https", "X-Forwarded-Proto: http", CHAIN], "https", HOST),
        (TRUSTED, ["X-Forwarded-Proto: gopher"], "http", HOST),
        (TRUSTED, ["X-Forwarded-Proto: https\t"], "https", HOST),
        (
            TRUSTED,
            ["X-Forwarded-Host: evil, learn.example.org", "X-Forwarded-For: 192.0.2.7"],
            "http",
            "learn.example.org",
        ),
        (TRUSTED, ["X-Forwarded-Host: a b"], "http", HOST),
        (TRUSTED, ["X_Forwarded_Proto: https"], "http", HOST),
    ],
)
async def test_scheme_and_host(peer: str, lines: list[str], proto: str, host: str) -> None:
    async with setting() as here:
        await here.ask(peer, *lines)
        assert here.seen("X-Forwarded-Proto", "X-Forwarded-Host") == [[proto], [host]]
        told = any(line.startswith("X-Forwarded-Proto: ") and proto in line for line in lines) and peer == TRUSTED
        port = {"http": 80, "https": 443}[proto] if told else here.gateway.port
        assert here.seen("X-Forwarded-Port") == [[str(port)]]


#: What an LMS may take for the real target or method; a trusted proxy may say it.
REWRITES = [
    "Forwarded",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-Server",
]


@pytest.mark.parametrize("name", REWRITES)
@pytest.mark.parametrize(("peer", "passes"), [(STRANGER, False), (TRUSTED, True)])
async def test_what_only_a_trusted_proxy_may_say(name: str, peer: str, passes: bool) -> None:
    async with setting() as here:
        for spelling in (name, name.upper()):
            await here.ask(peer, f"{spelling}: /admin")
            assert here.seen(name) == [["/admin"] if passes else []], spelling
        # A proxy strips what it knows: another spelling may well be its client's.
        if (folding := name.replace("-", "_")) != name:
            await here.ask(peer, f"{folding}: /admin")
            assert here.seen(name) == [[]]


@pytest.mark.parametrize(("peer", "given"), [(STRANGER, False), (TRUSTED, True)])
async def test_the_requests_id(peer: str, given: bool) -> None:
    async with setting() as here:
        await here.ask(peer, "X-Request-ID: from-a-proxy")
        ((seen,),) = here.seen("X-Request-ID")
        assert (seen == "from-a-proxy") is given


async def test_a_limit_by_address_counts_the_client() -> None:
    async with setting("{rate-limiting: {limits: [2/minute], by: ip}}") as here:

        async def statuses(peer: str, *chains: str) -> list[int]:
            return [(await here.ask(peer, f"X-Forwarded-For: {chain}")).status for chain in chains]

        # One client, whatever it puts in front and however it is spelled.
        assert await statuses(TRUSTED, "192.0.2.7", "6.6.6.6, 192.0.2.7:80", "::ffff:192.0.2.7") == [200, 200, 429]
        # Another one, behind the same proxy.
        assert await statuses(TRUSTED, "192.0.2.8", "192.0.2.8", "192.0.2.8") == [200, 200, 429]
        # An IPv6 network of /64 is one client.
        assert await statuses(TRUSTED, "2001:4860::1", "[2001:4860::2]:1", "2001:4860:0:0::3") == [200, 200, 429]
        # Who is not trusted cannot become somebody else.
        assert await statuses(STRANGER, "1.1.1.1", "2.2.2.2", "3.3.3.3") == [200, 200, 429]
        assert {record.client for record in here.gateway.records} == {
            "192.0.2.7", "192.0.2.8", "2001:4860::1", "2001:4860::2", "2001:4860::3", STRANGER,
        }  # fmt: skip


async def test_nobody_is_trusted_unless_it_is_said() -> None:
    async with setting(networks="") as here:
        for peer in (TRUSTED, STRANGER):
            await here.ask(peer, CHAIN, "X-Forwarded-Proto: https", "X-Original-URL: /admin")
            assert here.seen("X-Forwarded-For", "X-Forwarded-Proto", "X-Original-URL") == [[peer], ["http"], []]


async def test_each_request_of_a_proxys_connection_has_its_own_client() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        for address in ("192.0.2.7", "192.0.2.8"):
            await client.request(get("/", f"X-Forwarded-For: {address}"))
        await client.request(get("/"))
        assert [record.client for record in await here.gateway.recorded(3)] == ["192.0.2.7", "192.0.2.8", TRUSTED]


async def test_a_reload_changes_who_is_trusted_on_a_connection_that_stands() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        await client.request(get("/", CHAIN))
        here.gateway.swap(routed(here.upstream.url))
        await client.request(get("/", CHAIN))
        here.gateway.swap(routed(here.upstream.url, top=NETWORKS))
        await client.request(get("/", CHAIN))
        assert [record.client for record in await here.gateway.recorded(3)] == ["192.0.2.7", TRUSTED, "192.0.2.7"]
