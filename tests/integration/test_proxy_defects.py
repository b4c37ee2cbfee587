"""What breaks inside: policies on the response's way, our own code; and what a wait may find when it is over."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any, ClassVar, cast
from unittest.mock import Mock

import pytest

from gateway.config.types import Settings
from gateway.core.answers import ACL_DENIED
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny, Reply
from gateway.core.policy import Environment, Policy
from gateway.proxy.downstream import Downstream
from tests.integration.gateways import MINUTE, Gateway, chunked, eventually, get, request, routed, running_gateway
from tests.integration.slow_policy import SlowPolicy
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send, Wait


def ok(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2", "Set-Cookie: a=1") + b"ok")], End.KEEP)


class Hooks(Policy):
    """Looks at responses; breaks where it is told to."""

    name: ClassVar[str] = "hooks"
    phase = 1000
    seen: ClassVar[list[tuple[str, int]]] = []

    class Config(Settings):
        """Where it breaks."""

        breaks: str = ""

    def __init__(self, config: Config, environment: Environment) -> None:
        self._breaks = config.breaks

    def check(self, context: Context) -> Decision:
        return ALLOW

    def on_response_head(self, context: Context, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.seen.append(("head", status))
        assert (b"Set-Cookie", b"a=1") in fields
        if self._breaks == "head":
            raise RuntimeError("a policy's own defect")
        context.answer_lines.append(b"X-Seen: yes\r\n")

    def on_end(self, context: Context, status: int) -> None:
        self.seen.append(("end", status))
        if self._breaks == "end":
            raise RuntimeError("a policy's own defect")


@pytest.mark.parametrize(("breaks", "status"), [("", 200), ("head", 500), ("end", 200)])
async def test_hooks(breaks: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    Hooks.seen.clear()
    async with RawServer(ok) as upstream:
        text = routed(upstream.url, policies=f"{{hooks: {{breaks: '{breaks}'}}}}")
        async with running_gateway(text, {"hooks": Hooks}) as gateway, await gateway.connect() as client:
            for _ in range(2):
                response = await client.request(get("/"))
                assert response.status == status
                assert ("x-seen" in response.headers) is (status == 200)
        assert Hooks.seen == [("head", 200), ("end", status)] * 2
    assert ("a policy's own defect" in caplog.text) is bool(breaks)


class Spoils(Policy):
    """Gathers what is no header line."""

    name: ClassVar[str] = "spoils"
    phase = 1000

    class Config(Settings):
        """Where it does so."""

        where: str = ""

    def __init__(self, config: Config, environment: Environment) -> None:
        self._where = config.where

    def check(self, context: Context) -> Decision:
        text: Any = "X-A"
        match self._where:
            case "denied":
                return Deny(ACL_DENIED, headers=((text, text),))
            case "replied":
                return Reply(200, headers=((text, text),))
            case "answered" | "refused":
                context.answer_lines.append(text)
            case "upstream":
                context.upstream_lines.append(text)
            case "replaced":
                context.replaced = (cast(Any, {b"server"}),)
        return Deny(ACL_DENIED) if self._where == "refused" else ALLOW

    def on_response_head(self, context: Context, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        if self._where == "head":
            context.answer_lines.append(cast(Any, "X-A"))
        if self._where == "exit":
            raise SystemExit(1)

    def on_end(self, context: Context, status: int) -> None:
        if self._where == "end":
            raise BaseException("a panic of a library in Rust")  # noqa: TRY002 - that is what they are


@pytest.mark.parametrize(
    "where", ["denied", "replied", "answered", "refused", "upstream", "replaced", "head", "exit", "end"]
)
async def test_what_a_policy_gathers_wrongly_is_a_500(where: str) -> None:
    async with RawServer(ok) as upstream:
        text = routed(upstream.url, policies=f"{{spoils: {{where: '{where}'}}}}")
        async with running_gateway(text, {"spoils": Spoils}) as gateway:
            for _ in range(2):
                async with await gateway.connect() as client:
                    response = await client.request(get("/"))
                    assert response.status == (200 if where == "end" else 500)
                    if where == "end":
                        assert (await client.request(get("/"))).status == 200
                    else:
                        assert json.loads(response.body)["error"] == "An unexpected error occurred"
        assert {record.status for record in gateway.records} == {response.status}


async def test_a_defect_of_ours_is_a_500_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    def broken(method: str, host: str, path: str, index: Mapping[bytes, bytes]) -> None:
        raise RuntimeError("our own defect")

    async with running_gateway(routed("http://127.0.0.1:9")) as gateway, await gateway.connect() as client:
        gateway.plane.snapshot = dataclasses.replace(gateway.plane.snapshot, match=broken)
        response = await client.request(get("/"))
        assert (response.status, response.headers["connection"]) == (500, "close")
        assert json.loads(response.body)["error"] == "An unexpected error occurred"
        assert await client.ended() == "closed"
    assert "our own defect" in caplog.text


# ── waits ────────────────────────────────────────────────────────────────────────────────────────


async def waiting(gateway: Gateway, number: int = 1) -> None:
    """So many requests wait for their decision."""
    await eventually(lambda: len(SlowPolicy.waiting) >= number)


def slow_routed(url: str, policies: str = "{slow: {}}", limits: str = "{}") -> str:
    SlowPolicy.waiting.clear()
    return routed(url, policies=policies, limits=limits)


SLOW: dict[str, type[Policy]] = {"slow": SlowPolicy}


@pytest.mark.parametrize(
    ("verdict", "status"), [(ALLOW, 200), (Reply(204), 204), (Reply(418, body=b"tea", headers=((b"X-A", b"1"),)), 418)]
)
async def test_a_decision_that_comes_late(verdict: Decision, status: int) -> None:
    async with RawServer(ok) as upstream, running_gateway(slow_routed(upstream.url), SLOW) as gateway:
        async with await gateway.connect() as client:
            client.send(request("POST", "/a", body=b"body") + get("/b"))
            await waiting(gateway)
            SlowPolicy.waiting[0].resolve(verdict)
            assert (await client.response()).status == status
            await waiting(gateway, 2)
            SlowPolicy.waiting[1].resolve(ALLOW)
            assert (await client.response()).status == 200
        assert len(upstream.requests) == (2 if verdict is ALLOW else 1)


async def test_a_wait_that_fails_is_a_500() -> None:
    async with running_gateway(slow_routed("http://127.0.0.1:9"), SLOW) as gateway, await gateway.connect() as client:
        client.send(get("/"))
        await waiting(gateway)
        SlowPolicy.waiting[0].fail(RuntimeError("the store is gone"))
        assert (await client.response()).status == 500


@pytest.mark.parametrize(
    ("sent", "policies", "status"),
    [
        (request("POST", "/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\nzz\r\n", "{slow: {}}", 400),
        (
            request("POST", "/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n5\r\nworld\r\n",
            "{slow: {}, request-size-limiting: {max: 9}}",
            413,
        ),
        (request("POST", "/", "Content-Length: 5") + b"hell", "{slow: {}}", 408),
    ],
)
async def test_a_body_that_breaks_while_its_request_waits(sent: bytes, policies: str, status: int) -> None:
    text = slow_routed("http://127.0.0.1:9", policies, "{body_timeout: 1m}")
    async with running_gateway(text, SLOW) as gateway, await gateway.connect() as client:
        begin = sent.index(b"\r\n\r\n") + 4
        client.send(sent[:begin])
        await waiting(gateway)
        client.send(sent[begin:])
        if status == 408:
            gateway.deadlines(time.monotonic_ns() + MINUTE)
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (status, "close")
        (pending,) = SlowPolicy.waiting
        assert pending.done
        pending.resolve(ALLOW)  # too late: nobody hears it
        assert await client.ended() == "closed"
        assert len(gateway.records) == 1


async def test_a_body_over_its_limit_that_came_before_the_decision() -> None:
    """All of it was held when the policy set the limit."""
    text = slow_routed("http://127.0.0.1:9", "{slow: {}, request-size-limiting: {max: 9}}")
    async with running_gateway(text, SLOW) as gateway, await gateway.connect() as client:
        client.send(request("POST", "/", "Transfer-Encoding: chunked") + chunked(b"hello", b"world"))
        await waiting(gateway)
        SlowPolicy.waiting[0].resolve(ALLOW)
        assert (await client.response()).status == 413


async def test_a_denial_keeps_the_connection_of_a_short_body() -> None:
    async with (
        RawServer(ok) as upstream,
        running_gateway(slow_routed(upstream.url), SLOW) as gateway,
        await gateway.connect() as client,
    ):
        client.send(request("POST", "/", "Content-Length: 10"))
        await waiting(gateway)
        SlowPolicy.waiting[0].resolve(Deny(ACL_DENIED))
        response = await client.response()
        assert (response.status, "connection" in response.headers) == (403, False)
        client.send(b"0123456789" + get("/"))
        await waiting(gateway, 2)
        SlowPolicy.waiting[1].resolve(ALLOW)
        assert (await client.response()).status == 200


# ── who is at the other end ──────────────────────────────────────────────────────────────────────


async def test_trusted_proxies_are_asked_for_each_request() -> None:
    def forwarded_for(seen: RawRequest) -> str | None:
        return seen.header("X-Forwarded-For")

    async with RawServer(ok) as upstream:
        text = routed(upstream.url, top="trusted_proxies: [127.0.0.0/8]")
        async with running_gateway(text) as gateway, await gateway.connect() as client:
            for address in ("192.0.2.1", "192.0.2.2"):
                assert (await client.request(get("/", f"X-Forwarded-For: {address}"))).status == 200
            gateway.swap(routed(upstream.url))
            assert (await client.request(get("/", "X-Forwarded-For: 192.0.2.3"))).status == 200
            gateway.swap(text)
            assert (await client.request(get("/", "X-Forwarded-For: 192.0.2.4"))).status == 200
        assert [forwarded_for(seen) for seen in upstream.requests] == [
            "192.0.2.1, 127.0.0.1",
            "192.0.2.2, 127.0.0.1",
            "127.0.0.1",
            "192.0.2.4, 127.0.0.1",
        ]


GONE = ("get_extra_info", "set_write_buffer_limits", "abort")


async def test_a_connection_without_a_peer_is_dropped() -> None:
    """It was reset before it was accepted; what it has sent is still readable, and must not pass for anybody's."""

    async with RawServer(ok) as upstream, running_gateway(routed(upstream.url)) as gateway:
        transport = Mock(**{f"{name}.return_value": None for name in GONE})
        connection = Downstream(gateway.plane)
        connection.connection_made(transport)
        transport.abort.assert_called_once_with()
        connection.data_received(get("/"))
        connection.connection_lost(None)
        assert not upstream.requests
        assert not gateway.records


async def test_a_client_that_stops_after_its_upstream_was_slow() -> None:
    """The time of its body runs again once the upstream takes more."""

    async def lazy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.7)
        while await reader.read(1 << 20):
            pass
        writer.close()

    server = await asyncio.start_server(lazy, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        server,
        running_gateway(routed(url, limits="{body_timeout: 500ms}")) as gateway,
        await gateway.connect() as client,
    ):
        client.send(request("POST", "/", "Content-Length: 50000000") + b"x" * 20_000_000)
        response = await client.response()
        assert response.status == 408


async def test_the_gateway_answers_while_an_upstream_is_slow() -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Wait(0.3), *ok(request).steps], End.KEEP)

    async with (
        RawServer(scripted) as upstream,
        running_gateway(routed(upstream.url)) as gateway,
        await gateway.connect() as slow,
        await gateway.connect() as quick,
    ):
        slow.send(get("/"))
        assert (await quick.request(get("/%00"))).status == 400
        assert (await slow.response()).status == 200
