"""A gateway's life under load: drains, reloads, and what outlives them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.gateways import Client, eventually, get, proxied, request, routed
from tests.integration.programs import PATIENCE, Program, fetch, launch, running_program, settled
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send, Wait


def ok(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


def slow(request: RawRequest) -> Script:
    return Script([Send(head(200, "Content-Length: 4") + b"ab"), Wait(1), Send(b"cd")], End.KEEP)


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    def scripted(request: RawRequest) -> Script:
        return slow(request) if request.target == "/slow" else ok(request)

    async with (
        RawServer(scripted) as upstream,
        running_program(tmp_path, routed(upstream.url, top="drain: {delay: 500ms}")) as program,
    ):
        assert (await program.status_of("/status/ready"))[0] == 200
        busy, idle, late = [await program.connect() for _ in range(3)]
        assert (await idle.request(get("/"))).status == 200
        busy.send(get("/slow"))
        await busy.head()
        program.signal(number)
        await program.event("draining")
        assert (await program.status_of("/status/ready"))[0] == 503
        # Until the delay is over it serves whoever has not heard of it yet.
        assert (await late.request(get("/"))).status == 200
        assert await busy.reader.readexactly(4) == b"abcd"
        assert await idle.ended() == "closed"
        assert await busy.ended() == "closed"
        assert await program.ended() == 0
        with pytest.raises(ConnectionRefusedError):
            await program.connect()


async def test_answers_of_a_draining_gateway_say_close(tmp_path: Path) -> None:
    def scripted(request: RawRequest) -> Script:
        return Script([Wait(0.5), *ok(request).steps], End.KEEP)

    async with proxied(scripted) as (_, gateway), await gateway.connect() as client:
        client.send(get("/"))
        await eventually(lambda: gateway.plane.counts()["upstream", "active"])
        draining = asyncio.create_task(gateway.plane.drain(5))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await client.ended() == "closed"
        assert await draining


async def test_an_idle_connection_has_a_moment_for_its_next_request() -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as used, await gateway.connect() as fresh:
        assert (await used.request(get("/"))).status == 200
        await eventually(lambda: len(gateway.plane.downstreams) == 2)
        draining = asyncio.create_task(gateway.plane.drain(PATIENCE, idle=PATIENCE))
        await eventually(lambda: gateway.plane.draining)
        for client in (used, fresh):
            response = await client.request(get("/"))
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert await client.ended() == "closed"
        assert await draining


async def test_a_drain_closes_what_stays_idle() -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as used, await gateway.connect() as fresh:
        assert (await used.request(get("/"))).status == 200
        await eventually(lambda: len(gateway.plane.downstreams) == 2)
        draining = asyncio.create_task(gateway.plane.drain(PATIENCE, idle=0.1))
        assert await used.ended() == await fresh.ended() == "closed"
        used.writer.close()
        fresh.writer.close()
        assert await draining


async def test_a_head_that_begins_while_draining_gets_its_time() -> None:
    async with proxied(ok) as (_, gateway), await gateway.connect() as client:
        await eventually(lambda: gateway.plane.downstreams)
        (downstream,) = gateway.plane.downstreams
        draining = asyncio.create_task(gateway.plane.drain(PATIENCE, idle=5))
        await eventually(lambda: gateway.plane.draining and downstream.deadline)
        before = downstream.deadline
        data = get("/")
        client.send(data[:10])
        await eventually(lambda: downstream.deadline > before)  # that of a head
        client.send(data[10:])
        assert (await client.response()).status == 200
        assert await draining


@pytest.mark.parametrize("draining", [False, True])
async def test_a_request_that_crosses_the_end_of_an_idle_connection_is_answered(draining: bool) -> None:
    """The kernel has it, and the loop has not told of it yet, when its time is over."""
    async with proxied(ok) as (_, gateway):
        with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) as sock:
            sock.setblocking(False)
            client = Client(*await asyncio.open_connection(sock=sock))
            assert (await client.request(get("/"))).status == 200
            (downstream,) = gateway.plane.downstreams
            gateway.plane.draining = draining
            sock.send(get("/again"))
            downstream.expired()
            response = await client.response()
            assert (response.status, response.headers.get("connection")) == (200, "close" if draining else None)


async def test_what_arrives_and_is_no_request_keeps_no_idle_connection() -> None:
    async with proxied(ok) as (_, gateway):
        with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) as sock:
            sock.setblocking(False)
            client = Client(*await asyncio.open_connection(sock=sock))
            assert (await client.request(get("/"))).status == 200
            (downstream,) = gateway.plane.downstreams
            sock.send(b"x")
            downstream.expired()
            downstream.expired()  # nothing has been told of meanwhile
            assert await client.ended() == "closed"


async def test_a_drain_ends_after_its_time() -> None:
    async with proxied(slow) as (_, gateway), await gateway.connect() as client:
        client.send(get("/"))
        await client.head()
        assert not await gateway.plane.drain(0.2)
        await eventually(lambda: not gateway.plane.downstreams)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.reader.readexactly(4)


async def test_a_second_signal_cuts_the_drain(tmp_path: Path) -> None:
    async with (
        RawServer(lambda request: Script([], End.HANG)) as upstream,
        running_program(tmp_path, routed(upstream.url)) as program,
    ):
        client = await program.connect()
        client.send(get("/"))
        await eventually(lambda: upstream.requests)
        program.signal(signal.SIGTERM)
        await program.event("draining")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0


async def test_a_second_signal_cuts_the_delay(tmp_path: Path) -> None:
    async with running_program(tmp_path, routed("http://127.0.0.1:9", top="drain: {delay: 1h}")) as program:
        program.signal(signal.SIGTERM)
        await program.event("draining")
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_start_that_takes_long_can_be_ended(tmp_path: Path, number: signal.Signals) -> None:
    """Somebody else migrates the store, so the gateway waits for its folder."""
    (tmp_path / "data").mkdir()
    folder = os.open(tmp_path / "data", os.O_RDONLY | os.O_DIRECTORY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        status = free.getsockname()[1]
    config = tmp_path / "config.yaml"
    text = settled(tmp_path, routed("http://127.0.0.1:9"))
    config.write_text(text.replace('status: "127.0.0.1:0"', f'status: "127.0.0.1:{status}"'), "utf-8")
    fcntl.flock(folder, fcntl.LOCK_EX)
    process = await launch(config)
    try:
        answer = await _starting(status)
        assert (answer[0], json.loads(answer[1])) == (503, {"ready": False, "reason": "starting"})
        # It has read the file and reads it again once it is up: nothing to do, and nothing to die of.
        process.send_signal(signal.SIGHUP)
        assert (await _starting(status))[0] == 503
        process.send_signal(number)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert b"Traceback" not in await process.stdout.read()
            assert await process.wait() == 0
    finally:
        os.close(folder)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _starting(port: int) -> tuple[int, str]:
    """What the status listener of a gateway that starts says of being ready."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/status/ready")
            except OSError:
                await asyncio.sleep(0.02)


