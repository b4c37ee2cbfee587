"""Targets over real sockets: names that move, probes that put out and bring back, circuits that open and close."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.proxy.targets import Targets
from tests.integration.gateways import Gateway, eventually, get, running_gateway
from tests.integration.name_server import NameServer
from tests.integration.programs import running_program
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send


class Upstream(RawServer):
    """Answers with its own name; `status` is what it answers, `health` what it answers a probe (0: nothing)."""

    def __init__(self, name: str, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(self._script, host=host, port=port)
        self.name = name
        self.status = 200
        self.health = 200
        self.end = End.KEEP

    def _script(self, request: RawRequest) -> Script:
        if request.header("user-agent") == "postern-health":
            status, body = self.health, b""
        else:
            status, body = self.status, self.name.encode()
        if not status:
            return Script([], End.KEEP)
        return Script([Send(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))], self.end)

    def asked(self, path: str) -> int:
        """How many requests came for a path."""
        return sum(request.target == path for request in self.requests)


def configured(urls: Sequence[str], lines: str = "", weights: Sequence[int] = ()) -> str:
    """A configuration that routes everything to one service with these targets; `lines` of the service."""
    pairs = zip(urls, weights or [1] * len(urls), strict=True)
    targets = ", ".join(f"{{url: {url}, weight: {weight}}}" for url, weight in pairs)
    extra = "".join(f"    {line}\n" for line in lines.splitlines())
    return (
        f"version: 1\nservices:\n  - name: lms\n    targets: [{targets}]\n{extra}"
        "    policies: {auth: none}\n    routes:\n      - {name: all, paths: [/]}\n"
    )


async def answers(gateway: Gateway, number: int) -> Counter[str]:
    """Who answers so many requests; a refusal counts by its status."""
    found: Counter[str] = Counter()
    async with await gateway.connect() as client:
        for _ in range(number):
            response = await client.request(get("/"))
            found[response.body.decode() if response.status == 200 else str(response.status)] += 1
    return found


def states(targets: Targets) -> list[tuple[str, str]]:
    """`(address, state)` of every address."""
    return [(each.address, each.state) for state in targets.states() for each in state.addresses]


@asynccontextmanager
async def serving(
    *names: str, lines: str = "", weights: Sequence[int] = ()
) -> AsyncIterator[tuple[list[Upstream], Gateway]]:
    """Upstreams of these names, and a gateway of which they are the targets."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Upstream(name)) for name in names]
        text = configured([server.url for server in servers], lines, weights)
        yield servers, await stack.enter_async_context(running_gateway(text))


# ── names ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with NameServer() as server:
        yield server


async def test_a_name_moves_and_the_requests_with_it(names: NameServer) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Upstream("one", "127.0.0.2"))
        other = await stack.enter_async_context(Upstream("other", "127.0.0.3", one.port))
        names.set("lms.test", one.host, ttl=1)
        url = f"http://lms.test:{one.port}"
        gateway = await stack.enter_async_context(running_gateway(configured([url]), name_servers=[names.server]))
        assert await answers(gateway, 3) == {"one": 3}
        assert one.requests[0].header("host") == f"lms.test:{one.port}", "the name, not the address"
        names.set("lms.test", other.host, ttl=1)
        targets = gateway.plane.targets
        await eventually(lambda: states(targets) == [(f"127.0.0.3:{one.port}", "healthy")])
        assert await answers(gateway, 3) == {"other": 3}
        await eventually(lambda: not one.open)


async def test_all_addresses_of_a_name_are_used(names: NameServer) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Upstream("one", "127.0.0.2"))
        await stack.enter_async_context(Upstream("other", "127.0.0.3", one.port))
        names.set("lms.test", "127.0.0.2", "127.0.0.3", ttl=60)
        url = f"http://lms.test:{one.port}"
        gateway = await stack.enter_async_context(running_gateway(configured([url]), name_servers=[names.server]))
        assert await answers(gateway, 8) == {"one": 4, "other": 4}


