"""Limits on connections and on patience, and the gateway under more than it can serve."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.integration.gateways import Client, Gateway, chunked, eventually, get, proxied, request
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest
from upstream_stub.steps import End, Script, Send

OVERLOADED = b"Service overloaded"


def ok(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


def silent(request: RawRequest) -> Script:
    return Script([], End.HANG)


def huge(request: RawRequest) -> Script:
    return Script([Send(head(200, f"Content-Length: {1 << 26}")), *[Send(b"x" * (1 << 20))] * 64], End.KEEP)


@pytest.mark.parametrize(
    ("limits", "top", "admitted"),
    [
        ("{connections: 2}", "", 2),
        ("{connections_per_client: 2}", "", 2),
        ("{connections_per_client: 2}", "trusted_proxies: [127.0.0.0/8]", 4),
        ("{connections_per_client: 0}", "", 4),
    ],
)
async def test_connections_are_counted(limits: str, top: str, admitted: int) -> None:
    async with proxied(ok, limits=limits, top=top) as (_, gateway):
        clients = [await gateway.connect() for _ in range(4)]
        await eventually(lambda: len(gateway.plane.downstreams) >= admitted)
        for number, client in enumerate(clients):
            if number < admitted:
                assert (await client.request(get())).status == 200
            else:
                refused = await client.response()
                assert (refused.status, refused.headers["retry-after"], OVERLOADED in refused.body) == (503, "1", True)
                assert await client.ended() == "closed"
        for client in clients:
            client.writer.close()
        await eventually(lambda: not gateway.plane.clients)
        assert (await gateway.get()).status == 200


async def test_a_connection_ends_after_so_many_requests() -> None:
    async with proxied(ok, limits="{requests_per_connection: 3}") as (_, gateway), await gateway.connect() as client:
        said = [(await client.request(get())).headers.get("connection") for _ in range(3)]
        assert said == [None, None, "close"]
        assert await client.ended() == "closed"


@pytest.mark.parametrize("rate", ["64KiB", "0"])
async def test_who_takes_an_answer_too_slowly_is_dropped(rate: str) -> None:
    """A few bytes a second are no reading; neither is nothing at all."""
    limits = f"{{body_timeout: 500ms, body_rate: {rate}}}"
    async with proxied(huge, limits=limits) as (_, gateway), await gateway.connect(limit=1 << 10) as client:
        client.send(get())
        await client.head()
        records = await gateway.recorded(1)
        assert (records[0].status, records[0].decision) == (200, "failed")
        await eventually(lambda: not gateway.plane.downstreams)


async def test_who_reads_at_the_pace_may_take_long() -> None:
    limits = "{body_timeout: 300ms, body_rate: 100KB}"
    async with proxied(huge, limits=limits) as (_, gateway), await gateway.connect(limit=1 << 16) as client:
        client.send(get())
        await client.head()
        left = 1 << 26
        while left:
            left -= len(await client.reader.read(1 << 19))
            await asyncio.sleep(0.01)
        await eventually(lambda: len(gateway.records) == 1)
        assert gateway.records[0].decision == "proxied"


# ── overload ─────────────────────────────────────────────────────────────────────────────────────


async def crowd(gateway: Gateway, number: int) -> list[Client]:
    """So many connections, and a loop that has just run late."""
    clients = [await gateway.connect() for _ in range(number)]
    await eventually(lambda: len(gateway.plane.downstreams) == number)
    gateway.plane.overload.crowded = True
    return clients


class Standstill:
    """Waits in front of a request, and stops the loop once it is there."""

    def __init__(self, gateway: Gateway) -> None:
        self.plane = gateway.plane

    def take_turn(self, now: int) -> None:
        if any(each.exchange is not None for each in self.plane.downstreams):
            time.sleep(0.2)
        else:
            self.plane.overload.hold(self)

    shed = take_turn


async def test_a_crowd_is_served_in_order() -> None:
    async with proxied(ok) as (upstream, gateway):
        clients = await crowd(gateway, 100)
        for number, client in enumerate(clients):
            client.send(get(f"/{number}") if number % 2 else request("POST", f"/{number}", body=b"body"))
        answers = await asyncio.gather(*(client.response() for client in clients))
        assert {answer.status for answer in answers} == {200}
        assert {seen.target for seen in upstream.requests} == {f"/{number}" for number in range(100)}
        await eventually(lambda: not gateway.plane.overload.crowded)
        assert all([(await client.request(get())).status == 200 for client in clients])


@pytest.mark.parametrize("body", [b"", b"body"])
async def test_what_has_waited_too_long_gets_a_fast_503(body: bytes) -> None:
    async with proxied(ok, top="overload: {max_wait: 100ms}") as (upstream, gateway):
        (client,) = await crowd(gateway, 1)
        gateway.plane.overload.hold(Standstill(gateway))
        client.send(request("POST", "/", "Accept: text/plain", body=body))
        refused = await client.response("POST")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert OVERLOADED in refused.body
        assert refused.headers["content-type"].startswith("text/plain")
        assert not upstream.requests
        assert gateway.records[0].reason == "overloaded: waited too long"
        if body:
            assert await client.ended() == "closed"
        else:
            await eventually(lambda: not gateway.plane.overload.crowded)
            assert (await client.request(get())).status == 200


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize(
    "sent",
    [
        request("POST", "/", body=b"zzz"),
        # More than an inbox holds, and hardly any payload.
        request("POST", "/", "Transfer-Encoding: chunked") + chunked(*[b"z"] * 80_000),
    ],
    ids=["length", "chunks"],
)
async def test_a_body_that_came_while_its_request_waited_is_forwarded(sent: bytes, closes: bool) -> None:
    async with proxied(silent) as (upstream, gateway):
        (client,) = await crowd(gateway, 1)
        gateway.plane.overload.hold(Standstill(gateway))
        client.send(sent)
        if closes:
            client.writer.write_eof()
        await eventually(lambda: upstream.requests and upstream.requests[0].body.count(b"z") == sent.count(b"z"))


async def test_a_body_that_was_cut_while_its_request_waited_is_not_waited_for() -> None:
    async with proxied(silent) as (upstream, gateway):
        (client,) = await crowd(gateway, 1)
        gateway.plane.overload.hold(Standstill(gateway))
        client.send(request("POST", "/", "Content-Length: 4") + b"zzz")
        client.writer.write_eof()
        assert await client.ended() == "closed"
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (499, "aborted")
        assert not upstream.requests


async def test_a_client_that_leaves_a_crowd_is_forgotten() -> None:
    async with proxied(ok) as (_, gateway):
        clients = await crowd(gateway, 3)
        for client in clients:
            client.send(get())
        clients[0].reset()
        assert [(await client.response()).status for client in clients[1:]] == [200, 200]
        await eventually(lambda: len(gateway.plane.downstreams) == 2)