# ── reloading ────────────────────────────────────────────────────────────────────────────────────


async def test_reloads_under_load_fail_no_request(tmp_path: Path) -> None:
    async with RawServer(ok) as first, RawServer(ok) as second:
        texts = [routed(upstream.url, policies="{correlation-id: {}}") for upstream in (first, second)]
        async with running_program(tmp_path, texts[0]) as program:
            stopping = asyncio.Event()
            clients = [asyncio.create_task(_ask(program, stopping, fresh=number % 2 == 0)) for number in range(6)]
            for number in range(1, 101):
                program.config.write_text(settled(tmp_path, texts[number % 2] + f"# {number}\n"), "utf-8")
                program.signal(signal.SIGHUP)
                await program.event("config_loaded", number)
            stopping.set()
            asked = await asyncio.gather(*clients)
            assert min(asked) > 0
            total = await program.metric("postern_http_requests_total", route="all", method="GET", code="200")
            assert total == sum(asked) == len(first.requests) + len(second.requests)
        assert first.requests
        assert second.requests


async def _ask(program: Program, stopping: asyncio.Event, *, fresh: bool) -> int:
    """Ask until told to stop, on one connection or on a fresh one each time; returns how often."""
    asked = 0
    client = await program.connect()
    while not stopping.is_set():
        if fresh:
            client.writer.close()
            client = await program.connect()
        response = await client.request(get(f"/{asked}"))
        assert (response.status, response.body) == (200, b"ok")
        asked += 1
        await asyncio.sleep(0)
    client.writer.close()
    return asked


async def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    metric = "postern_config_last_reload_success"
    async with RawServer(ok) as upstream, running_program(tmp_path, routed(upstream.url)) as program:
        good = program.config.read_text("utf-8")
        assert await program.metric(metric) == 1
        program.config.write_text(good.replace("paths: [/]", "pathz: [/]"), "utf-8")
        refused = await program.event("config_refused")
        assert "did you mean" in str(refused["problems"])
        assert await program.metric(metric) == 0
        client = await program.connect()
        assert (await client.request(get("/"))).status == 200
        program.config.write_text(good + "# mended\n", "utf-8")
        await program.event("config_loaded")
        assert await program.metric(metric) == 1
        assert (await client.request(get("/"))).status == 200


async def test_a_request_in_flight_ends_on_the_old_configuration() -> None:
    async with RawServer(ok) as other, proxied(slow) as (upstream, gateway), await gateway.connect() as client:
        client.send(get("/"))
        await client.head()
        gateway.swap(routed(other.url))
        assert await client.reader.readexactly(4) == b"abcd"
        assert (await client.request(get("/new"))).status == 200
        assert [seen.target for seen in other.requests] == ["/new"]
        # Nobody names the old origin any more.
        await eventually(lambda: not upstream.open)


async def test_a_connection_being_opened_outlives_a_swap() -> None:
    async with RawServer(ok) as other, proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        client.send(get("/old"))
        await eventually(lambda: any(pool.opening or pool.connections for pool in gateway.plane.targets.pools.values()))
        gateway.swap(routed(other.url))
        assert (await client.response()).status == 200
        assert [seen.target for seen in upstream.requests] == ["/old"]


async def test_counts_outlive_a_reload() -> None:
    def limited(number: int) -> str:
        return f"{{rate-limiting: {{limits: [{number}/hour], by: ip}}}}"

    async with proxied(ok, policies=limited(4)) as (upstream, gateway), await gateway.connect() as client:
        for left in (3, 2):
            assert (await client.request(get("/"))).headers["ratelimit-remaining"] == str(left)
        gateway.swap(routed(upstream.url, policies=limited(3)))
        assert (await client.request(get("/"))).headers["ratelimit-remaining"] == "0"
        assert (await client.request(get("/"))).status == 429
        gateway.swap(routed(upstream.url, policies=limited(10)))
        assert (await client.request(get("/"))).status == 200


async def test_upstream_connections_outlive_a_reload() -> None:
    async with proxied(ok) as (upstream, gateway), await gateway.connect() as client:
        for _ in range(3):
            assert (await client.request(request("GET", "/"))).status == 200
            gateway.swap(routed(upstream.url))
        assert upstream.connections == 1
