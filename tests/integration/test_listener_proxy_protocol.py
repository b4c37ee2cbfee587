"""The PROXY protocol on the listener: whose address is believed, what is closed, and that it goes before TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path

import pytest

from tests.certificates import authority, client_context
from tests.integration.gateways import Client, eventually, get, proxied, running_gateway
from tests.integration.test_listener_tls import ok, tls
from tests.proxy.test_proxy_protocol import GOOD, MALFORMED, V4, v2

ON = "listen: {proxy_protocol: on}"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 8443\r\n"


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("piecewise", [False, True])
async def test_the_source_is_the_client(name: str, piecewise: bool) -> None:
    header, source = GOOD[name]
    async with proxied(ok, top=ON) as (upstream, gateway), await gateway.connect() as client:
        said = header + get()
        if piecewise:
            client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(min(len(said), 300)):
                client.send(said[at : at + 1])
                await asyncio.sleep(0)
            client.send(said[300:])
        else:
            client.send(said)
        assert (await client.response()).status == 200
        assert (await client.request(get("/again"))).status == 200
        address = "127.0.0.1" if source is None else source.address
        port = gateway.port if source is None else source.destination_port
        for sent in upstream.requests:
            assert sent.header("X-Forwarded-For") == sent.header("X-Real-IP") == address
            assert sent.header("X-Forwarded-Port") == str(port)
            assert sent.header("X-Forwarded-Proto") == "http"
        assert [request.target for request in upstream.requests] == ["/", "/again"]


@pytest.mark.parametrize("name", MALFORMED)
async def test_anything_else_is_closed_without_an_answer(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with proxied(ok, top=ON) as (upstream, gateway):
        async with await gateway.connect() as client:
            client.send(MALFORMED[name])
            assert await client.ended() in ("closed", "reset")
        assert upstream.requests == []
        assert gateway.records == []
        assert gateway.listener.greeting == 0
    assert [record for record in caplog.records if record.name.startswith("postern")] == []


@pytest.mark.parametrize("said", [b"", b"PRO", V1[:-1], v2()[:20]])
async def test_a_header_has_its_time(said: bytes) -> None:
    async with (
        proxied(ok, top=ON, limits="{header_timeout: 200ms}") as (_, gateway),
        await gateway.connect() as client,
    ):
        client.send(said)
        assert await client.ended() in ("closed", "reset")


async def test_a_client_that_leaves_in_its_header() -> None:
    async with proxied(ok, top=ON) as (_, gateway):
        async with await gateway.connect() as client:
            client.send(V1[:10])
            await eventually(lambda: gateway.listener.greeting == 1)
        await eventually(lambda: gateway.listener.greeting == 0)


@pytest.mark.parametrize(("senders", "welcome"), [('[127.0.0.0/8, "::1"]', True), ("[10.0.0.0/8]", False)])
async def test_who_may_send_headers(senders: str, welcome: bool) -> None:
    top = f"listen: {{proxy_protocol: on, proxy_protocol_from: {senders}}}"
    async with proxied(ok, top=top) as (upstream, gateway), await gateway.connect() as client:
        client.send(V1 + get())
        if welcome:
            assert (await client.response()).status == 200
        else:
            assert await client.ended() in ("closed", "reset")
            assert upstream.requests == []


@pytest.mark.parametrize(
    ("trusted", "forwarded"),
    [
        # The load balancer's own word on the client is judged, not the load balancer.
        ("[127.0.0.0/8]", "192.0.2.7"),
        ("[192.0.2.0/24]", "203.0.113.9, 192.0.2.7"),
    ],
)
async def test_trusted_proxies_are_judged_by_the_source(trusted: str, forwarded: str) -> None:
    top = f"{ON}\ntrusted_proxies: {trusted}"
    async with proxied(ok, top=top) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(V1 + get("/", "X-Forwarded-For: 203.0.113.9"))).status == 200
        assert upstream.requests[0].header("X-Forwarded-For") == forwarded


@pytest.mark.parametrize(("allowed", "status"), [("192.0.2.0/24", 200), ("127.0.0.0/8", 403)])
async def test_policies_see_the_source(allowed: str, status: int) -> None:
    async with (
        proxied(ok, top=ON, policies=f"{{ip-restriction: {{allow: [{allowed}]}}}}") as (_, gateway),
        await gateway.connect() as client,
    ):
        assert (await client.request(V1 + get())).status == status


async def test_it_is_off_by_default() -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as client:
        assert (await client.request(V1 + get())).status == 400


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("header", [V1, v2(block=V4[:10] + (8443).to_bytes(2))])
async def test_it_goes_before_tls(tmp_path: Path, header: bytes, together: bool) -> None:
    issued = authority().issue(tmp_path, "lms.example.org")
    async with proxied(ok, top=f"{ON}\n{tls(issued)}") as (upstream, gateway):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(tmp_path).wrap_bio(incoming, outgoing, server_hostname="lms.example.org")
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        # In one segment with the client's hello, or before it.
        writer.write(header)
        if not together:
            await asyncio.sleep(0.05)
        writer.write(outgoing.read())
        while True:
            async with asyncio.timeout(30):
                incoming.write(await reader.read(65536))
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
        client.write(get())
        writer.write(outgoing.read())
        await eventually(lambda: upstream.requests)
        (sent,) = upstream.requests
        assert sent.header("X-Forwarded-For") == "192.0.2.7"
        assert sent.header("X-Forwarded-Port") == "8443"
        assert sent.header("X-Forwarded-Proto") == "https"
        writer.close()


async def test_plain_http_after_the_header_where_tls_is_spoken(tmp_path: Path) -> None:
    issued = authority().issue(tmp_path, "lms.example.org")
    async with proxied(ok, top=f"{ON}\n{tls(issued)}") as (upstream, gateway), await gateway.connect() as client:
        client.send(V1 + get())
        answer = await client.ended()
        assert answer in ("closed", "reset") or answer.startswith("b'\\x15")
        assert upstream.requests == []


@pytest.mark.parametrize("rounds", [3])
async def test_paused_accepting_loses_and_refuses_nobody(rounds: int) -> None:
    async with proxied(ok) as (upstream, gateway):
        standing = await gateway.connect()
        assert (await standing.request(get())).status == 200
        for _ in range(rounds):
            gateway.listener.pause()
            waiting = [await gateway.connect() for _ in range(50)]
            for client in waiting:
                client.send(get())
            await asyncio.sleep(0.05)
            assert len(gateway.plane.downstreams) == 1
            # Who is in is served meanwhile.
            assert (await standing.request(get())).status == 200
            gateway.listener.resume()
            gateway.listener.pause()
            gateway.listener.resume()
            for client in waiting:
                async with client:
                    assert (await client.response()).status == 200
            await eventually(lambda: len(gateway.plane.downstreams) == 1)
        assert len(upstream.requests) == 1 + rounds * 51
        standing.writer.close()


async def test_pausing_under_connections_that_keep_coming() -> None:
    """Connections that arrive in the very moment are neither lost nor refused."""
    async with proxied(ok) as (_, gateway):

        async def one() -> int:
            async with await gateway.connect() as client:
                return (await client.request(get("/", "Connection: close"))).status

        async def flap() -> None:
            while True:
                gateway.listener.pause()
                await asyncio.sleep(0.001)
                gateway.listener.resume()
                await asyncio.sleep(0.001)

        flapping = asyncio.create_task(flap())
        statuses: list[int] = []
        for _ in range(20):
            statuses += await asyncio.gather(*(one() for _ in range(15)))
        flapping.cancel()
        assert statuses == [200] * 300


async def test_a_stopped_listener_does_not_come_back() -> None:
    async with running_gateway("services: []") as gateway:
        gateway.listener.pause()
        gateway.listener.resume()
        gateway.listener.stop_accepting()
        gateway.listener.resume()
        await asyncio.sleep(0.02)
        with pytest.raises(ConnectionRefusedError):
            await gateway.connect()


async def test_a_name_with_several_addresses(unused_tcp_port: int) -> None:
    async with running_gateway("services: []") as gateway:
        from gateway.proxy.listener import Listener

        listener = Listener(gateway.plane, "localhost", 0)
        await listener.start()
        try:
            for host in {str(info[4][0]) for info in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}:
                async with Client(*await asyncio.open_connection(host, listener.port)) as client:
                    assert (await client.request(get())).status == 404
        finally:
            listener.stop_accepting()
