"""Several targets, retries, the retry budget, slots, and the upstream's time-outs, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway.proxy.states import CONNECTING
from tests.integration.gateways import MINUTE, Gateway, eventually, get, request, running_gateway
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer, Scripted
from upstream_stub.steps import End, Script, Send, Wait

UNAVAILABLE = "The upstream server is currently unavailable"
TIMING_OUT = "The upstream server is timing out"
PATIENT = 60


def ok(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


def reset(request: RawRequest) -> Script:
    return Script([], End.RESET)


def hangs(request: RawRequest) -> Script:
    return Script([], End.HANG)


def status(number: int) -> Scripted:
    return lambda _: Script([Send(head(number, "Content-Length: 0"))], End.KEEP)


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def balanced(
    *scripts: Scripted | None, service: str = "", limits: str = "{}", top: str = ""
) -> AsyncIterator[tuple[list[RawServer | None], Gateway]]:
    """A gateway before several targets; None is one that nobody listens at."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(RawServer(script)) if script else None for script in scripts]
        urls = [server.url if server is not None else closed_port() for server in servers]
        targets = "".join(f"      - url: {url}\n" for url in urls)
        extra = "".join(f"    {line}\n" for line in service.splitlines())
        text = (
            f"version: 1\nlimits: {limits}\n{top}\nservices:\n  - name: lms\n    targets:\n{targets}{extra}"
            "    routes: [{name: all, paths: [/], policies: {auth: none}}]\n"
        )
        yield servers, await stack.enter_async_context(running_gateway(text))


async def test_every_target_gets_its_share_under_its_own_name() -> None:
    async with balanced(ok, ok, ok) as (servers, gateway), await gateway.connect() as client:
        for _ in range(9):
            assert (await client.request(get())).status == 200
        for server in servers:
            assert server is not None
            assert [seen.header("Host") for seen in server.requests] == [server.url.removeprefix("http://")] * 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_never_left_goes_to_another_target(method: str) -> None:
    """No connection could be made, so that nothing was sent: even a POST may go elsewhere, within the budget."""
    async with balanced(None, ok) as (servers, gateway), await gateway.connect() as client:
        answers = [(await client.request(request(method, "/", body=b"x"), method)).status for _ in range(4)]
        assert answers == [200] * 4
        assert servers[1] is not None
        assert len(servers[1].requests) == 4


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (get(), 200),
        (request("PUT", "/", body=b"whole"), 200),
        (request("DELETE", "/"), 200),
        (request("POST", "/", body=b"whole"), 502),
        (request("PATCH", "/", body=b"whole"), 502),
    ],
)
async def test_a_post_is_never_sent_twice(sent: bytes, answer: int) -> None:
    async with balanced(reset, ok) as (servers, gateway):
        async with await gateway.connect() as client:
            assert (await client.request(sent)).status == answer
        bad, good = servers
        assert bad is not None
        assert good is not None
        assert (len(bad.requests), len(good.requests)) == (1, 1 if answer == 200 else 0)
        if answer == 200:
            await eventually(lambda: bytes(good.requests[0].body) == bytes(bad.requests[0].body))


async def test_retries_are_at_most_a_fifth_of_the_requests() -> None:
    async with balanced(reset, reset, service="retries: 3") as (servers, gateway), await gateway.connect() as client:
        total = 100
        for _ in range(total):
            assert (await client.request(get())).status == 502
        seen = sum(len(server.requests) for server in servers if server is not None)
        assert total < seen <= total * 1.2


async def test_a_kept_connection_s_end_uses_up_no_try() -> None:
    """Its target is gone: what was about to be sent on it goes to the next one, with `retries: 1`."""
    gone: list[RawServer] = []

    def leaves(request: RawRequest) -> Script:
        if request.target == "/first":
            return ok(request)
        gone[0].close_listener()
        return reset(request)

    async with balanced(leaves, ok) as (servers, gateway), await gateway.connect() as client:
        gone += [server for server in servers if server is not None]
        for _ in range(2):
            assert (await client.request(get("/first"))).status == 200
        assert (await client.request(get("/second"))).status == 200
        assert [seen.target for seen in gone[1].requests] == ["/first", "/second"]


async def test_a_request_that_a_kept_connection_dies_of_is_a_failure() -> None:
    """Long after it was written no close has crossed it."""

    def dies(request: RawRequest) -> Script:
        return ok(request) if request.target == "/first" else Script([Wait(1.1)], End.RESET)

    service = "health: {passive: {failures: 1, cooldown: 1m}}"
    async with balanced(dies, service=service) as (_, gateway), await gateway.connect() as client:
        assert (await client.request(get("/first"))).status == 200
        assert (await client.request(request("POST", "/second", body=b"x"))).status == 502
        assert (await client.request(get("/third"))).status == 503