async def test_a_name_server_that_fails_changes_nothing(names: NameServer) -> None:
    async with Upstream("one") as one:
        names.set("lms.test", one.host, ttl=1)
        url = f"http://lms.test:{one.port}"
        async with running_gateway(configured([url]), name_servers=[names.server]) as gateway:
            assert await answers(gateway, 1) == {"one": 1}
            names.failing = True
            await eventually(lambda: gateway.plane.targets.states()[0].reason)
            assert "lms.test does not resolve" in gateway.plane.targets.states()[0].reason
            assert await answers(gateway, 2) == {"one": 2}
            names.failing = False
            await eventually(lambda: not gateway.plane.targets.states()[0].reason)


async def test_a_name_that_nobody_knows_is_503_at_once(names: NameServer) -> None:
    url = "http://nowhere.test:9000"
    async with running_gateway(configured([url]), name_servers=[names.server]) as gateway:
        assert await answers(gateway, 2) == {"503": 2}
        assert gateway.plane.targets.states()[0].reason == "nowhere.test does not resolve: Domain name not found"


async def test_a_request_waits_for_the_first_answer(names: NameServer) -> None:
    async with Upstream("one") as one:
        names.silent = True
        names.set("lms.test", one.host)
        url = f"http://lms.test:{one.port}"
        async with (
            running_gateway(configured([url]), name_servers=[names.server]) as gateway,
            await gateway.connect() as client,
        ):
            client.send(get("/"))
            await eventually(lambda: names.asked)
            names.silent = False  # c-ares asks again
            assert (await client.response()).body == b"one"


# ── probes ──────────────────────────────────────────────────────────────────────────────────────

ACTIVE = "health: {active: {path: /up, interval: 100ms, timeout: 200ms, healthy: 2, unhealthy: 2}}"


@pytest.mark.parametrize("ill", [500, 0], ids=["an error", "silence"])
async def test_probes_put_out_and_bring_back(ill: int) -> None:
    async with serving("one", "other", lines=ACTIVE) as ((one, other), gateway):
        targets = gateway.plane.targets
        assert await answers(gateway, 4) == {"one": 2, "other": 2}
        one.health = ill
        await eventually(lambda: states(targets)[0][1] == "ejected")
        assert await answers(gateway, 4) == {"other": 4}
        other.health = 404
        await eventually(lambda: states(targets)[1][1] == "ejected")
        assert await answers(gateway, 2) == {"503": 2}
        one.health = 200
        await eventually(lambda: states(targets)[0][1] == "healthy")
        assert await answers(gateway, 2) == {"one": 2}
        assert one.asked("/up") >= 2
        assert {request.header("host") for request in one.requests if request.target == "/up"} == {one.url[7:]}


async def test_probes_end_with_their_service() -> None:
    async with Upstream("other") as other, serving("one", lines=ACTIVE) as ((one,), gateway):
        await eventually(lambda: one.asked("/up") > 1)
        gateway.swap(configured([other.url], ACTIVE))
        await eventually(lambda: other.asked("/up") > 1 and not one.open)
        seen = len(one.requests)
        await eventually(lambda: other.asked("/up") > 3)
        assert len(one.requests) == seen


# ── sharing, and circuits ───────────────────────────────────────────────────────────────────────


async def test_weights() -> None:
    async with serving("one", "other", weights=[3, 1]) as (_, gateway):
        assert await answers(gateway, 16) == {"one": 12, "other": 4}


async def test_the_least_busy_gets_the_next() -> None:
    async with serving("one", "other", lines="balance: least-connections") as ((one, other), gateway):
        one.status = other.status = 0  # never answers
        async with await gateway.connect() as first:
            first.send(get("/"))
            await eventually(lambda: one.requests or other.requests)
            idle = other if one.requests else one
            idle.status = 200
            assert await answers(gateway, 4) == {idle.name: 4}


async def test_a_client_stays_with_its_target() -> None:
    async with serving("one", "other", "third", lines="balance: consumer-hash") as (_, gateway):
        (name,) = await answers(gateway, 6)
        (again,) = await answers(gateway, 6)
        assert name == again


