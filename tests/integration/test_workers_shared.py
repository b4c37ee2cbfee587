"""What several workers have together: the parts of a limit, and what one of them drops from its stored responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.integration.gateways import Client, get, request, routed
from tests.integration.programs import PATIENCE, Program, running_program
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send

WORKERS = 2
#: Of so many connections none falls to one of two workers once in 2 ** 31 runs.
MANY = 32


@asynccontextmanager
async def clients_of_all(program: Program) -> AsyncIterator[list[Client]]:
    """So many kept connections that each worker has some."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await program.connect()) for _ in range(MANY)]


async def test_what_one_worker_drops_the_others_drop(tmp_path: Path) -> None:
    version = 1

    def versioned(asked: RawRequest) -> Script:
        nonlocal version
        if asked.method == "PUT":
            version += 1
            return Script([Send(head(204))], End.KEEP)
        body = str(version).encode()
        return Script([Send(head(200, f"Content-Length: {len(body)}", "Cache-Control: max-age=3600") + body)], End.KEEP)

    async with RawServer(versioned) as upstream:
        text = routed(upstream.url, policies="{proxy-cache: {vary_by: [none]}}", top=f"workers: {WORKERS}")
        async with running_program(tmp_path, text) as program, clients_of_all(program) as clients:
            for client in clients:
                assert (await client.request(get("/course"))).body == b"1"
            # Each worker has asked once, and has it.
            assert len(upstream.requests) == WORKERS
            assert (await clients[0].request(request("PUT", "/course"), "PUT")).status == 204

            async def seen() -> set[bytes]:
                return {(await client.request(get("/course"))).body for client in clients}

            async with asyncio.timeout(PATIENCE):
                while await seen() != {b"2"}:
                    await asyncio.sleep(0.01)
            assert len(upstream.requests) == 2 * WORKERS + 1


async def test_an_upstream_never_has_more_connections_than_the_file_says(tmp_path: Path) -> None:
    seen: list[int] = []

    def counting(_: RawRequest) -> Script:
        seen.append(len(upstream.open))
        return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)

    async with RawServer(counting) as upstream:
        top = f"workers: {WORKERS}\noverload: {{max_wait: 1m}}"
        text = routed(upstream.url, service="max_connections: 3", top=top)
        async with running_program(tmp_path, text) as program, clients_of_all(program) as clients:

            async def ask(client: Client) -> None:
                for _ in range(10):
                    assert (await client.request(get("/"))).status == 200

            await asyncio.gather(*(ask(client) for client in clients))
    assert len(seen) == 10 * MANY
    assert 2 <= max(seen) <= 3