async def test_no_target_that_is_well_is_a_503_at_once_and_a_probe_brings_it_back() -> None:
    answers: list[Callable[[RawRequest], Script]] = [reset]

    def scripted(request: RawRequest) -> Script:
        return answers[-1](request)

    service = "retries: 0\nhealth: {passive: {failures: 2, cooldown: 400ms}}"
    async with balanced(scripted, service=service) as (servers, gateway):
        server = servers[0]
        assert server is not None
        assert [(await gateway.get()).status for _ in range(2)] == [502, 502]
        refused = await gateway.get()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert UNAVAILABLE.encode() in refused.body
        assert len(server.requests) == 2
        answers.append(ok)
        await asyncio.sleep(0.45)
        assert [(await gateway.get()).status for _ in range(3)] == [200] * 3


async def test_a_status_that_says_so_counts_as_a_failure() -> None:
    service = "health: {passive: {failures: 2, cooldown: 1m}}"
    async with balanced(status(503), ok, service=service) as (_, gateway), await gateway.connect() as client:
        answers = Counter([(await client.request(get())).status for _ in range(10)])
        assert answers == {503: 2, 200: 8}


async def test_the_same_consumer_goes_to_the_same_target() -> None:
    async with balanced(ok, ok, ok, service="balance: consumer-hash") as (servers, gateway):
        for _ in range(6):
            assert (await gateway.get()).status == 200
        assert sorted(len(server.requests) for server in servers if server is not None) == [0, 0, 6]


# ── slots ────────────────────────────────────────────────────────────────────────────────────────