PASSIVE = "retries: 0\nhealth: {passive: {failures: 3, cooldown: 300ms}}"


@pytest.mark.parametrize(("ill", "refused"), [(503, "503"), (0, "504")], ids=["a status", "silence"])
async def test_a_circuit_opens_and_closes(ill: int, refused: str) -> None:
    async with serving("one", lines=f"{PASSIVE}\nread_timeout: 200ms") as ((one,), gateway):
        targets = gateway.plane.targets
        one.status = ill
        assert await answers(gateway, 3) == {refused: 3}
        assert states(targets)[0][1] == "ejected"
        before = len(one.requests)
        assert await answers(gateway, 3) == {"503": 3}
        assert len(one.requests) == before
        await eventually(lambda: states(targets)[0][1] == "half-open")
        assert await answers(gateway, 1) == {refused: 1}
        assert states(targets)[0][1] == "ejected", "the one that was let through failed"
        one.status = 200
        await eventually(lambda: states(targets)[0][1] == "half-open")
        assert await answers(gateway, 4) == {"one": 4}
        assert states(targets)[0][1] == "healthy"


@pytest.mark.parametrize("between", [200, 404, 500])
async def test_answers_of_the_application_open_no_circuit(between: int) -> None:
    async with serving("one", lines=PASSIVE) as ((one,), gateway):
        for _ in range(2):
            one.status = 503
            await answers(gateway, 2)
            one.status = between
            await answers(gateway, 5)
        assert states(gateway.plane.targets)[0][1] == "healthy"


async def test_what_cannot_be_reached_is_left_out() -> None:
    lines = "health: {passive: {failures: 3, cooldown: 1m}}"
    async with serving("one", "other", lines=lines) as ((_, other), gateway):
        await other.stop()
        assert await answers(gateway, 12) == {"one": 12}, "retried where it could not be reached, then left out"
        assert [state for _, state in states(gateway.plane.targets)] == ["healthy", "ejected"]


async def test_one_request_at_a_time_while_half_open() -> None:
    async with serving("one", lines=PASSIVE) as ((one,), gateway):
        one.status = 503
        await answers(gateway, 3)
        await eventually(lambda: states(gateway.plane.targets)[0][1] == "half-open")
        one.status = 0
        before = len(one.requests)
        async with await gateway.connect() as client:
            client.send(get("/"))
            await eventually(lambda: len(one.requests) == before + 1)
            assert await answers(gateway, 3) == {"503": 3}
            assert len(one.requests) == before + 1
            client.reset()
        # Its client left: the next one decides.
        await eventually(lambda: not gateway.plane.downstreams)
        one.status = 200
        assert await answers(gateway, 2) == {"one": 2}


# ── what is shown ───────────────────────────────────────────────────────────────────────────────


async def test_status_and_metrics_show_every_target(tmp_path: Path) -> None:
    async with Upstream("one") as one, Upstream("other") as other:
        other.health = 500
        async with running_program(tmp_path, configured([one.url, other.url], ACTIVE, [1, 2])) as program:
            async with asyncio.timeout(30):
                while await program.metric("postern_upstream_target_healthy", target=other.url) != 0:
                    await asyncio.sleep(0.05)
            assert await program.metric("postern_upstream_target_healthy", service="lms", target=one.url) == 1
            _, body = await program.status_of("/status")
            assert json.loads(body)["targets"] == [
                {
                    "service": "lms",
                    "target": one.url,
                    "healthy": True,
                    "weight": 1,
                    "reason": "",
                    "addresses": [{"address": one.url[7:], "state": "healthy", "reason": "", "active": 0}],
                },
                {
                    "service": "lms",
                    "target": other.url,
                    "healthy": False,
                    "weight": 2,
                    "reason": "it answered 500",
                    "addresses": [
                        {"address": other.url[7:], "state": "ejected", "reason": "it answered 500", "active": 0}
                    ],
                },
            ]
