"""WebSockets through the gateway: a client sees what it would see without it, and every end is an orderly one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.core.answers import ACL_DENIED
from gateway.core.decision import ALLOW, Decision, Deny, Pending
from gateway.core.policy import Policy
from gateway.proxy.states import CONNECTING
from gateway.proxy.tunnel import PATIENCE
from tests.integration.gateways import MINUTE, Gateway, eventually, get, proxied, request, routed, running_gateway
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Repeat, Script, Send

ACCEPT = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def echo(socket: ServerConnection) -> None:
    """Say everything back; a few words ask for more."""
    async for message in socket:
        if message == "close 4001":
            await socket.close(4001, "as asked")
        elif message == "headers":
            headers = socket.request.headers if socket.request is not None else {}
            await socket.send("\n".join(f"{name}: {value}" for name, value in headers.items()))
        elif message == "ping":
            await (await socket.ping(b"from the server"))
            await socket.send("pong came")
        else:
            await socket.send(message)


@asynccontextmanager
async def echoing(
    handler: Callable[[ServerConnection], Awaitable[None]] = echo, known: Any = None, **parts: str
) -> AsyncIterator[tuple[Gateway, str, str]]:
    """`(gateway, the URL through it, the direct URL)`."""
    async with serve(
        handler, "127.0.0.1", 0, select_subprotocol=lambda _, offered: next(iter(offered), None), max_size=1 << 24
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running_gateway(routed(f"http://127.0.0.1:{port}", **parts), known) as gateway:
            yield gateway, f"ws://127.0.0.1:{gateway.port}/live?room=1", f"ws://127.0.0.1:{port}/live?room=1"


async def chat(socket: ClientConnection) -> list[Any]:
    """One of everything."""
    seen: list[Any] = [socket.subprotocol, [type(extension).__name__ for extension in socket.protocol.extensions]]
    for message in ("text", b"\x00\xff", "", "é" * 40, "x" * 65_535, b"y" * 1_000_000):
        await socket.send(message)
        seen.append(await socket.recv())
    await socket.send(["frag", "ment", "ed"])
    seen.append(await socket.recv())
    await (await socket.ping(b"from the client"))
    await socket.send("ping")
    seen.append(await socket.recv())
    await socket.send("close 4001")
    with pytest.raises(ConnectionClosed) as closed:
        await socket.recv()
    seen.append((closed.value.rcvd, closed.value.rcvd_then_sent))
    return seen


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_through_the_gateway_equals_the_direct_connection(compression: str | None) -> None:
    async with echoing() as (gateway, through, direct):
        seen = []
        for url in (through, direct):
            async with connect(url, compression=compression, subprotocols=["lms.v1"], max_size=1 << 24) as socket:  # type: ignore[list-item]  # as above
                seen.append(await chat(socket))
        assert seen[0] == seen[1]
        (record,) = await gateway.recorded(1)
        assert (record.status, record.path, record.decision) == (101, "/live", "proxied")
        assert record.sent > 1_000_000 or compression


async def test_the_upstream_sees_the_handshake_and_who_asks() -> None:
    async with (
        echoing() as (_, through, _direct),
        connect(through, additional_headers={"X-Consumer-ID": "me"}) as socket,
    ):
        await socket.send("headers")
        said = str(await socket.recv()).lower()
        assert "x-forwarded-for: 127.0.0.1" in said
        assert "upgrade: websocket" in said
        assert "x-consumer-id" not in said


async def test_policies_come_before_the_handshake() -> None:
    async with echoing(policies="{auth: {any_of: [api-key]}}") as (_, through, _direct):
        with pytest.raises(InvalidStatus) as refused:
            await connect(through)
        assert refused.value.response.status_code == 401


async def test_many_at_once_and_both_ways() -> None:
    async with echoing() as (gateway, through, _direct):

        async def one(number: int) -> bool:
            async with connect(through) as socket:
                for turn in range(20):
                    await socket.send(f"{number}:{turn}" * 50)
                return all([await socket.recv() == f"{number}:{turn}" * 50 for turn in range(20)])

        assert all(await asyncio.gather(*(one(number) for number in range(50))))
        await eventually(lambda: not gateway.plane.tunnels)
        assert not gateway.plane.downstreams


async def test_a_reader_who_stops_holds_up_the_writer() -> None:
    sent = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        while True:
            await socket.send(b"z" * 65_536)
            sent += 1

    async with echoing(flood) as (gateway, through, _direct):
        async with connect(through, compression=None, max_queue=1, close_timeout=0.2) as socket:
            await eventually(lambda: sent > 2)
            while True:
                before = sent
                await asyncio.sleep(0.3)
                if sent == before:
                    break
            assert sent < 1000  # buffers of the kernel and ours, 64 MiB at the most: not without end
            for _ in range(sent + 5):
                assert len(await socket.recv()) == 65_536
            await eventually(lambda: sent > before)
        await eventually(lambda: not gateway.plane.tunnels)


async def closing(socket: ClientConnection) -> tuple[int, str]:
    """How the connection is closed by the other side."""
    async with asyncio.timeout(30):
        with suppress(ConnectionClosed):
            async for _ in socket:
                continue
    assert socket.protocol.close_rcvd is not None, "the connection ended without a closing frame"
    return socket.protocol.close_rcvd.code, socket.protocol.close_rcvd.reason


@pytest.mark.parametrize("which", ["idle_timeout", "total_timeout"])
async def test_time_outs(which: str) -> None:
    limit = f"websockets: {{{which}: 1m}}"
    async with echoing(service=limit) as (gateway, through, _direct), connect(through) as socket:
        began = time.monotonic_ns()
        await socket.send("hello")
        assert await socket.recv() == "hello"
        gateway.deadlines(began + (MINUTE - 1 if which == "idle_timeout" else 0))
        assert not any(tunnel.closing for tunnel in gateway.plane.tunnels)
        gateway.deadlines(time.monotonic_ns() + MINUTE)
        assert await closing(socket) == (1001, "going away")


class Revocable(Policy):
    """Lets everything pass until told otherwise."""

    name = "revocable"
    phase = 650
    verdict: Decision = ALLOW
    slow = False

    class Config:
        """Nothing to say."""

    def __init__(self, config: Any, environment: Any) -> None:
        del config, environment

    def check(self, context: Any) -> Decision:
        return ALLOW

    def recheck(self, context: Any) -> Decision | Pending[Decision]:
        if not self.slow:
            return type(self).verdict
        pending: Pending[Decision] = Pending()
        asyncio.get_running_loop().call_later(0.05, pending.resolve, type(self).verdict)
        return pending


@pytest.fixture
def revocable() -> type[Revocable]:
    from gateway.config.types import Settings

    class Config(Settings):
        """Nothing to say."""

    return type("Revoked", (Revocable,), {"Config": Config})


async def test_a_frame_that_never_ends_buys_no_time(revocable: type[Revocable]) -> None:
    """Who is revoked in the middle of a frame is cut, within the same second: four looks of the gateway."""

    def scripted(request: RawRequest) -> Script:
        return Script([Send(SWITCHED)], End.HANG)

    async with (
        RawServer(scripted) as upstream,
        running_gateway(routed(upstream.url, policies="{revocable: {}}"), {"revocable": revocable}) as gateway,
        await gateway.connect() as client,
    ):
        client.send(get("/", *HANDSHAKE))
        await client.head()
        client.send(b"\x82\xff" + bytes(5) + b"\xff\xff\xff" + b"mask")
        await eventually(lambda: upstream.requests[0].body)
        revocable.verdict = Deny(ACL_DENIED)
        ticks = gateway.plane.ticks

        def trickled() -> bool:
            client.send(b"x")
            return not upstream.open

        await eventually(trickled)
        assert gateway.plane.ticks - ticks <= 4


async def test_who_does_not_read_buys_no_time(revocable: type[Revocable]) -> None:
    frame = b"\x82\x7e\xff\xff" + bytes(65_535)

    def scripted(request: RawRequest) -> Script:
        return Script([Send(SWITCHED), Repeat((Send(frame),))], End.HANG)

    async with (
        RawServer(scripted) as upstream,
        running_gateway(routed(upstream.url, policies="{revocable: {}}"), {"revocable": revocable}) as gateway,
        await gateway.connect() as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is one that reads
        client.send(get("/", *HANDSHAKE))
        await eventually(lambda: gateway.plane.tunnels)
        (tunnel,) = gateway.plane.tunnels
        await eventually(tunnel.client.transport.get_write_buffer_size)
        revocable.verdict = Deny(ACL_DENIED)
        ticks = gateway.plane.ticks
        await eventually(lambda: not gateway.plane.tunnels)
        assert gateway.plane.ticks - ticks <= 4


async def test_a_half_closed_websocket_lasts_as_long_as_the_other_end_speaks() -> None:
    frame = b"\x81\x02hi"
    goes_on = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED)
        assert await reader.read() == b""
        writer.write(frame)
        await goes_on.wait()
        writer.write(frame)
        await reader.read()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, running_gateway(routed(url)) as gateway, await gateway.connect() as client:
        client.send(get("/", *HANDSHAKE))
        await client.head()
        client.writer.write_eof()
        assert await client.reader.readexactly(4) == frame
        spoken = time.monotonic_ns()
        goes_on.set()
        assert await client.reader.readexactly(4) == frame
        (tunnel,) = gateway.plane.tunnels
        gateway.deadlines(spoken + PATIENCE)
        assert not tunnel.ended
        gateway.deadlines(time.monotonic_ns() + PATIENCE)
        assert tunnel.ended


async def test_a_request_that_waits_for_a_slot_is_judged_again(revocable: type[Revocable]) -> None:
    parts = {"policies": "{revocable: {}}", "service": "max_connections: 1", "top": "overload: {max_wait: 1m}"}
    async with (
        RawServer(lambda _: Script([], End.HANG)) as upstream,
        running_gateway(routed(upstream.url, **parts), {"revocable": revocable}) as gateway,
        await gateway.connect() as first,
        await gateway.connect() as second,
    ):
        first.send(get("/first"))
        await eventually(lambda: upstream.requests)
        second.send(get("/second"))
        await eventually(lambda: len(gateway.plane.downstreams) == 2)
        revocable.verdict = Deny(ACL_DENIED)
        assert (await second.response()).status == 403
        assert [seen.target for seen in upstream.requests] == ["/first"]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("verdict", [ALLOW, Deny(ACL_DENIED)])
async def test_who_has_waited_for_a_slot_is_judged_before_it_is_used(
    revocable: type[Revocable], verdict: Decision, slow: bool
) -> None:
    """Not half a second later: it would have left by then."""
    parts = {"policies": "{revocable: {}}", "service": "max_connections: 1", "top": "overload: {max_wait: 1m}"}
    async with (
        RawServer(lambda _: Script([], End.HANG)) as upstream,
        running_gateway(routed(upstream.url, **parts), {"revocable": revocable}) as gateway,
        await gateway.connect() as first,
        await gateway.connect() as second,
    ):
        first.send(get("/first"))
        await eventually(lambda: upstream.requests)
        second.send(get("/second"))
        await eventually(lambda: gateway.exchanges(CONNECTING))
        revocable.verdict, revocable.slow = verdict, slow
        if slow:  # it is being judged when its turn comes
            gateway.plane.recheck(time.monotonic_ns())
        first.reset()
        if verdict is ALLOW:
            await eventually(lambda: len(upstream.requests) == 2)
        else:
            assert (await second.response()).status == 403
            assert [seen.target for seen in upstream.requests] == ["/first"]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(("verdict", "status"), [(ALLOW, 200), (Deny(ACL_DENIED), 403)])
async def test_who_has_waited_for_a_connection_is_judged_before_it_is_used(
    revocable: type[Revocable], monkeypatch: pytest.MonkeyPatch, verdict: Decision, status: int, slow: bool
) -> None:
    opening, may_open = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    connects = loop.create_connection

    async def late(*arguments: Any) -> Any:
        opening.set()
        await may_open.wait()
        return await connects(*arguments)

    async with (
        RawServer(lambda _: Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)) as upstream,
        running_gateway(
            routed(upstream.url, policies="{revocable: {}}", service="connect_timeout: 1m"), {"revocable": revocable}
        ) as gateway,
        await gateway.connect() as client,
    ):
        monkeypatch.setattr(loop, "create_connection", late)
        client.send(get("/late"))
        await opening.wait()
        revocable.verdict, revocable.slow = verdict, slow
        may_open.set()
        assert (await client.response()).status == status
        assert len(upstream.requests) == (status == 200)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(("verdict", "status"), [(ALLOW, 200), (Deny(ACL_DENIED), 403)])
async def test_who_is_sent_again_is_judged_again(
    revocable: type[Revocable], verdict: Decision, status: int, slow: bool
) -> None:
    def scripted(request: RawRequest) -> Script:
        if len(upstream.requests) > 1:
            return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)
        revocable.verdict, revocable.slow = verdict, slow
        return Script([], End.RESET)

    upstream = RawServer(scripted)
    async with (
        upstream,
        running_gateway(routed(upstream.url, policies="{revocable: {}}"), {"revocable": revocable}) as gateway,
        await gateway.connect() as client,
    ):
        client.send(get("/again"))
        assert (await client.response()).status == status
        assert len(upstream.requests) == (2 if status == 200 else 1)


@pytest.mark.parametrize("slow", [False, True])
async def test_a_revoked_credential_s_websocket_is_closed(revocable: type[Revocable], slow: bool) -> None:
    revocable.slow = slow
    async with (
        echoing(known={"revocable": revocable}, policies="{revocable: {}}") as (gateway, through, _direct),
        connect(through) as socket,
    ):
        await asyncio.sleep(0.6)
        await socket.send("good")
        assert await socket.recv() == "good"
        revocable.verdict = Deny(ACL_DENIED)
        assert await closing(socket) == (1008, "no longer authorized")
        await eventually(lambda: not gateway.plane.tunnels)


async def test_a_revoked_credential_s_stream_is_cut(revocable: type[Revocable]) -> None:
    endless = Script([Send(head(200, "Content-Type: text/event-stream") + b"data: 1\n\n")], End.HANG)
    async with (
        RawServer(lambda _: endless) as upstream,
        running_gateway(routed(upstream.url, policies="{revocable: {}}"), {"revocable": revocable}) as gateway,
        await gateway.connect() as client,
    ):
        client.send(get())
        await client.head()
        revocable.verdict = Deny(ACL_DENIED)
        assert await client.ended() in ("reset", repr(b"9\r\ndata: 1\n\n\r\n"))
        (record,) = await gateway.recorded(1)
        assert (record.status, record.decision) == (200, "failed")


SWITCHED = head(101, "Connection: upgrade", "Upgrade: websocket", ACCEPT)


@pytest.mark.parametrize(
    ("asked", "answer", "status"),
    [
        (get("/", *HANDSHAKE), SWITCHED, 101),
        (get("/", *HANDSHAKE), head(101, "Connection: upgrade", "Upgrade: websocket"), 502),
        (get("/", *HANDSHAKE), SWITCHED.replace(b"s3pP", b"s3pQ"), 502),
        (get("/", *HANDSHAKE), head(101, "Upgrade: websocket", ACCEPT), 502),
        (get("/", *HANDSHAKE), head(101, "Connection: upgrade", "Upgrade: h2c", ACCEPT), 502),
        (get("/", *HANDSHAKE), SWITCHED.replace(b"HTTP/1.1", b"HTTP/1.0"), 502),
        (get("/", *HANDSHAKE), head(426, "Content-Length: 0", "Upgrade: websocket"), 426),
        (get("/"), SWITCHED, 502),
        (get("/", *HANDSHAKE, version="1.0"), SWITCHED, 502),
        (get("/", "Connection: upgrade", "Upgrade: websocket"), SWITCHED, 502),
        (get("/", *HANDSHAKE[1:]), SWITCHED, 502),  # not nominated by Connection
        (get("/", "Connection: upgrade", "Upgrade: h2c", *HANDSHAKE[2:]), SWITCHED, 502),
        (get("/", "Connection: upgrade", "Upgrade: websocket, h2c", *HANDSHAKE[2:]), SWITCHED, 502),
        (request("POST", "/", *HANDSHAKE), SWITCHED, 502),
        (request("GET", "/", *HANDSHAKE, body=b"x"), SWITCHED, 502),
    ],
)
async def test_only_an_asked_and_answered_handshake_switches(asked: bytes, answer: bytes, status: int) -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Send(answer)], End.HANG)

    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        client.send(asked)
        begun = await client.head()
        assert begun.status == status
        assert len(upstream.requests) == 1
        passed = upstream.requests[0].header("Upgrade")
        assert passed == ("websocket" if asked == get("/", *HANDSHAKE) else None)
        if status == 101:
            assert (begun.headers["connection"], begun.headers["upgrade"]) == ("Upgrade", "websocket")
            client.send(b"raw bytes")
            await eventually(lambda: bytes(upstream.requests[0].body) == b"raw bytes")
        else:
            assert not gateway.plane.tunnels


async def test_what_comes_with_the_handshake_is_not_lost() -> None:
    early = b"\x81\x05hello"

    def scripted(request: RawRequest) -> Script:
        return Script([Send(SWITCHED + early)], End.HANG)

    async with proxied(scripted) as (upstream, gateway), await gateway.connect() as client:
        client.send(get("/", *HANDSHAKE) + b"\x81\x82abcdef")
        assert (await client.head()).status == 101
        assert await client.reader.readexactly(len(early)) == early
        await eventually(lambda: bytes(upstream.requests[0].body) == b"\x81\x82abcdef")


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_side_that_vanishes_takes_the_other_along(who: str) -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Send(SWITCHED)], End.HANG if who == "client" else End.RESET)

    async with proxied(scripted) as (_, gateway), await gateway.connect() as client:
        client.send(get("/", *HANDSHAKE))
        await client.head()
        if who == "client":
            client.reset()
        else:
            assert await client.ended() in ("closed", "reset")
        await eventually(lambda: not gateway.plane.tunnels)
        assert not any(pool.connections for pool in gateway.plane.targets.pools.values())