async def test_no_more_connections_than_allowed_and_the_rest_wait_their_turn() -> None:
    def slow(request: RawRequest) -> Script:
        return Script([Wait(0.05), Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)

    async with balanced(slow, service="max_connections: 2") as (servers, gateway):
        server = servers[0]
        assert server is not None
        answers = await asyncio.gather(*(gateway.get(f"/{number}") for number in range(12)))
        assert [answer.status for answer in answers] == [200] * 12
        assert server.connections == 2
        assert len(server.requests) == 12


def closes(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2", "Connection: close") + b"ok")], End.CLOSE)


def until_close(request: RawRequest) -> Script:
    return Script([Send(head(200, "Connection: close") + b"ok")], End.CLOSE)


@pytest.mark.parametrize(("script", "answer"), [(closes, 200), (until_close, 200), (reset, 502)])
async def test_a_connection_that_has_ended_makes_room_at_once(script: Scripted, answer: int) -> None:
    """Not when somebody looks again: each of these would wait for that, and the last ones in vain."""
    service, top = "max_connections: 1\nretries: 0", "overload: {max_wait: 2s}"
    async with balanced(script, service=service, top=top) as (_, gateway):
        answers = await asyncio.gather(*(gateway.get() for _ in range(12)))
        assert [each.status for each in answers] == [answer] * 12


async def test_who_waits_for_room_is_refused_when_nobody_is_well_any_more() -> None:
    service = "max_connections: 1\nretries: 0\nread_timeout: 300ms\nhealth: {passive: {failures: 1, cooldown: 1m}}"
    async with balanced(hangs, service=service, top="overload: {max_wait: 1m}") as (_, gateway):
        answers = await asyncio.gather(*(gateway.get() for _ in range(4)))
        assert [each.status for each in answers] == [504, 503, 503, 503]
        assert UNAVAILABLE.encode() in answers[-1].body


async def test_what_was_refused_while_it_waited_is_forgotten() -> None:
    async with (
        balanced(hangs, service="max_connections: 1", top="overload: {max_wait: 50ms}") as (servers, gateway),
        await gateway.connect() as first,
    ):
        server = servers[0]
        assert server is not None
        first.send(get())
        await eventually(lambda: server.requests)
        answers = await asyncio.gather(*(gateway.get() for _ in range(20)))
        assert [each.status for each in answers] == [503] * 20
        (balancer,) = {gateway.plane.targets.balancer(service) for service in gateway.plane.snapshot.services}
        await eventually(lambda: not balancer.queue)


async def test_what_waits_too_long_for_a_slot_is_a_503() -> None:
    service = "max_connections: 1\nread_timeout: 10m"
    async with (
        balanced(hangs, service=service, top="overload: {max_wait: 1m}") as (servers, gateway),
        await gateway.connect() as first,
        await gateway.connect() as second,
    ):
        server = servers[0]
        assert server is not None
        first.send(get("/first"))
        await eventually(lambda: len(server.requests) == 1)
        began = time.monotonic_ns()
        second.send(get("/second"))
        await eventually(lambda: gateway.exchanges(CONNECTING))
        waiting = time.monotonic_ns()
        gateway.deadlines(began + MINUTE - 1)
        assert not gateway.records
        gateway.deadlines(waiting + MINUTE)
        refused = await second.response()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"Service overloaded" in refused.body
        second.send(get("/third"))
        await eventually(lambda: gateway.exchanges(CONNECTING))
        first.reset()  # frees the slot at once
        await eventually(lambda: len(server.requests) == 2)


# ── time-outs ────────────────────────────────────────────────────────────────────────────────────


def half(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 4") + b"ha")], End.HANG)


def trickle(request: RawRequest) -> Script:
    steps = [piece for _ in range(4) for piece in (Send(b"x"), Wait(0.05))]
    return Script([Send(head(200, "Content-Length: 4")), *steps], End.KEEP)


LONG = "read_timeout: 10m\nwrite_timeout: 10m"


@pytest.mark.parametrize(
    ("script", "service", "answer"),
    [
        (hangs, "read_timeout: 1m", 504),
        (hangs, "read_timeout: 10m\nfirst_byte_timeout: 1m", 504),
        (hangs, f"{LONG}\ntotal_timeout: 1m", 504),
        (half, "read_timeout: 1m", 0),
        (half, "read_timeout: 1m\nfirst_byte_timeout: 10m", 0),
        (half, f"{LONG}\ntotal_timeout: 1m", 0),
    ],
)
async def test_the_upstream_s_time(script: Scripted, service: str, answer: int) -> None:
    """504 when it is over and not before; once the answer has begun, a cut (0)."""
    async with balanced(script, service=service) as (servers, gateway), await gateway.connect() as client:
        began = time.monotonic_ns()
        client.send(get())
        if answer:
            server = servers[0]
            assert server is not None
            await eventually(lambda: server.requests)
        else:
            assert (await client.head()).status == 200
            assert await client.reader.readexactly(2) == b"ha"
        waiting = time.monotonic_ns()
        gateway.deadlines(began + MINUTE - 1)
        assert not gateway.records
        gateway.deadlines(waiting + MINUTE)
        if answer:
            response = await client.response()
            assert (response.status, TIMING_OUT.encode() in response.body) == (answer, True)
        else:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.reader.readexactly(PATIENT)


@pytest.mark.parametrize(("service", "whole"), [("read_timeout: 1m", True), (f"{LONG}\ntotal_timeout: 1m", False)])
async def test_what_trickles_has_the_whole_time_but_no_longer(service: str, whole: bool) -> None:
    """Each byte begins the upstream's time anew; what is given to all of it runs on."""
    async with balanced(trickle, service=service) as (_, gateway), await gateway.connect() as client:
        client.send(get())
        await client.head()
        await client.reader.readexactly(1)
        first = time.monotonic_ns()
        await client.reader.readexactly(2)
        gateway.deadlines(first + MINUTE)
        if whole:
            assert await client.reader.readexactly(1) == b"x"
        else:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.reader.readexactly(1)


async def test_time_passes_by_itself() -> None:
    """What the tests above tell the gateway, it looks at several times a second."""
    async with balanced(hangs, service="read_timeout: 300ms") as (_, gateway):
        began = time.monotonic()
        assert (await gateway.get()).status == 504
        assert time.monotonic() - began > 0.25


async def test_the_whole_time_is_a_504_for_who_waits_for_room_too() -> None:
    service = "max_connections: 1\ntotal_timeout: 300ms"
    async with balanced(hangs, service=service, top="overload: {max_wait: 1m}") as (_, gateway):
        answers = await asyncio.gather(*(gateway.get() for _ in range(3)))
        assert [each.status for each in answers] == [504] * 3


@pytest.mark.parametrize(
    ("begun", "answer"),
    [(request("POST", "/", "Content-Length: 1000") + b"slowly", 504), (get("/endless"), 200)],
    ids=["upload", "stream"],
)
async def test_what_takes_a_client_too_long_is_no_failure_of_its_upstream(begun: bytes, answer: int) -> None:
    """Else a few slow clients would put a target out for everybody."""

    def scripted(request: RawRequest) -> Script:
        if request.target == "/endless":
            return Script([Send(head(200, "Content-Type: text/event-stream") + b"data: 1\n\n")], End.HANG)
        return ok(request) if request.method == "GET" else hangs(request)

    service = "total_timeout: 1s\nhealth: {passive: {failures: 1, cooldown: 1h}}"
    async with balanced(scripted, service=service) as (_, gateway), await gateway.connect() as client:
        client.send(begun)
        assert (await client.head()).status == answer
        await gateway.recorded(1)
        assert (await gateway.get()).status == 200


async def test_a_black_hole_is_a_504_and_another_target_is_tried() -> None:
    """A listener whose backlog is full takes no connection: the kernel drops what comes."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(hole.getsockname())
            url = f"http://127.0.0.1:{hole.getsockname()[1]}"
            async with RawServer(ok) as good:
                for targets, answer in ((f"[{{url: {url}}}]", 504), (f"[{{url: {url}}}, {{url: {good.url}}}]", 200)):
                    text = (
                        f"version: 1\nservices:\n  - {{name: lms, targets: {targets}, connect_timeout: 1m,\n"
                        "     routes: [{name: all, paths: [/], policies: {auth: none}}]}\n"
                    )
                    async with running_gateway(text) as gateway:
                        asking = asyncio.create_task(gateway.get())
                        # Whose turn it is is chance: the good one's, or the black hole's first.
                        await eventually(lambda: gateway.exchanges(CONNECTING) or asking.done())  # noqa: B023
                        gateway.deadlines(time.monotonic_ns() + MINUTE)
                        assert (await asking).status == answer
        finally:
            for filler in fillers:
                filler.close()
