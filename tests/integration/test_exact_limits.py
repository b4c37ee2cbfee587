"""One exact limit for a node: several processes ask one hub at once, some are killed, and not one request too many or
too few is admitted; and so it is with the whole gateway and its workers."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path

import pytest

from gateway.core.ports import Demand
from gateway.core.units import Rate
from gateway.counters.hub import HubCounters
from gateway.counters.hub_server import HubServer
from gateway.counters.memory import MemoryCounters
from tests.integration.gateways import get, routed
from tests.integration.hub_asker import demand
from tests.integration.programs import PATIENCE, ROOT, running_program

WORKERS = 4
TAKES = 2_500


async def asker(server: HubServer, takes: int, limit: int) -> Process:
    """A process with a connection of its own to the hub."""
    ours, its = socket.socketpair()
    with its:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.hub_asker", str(its.fileno()), str(takes), str(limit),
            cwd=ROOT, stdin=PIPE, stdout=PIPE, pass_fds=(its.fileno(),),
        )  # fmt: skip
    await server.serve(ours)
    return process


def begin(*processes: Process) -> None:
    """Let them ask."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")


async def told(process: Process) -> Counter[str]:
    """What a process was told until it ended."""
    assert process.stdout is not None
    answers = Counter((await asyncio.wait_for(process.stdout.read(), 4 * PATIENCE)).decode())
    await process.wait()
    return answers


async def held(server: HubServer) -> int:
    """How many requests the hub had admitted before this one: what is missing of a limit that is far away."""
    ours, its = socket.socketpair()
    await server.serve(its)
    counters = HubCounters()
    await counters.connect(ours)
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    far = 10**9
    counters.take((Demand(demand(1)[0].key, (Rate(far, 3600, "hour"),)),), 0).then(
        lambda verdict: future.set_result(far - 1 - verdict.states[0][0]), future.set_exception
    )
    try:
        return await asyncio.wait_for(future, PATIENCE)
    finally:
        counters.close()


@pytest.mark.parametrize("limit", [1, 1234, WORKERS * TAKES])
async def test_so_many_are_admitted_whoever_asks(limit: int) -> None:
    server = HubServer(MemoryCounters())
    processes = [await asker(server, TAKES, limit) for _ in range(WORKERS)]
    begin(*processes)
    answers = sum([await told(process) for process in processes], Counter[str]())
    assert answers == Counter(a=limit, r=WORKERS * TAKES - limit)
    assert await held(server) == limit
    server.close()


async def test_killed_processes_take_nothing_away_and_add_nothing() -> None:
    """Each is killed in the middle of its answers, eight times over; the last ones live and find it exhausted."""
    limit, luck = WORKERS * TAKES, random.Random(1)
    server = HubServer(MemoryCounters())
    answers: Counter[str] = Counter()

    async def killed() -> None:
        process = await asker(server, 10**6, limit)
        begin(process)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            seen = (await process.stdout.readexactly(luck.randrange(1, 700))).decode()
        process.kill()
        answers.update(seen)
        answers.update(await told(process))

    await asyncio.gather(*(killed() for _ in range(2 * WORKERS)))
    processes = [await asker(server, TAKES, limit) for _ in range(WORKERS)]
    begin(*processes)
    for process in processes:
        answers.update(await told(process))
    assert await held(server) == limit
    assert answers["a"] <= limit
    assert answers["r"] > 0
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the workers' sockets are shared by Linux's SO_REUSEPORT")
async def test_the_workers_of_a_gateway_admit_as_one(tmp_path: Path) -> None:
    """Requests on many connections, all at once: exactly so many are answered 200."""
    limit, connections, each = 300, 32, 25
    rule = f"{{limits: [{limit}/hour], by: route, on_fault: deny}}"
    policies = f"{{rate-limiting: {rule}, request-termination: {{status: 200}}}}"
    text = routed("http://127.0.0.1:9", policies=policies, top=f"workers: {WORKERS}")

    async def ask(port: int) -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/") * each)
        statuses: list[int] = []
        while len(statuses) < each:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            statuses.append(int(head.split(" ", 2)[1]))
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
        writer.close()
        return statuses

    async with running_program(tmp_path, text) as program:
        asked = await asyncio.wait_for(asyncio.gather(*(ask(program.proxy) for _ in range(connections))), 4 * PATIENCE)
    counted = Counter(status for statuses in asked for status in statuses)
    # A machine that stands still for longer than the hub may be silent makes refusals, never one request too many.
    assert counted[200] <= limit
    if not counted[503]:
        assert counted == Counter({200: limit, 429: connections * each - limit})
