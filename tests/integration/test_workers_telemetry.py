"""Three workers seen from outside: a scrape that counts each request once, a status page, a log of whole lines."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.programs import PATIENCE, Program, running_program

WORKERS = 3
CONFIG = f"""
version: 1
workers: {WORKERS}
services:
  - name: lms
    url: http://127.0.0.1:9
    routes: [{{name: ping, paths: [/ping], policies: {{auth: none, request-termination: {{status: 200}}}}}}]
"""
REQUESTS = "postern_http_requests_total"
REQUEST = b"GET /ping HTTP/1.1\r\nHost: lms.example\r\nUser-Agent: " + b"x" * 2000 + b"\r\n\r\n"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@asynccontextmanager
async def node(folder: Path, access_log: str = "off") -> AsyncIterator[Program]:
    async with running_program(folder, CONFIG, access_log) as program:
        yield program


async def samples(program: Program) -> Samples:
    """Everything that one scrape tells."""
    status, text = await program.status_of("/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: Samples, name: str) -> float:
    return sum(value for (family, _), value in found.items() if family == name)


def is_counter(name: str) -> bool:
    return name.endswith(("_total", "_bucket", "_count", "_sum"))


async def status(program: Program) -> dict[str, Any]:
    _, text = await program.status_of("/status")
    found: dict[str, Any] = json.loads(text)
    return found


async def pids(program: Program) -> list[int]:
    return [worker["pid"] for worker in (await status(program))["workers"]]


async def serves_without(program: Program, *gone: int) -> list[int]:
    """The workers, once there are as many as there should be and none of those that are gone."""
    async with asyncio.timeout(PATIENCE):
        while len(found := await pids(program)) < WORKERS or set(found) & set(gone):
            await asyncio.sleep(0.02)
    return found


async def ask(program: Program, requests: int) -> None:
    """So many requests on a connection of their own, each answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", program.proxy)
    try:
        for _ in range(requests):
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"content-length: 0" in head.lower()
    finally:
        writer.close()


async def spread(program: Program, connections: int = 40, requests: int = 5) -> int:
    """Requests over all workers; returns how many."""
    await asyncio.gather(*(ask(program, requests) for _ in range(connections)))
    return connections * requests


async def test_one_scrape_counts_every_request_once(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        sent = await spread(program)
        found = await samples(program)
        assert total(found, REQUESTS) == sent
        assert total(found, "postern_request_duration_seconds_count") == sent
        assert total(found, "postern_workers") == WORKERS
        assert total(found, "postern_config_last_reload_success") == 1
        assert len([name for name, _ in found if name == "postern_config_hash_info"]) == 1
        page = await status(program)
        workers = page["workers"]
        assert len({worker["pid"] for worker in workers}) == WORKERS
        assert [worker["slot"] for worker in workers] == list(range(WORKERS))
        assert {worker["config_hash"] for worker in workers} == {page["config_hash"]}
        assert {worker["restarts"] for worker in workers} == {0}

        # One dies: what it counted stays, and what is asked from now on is counted exactly.
        victim = workers[1]["pid"]
        os.kill(victim, signal.SIGKILL)
        await serves_without(program, victim)
        after = await samples(program)
        assert {key: after[key] for key in found if is_counter(key[0]) and after[key] < found[key]} == {}
        assert total(after, REQUESTS) == sent
        sent += await spread(program)
        assert total(await samples(program), REQUESTS) == sent
        page = await status(program)
        assert [worker["restarts"] for worker in page["workers"]] == [0, 1, 0]
        assert await program.metric("postern_worker_restarts_total", reason="crashed") == 1
        assert await program.metric("postern_worker_restarts_total", reason="silent") == 0


async def test_connections_and_processes_are_summed(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        held = [await program.connect() for _ in range(30)]
        async with asyncio.timeout(PATIENCE):
            while await program.metric("postern_connections", side="downstream") < len(held):
                await asyncio.sleep(0.02)
        workers = (await status(program))["workers"]
        assert sum(worker["connections"] for worker in workers) == len(held)
        found = await samples(program)
        alone = program.memory()
        assert total(found, "process_resident_memory_bytes") > 2 * alone
        assert total(found, "process_open_fds") > len(held)
        assert total(found, "process_cpu_seconds_total") > 0
        for client in held:
            client.writer.close()


async def test_no_counter_falls_while_workers_are_killed(tmp_path: Path) -> None:
    kills = 8
    async with node(tmp_path) as program:
        going = True

        async def load() -> None:
            while going:
                with suppress(ConnectionError, asyncio.IncompleteReadError):  # its worker was killed
                    await ask(program, 20)

        async def watch() -> int:
            before: Samples = {}
            scrapes = 0
            while going:
                now = await samples(program)
                assert {key: (before[key], now.get(key, 0)) for key in before if now.get(key, 0) < before[key]} == {}
                before = {key: value for key, value in now.items() if is_counter(key[0])}
                code, text = await program.status_of("/status/ready")
                assert code == 200, text
                scrapes += 1
            return scrapes

        clients = [asyncio.create_task(load()) for _ in range(8)]
        watching = asyncio.create_task(watch())
        choice = random.Random(4)
        victims: list[int] = []
        for _ in range(kills):
            victim = choice.choice(await serves_without(program, *victims))
            os.kill(victim, signal.SIGKILL)
            victims.append(victim)
        await serves_without(program, *victims)
        going = False
        await asyncio.gather(*clients)
        assert await watching > kills
        assert await program.metric("postern_worker_restarts_total", reason="crashed") == kills


async def test_a_graceful_restart_takes_no_count_along(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        sent = await spread(program)
        before = await pids(program)
        program.signal(signal.SIGUSR2)
        await program.event("restarted")
        await serves_without(program, *before)
        async with asyncio.timeout(PATIENCE):
            while await program.metric("postern_worker_restarts_total", reason="restarted") < WORKERS:
                await asyncio.sleep(0.02)
        sent += await spread(program)
        assert total(await samples(program), REQUESTS) == sent
        assert await program.metric("postern_worker_restarts_total") == WORKERS


async def test_a_worker_that_sleeps_is_shown_as_it_last_reported(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        sent = await spread(program)
        assert total(await samples(program), REQUESTS) == sent
        sleeper = (await pids(program))[0]
        os.kill(sleeper, signal.SIGSTOP)
        try:
            assert total(await samples(program), REQUESTS) == sent
            assert len(await pids(program)) == WORKERS
        finally:
            os.kill(sleeper, signal.SIGCONT)


@pytest.mark.parametrize("to", ["the stream of the events", "a file"])
async def test_lines_of_all_workers_are_whole(to: str, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    async with node(tmp_path, str(file) if to == "a file" else "-") as program:
        sent = await spread(program, connections=60, requests=20)
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if to == "a file" else program.events
    served = [line for line in lines if "request_id" in line]
    assert len(served) == sent
    assert {line["path"] for line in served} == {"/ping"}
    assert len({line["request_id"] for line in served}) == sent
    assert [event for event in program.events if event.get("event") == "text"] == [], "not a line of its own"


async def test_an_event_of_a_worker_names_it(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        program.signal(signal.SIGKILL)
        await program.event("control_process_lost", WORKERS)
        told = [event for event in program.events if event["event"] == "control_process_lost"]
        assert {event["worker"] for event in told} == set(range(WORKERS))
