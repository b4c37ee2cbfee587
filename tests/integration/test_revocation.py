"""Revocation within a node, on a real gateway under load: from the answer on, no worker admits another request."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import bcrypt
import pytest

from bench.trials import Trials, holder_of, trials, workers_of
from gateway.config.loader import load
from gateway.credentials.mint import NewKey, mint_key
from gateway.credentials.parse import Prefixes
from tests.integration.gateways import Client, get
from tests.integration.programs import PATIENCE, Program, running_program
from tests.integration.test_websockets import HANDSHAKE, SWITCHED
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send

CONFIG = """
version: 1
workers: {workers}
credentials: {{bcrypt_rounds: {rounds}}}
guesses: {{failures: {failures}}}
consumers:
  - {{username: mobile_app, groups: [contentUser]}}
  - username: declared
    groups: [{group}]
    keys: [{keys}]
services:
  - name: lms
    url: {url}
    routes:
      - name: all
        paths: [/]
        policies: {{auth: {{any_of: [api-key]}}, acl: {{allow: [contentUser]}}}}
"""
EVENTS = Script([Send(head(200, "Content-Type: text/event-stream") + b"data: 1\n\n")], End.HANG)
#: How many processes serve.
WORKERS = pytest.mark.parametrize("workers", [1])


def scripted(request: RawRequest) -> Script:
    """The LMS: `/events` and a WebSocket last for ever, all else is a short answer."""
    if request.header("Upgrade"):
        return Script([Send(SWITCHED)], End.HANG)
    if request.target == "/events":
        return EVENTS
    return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


@pytest.fixture(scope="module")
def key() -> NewKey:
    """A key to be declared."""
    made = mint_key(Prefixes())
    return NewKey(made.public, made.secret, bcrypt.hashpw(made.secret, bcrypt.gensalt(4)).decode())


class Node:
    """A running gateway, trials of it, and what its file says."""

    def __init__(self, program: Program, running: Trials, settings: dict[str, object]) -> None:
        self.program = program
        self.trials = running
        self._settings = settings

    async def reload(self, key: NewKey | None, group: str) -> float:
        """Declare a key, or none, of a consumer of a group; from the moment that is returned on, that holds."""
        file, before = self.program.config, len(self.program.events)
        listen = file.read_text("utf-8").partition("\nlisten:")
        draft = file.with_suffix(".new")
        draft.write_text(written(key, group, **self._settings) + "".join(listen[1:]), "utf-8")
        draft.replace(file)
        wanted = load(file).hash
        self.program.signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE):
            # The file is watched, too: what is told may be told twice.
            while not any(
                event["event"] == "config_loaded" and event["hash"] == wanted for event in self.program.events[before:]
            ):
                await asyncio.sleep(0.005)
        return time.monotonic()

    async def workers(self) -> list[int]:
        """Their process ids."""
        return await asyncio.to_thread(workers_of, self.program.status)

    async def on_every_worker(self, stack: AsyncExitStack, data: bytes) -> list[Client]:
        """Connections on which this was said and the answer's head has been read, one on every worker at least."""
        opened: list[Client] = []
        held: set[int | None] = set()
        async with asyncio.timeout(PATIENCE):
            while not held.issuperset(workers := await self.workers()):
                client = await stack.enter_async_context(await self.program.connect())
                client.send(data)
                await client.head()
                port: int = client.writer.get_extra_info("sockname")[1]
                held.add(await asyncio.to_thread(holder_of, self.program.proxy, port, workers))
                opened.append(client)
        return opened


def written(key: NewKey | None, group: str, **settings: object) -> str:
    keys = "" if key is None else f"{{name: one, public: {key.public}, secret_hash: '{key.secret_hash}'}}"
    return CONFIG.format(keys=keys, group=group, **settings)


@asynccontextmanager
async def running_node(
    folder: Path, workers: int, key: NewKey | None = None, failures: str = "100000/second"
) -> AsyncIterator[Node]:
    """A gateway with so many workers; its file declares `key`, and `failures` limits guesses (hardly, if not said)."""
    async with RawServer(scripted) as upstream:
        settings: dict[str, object] = {"url": upstream.url, "workers": workers, "rounds": 4, "failures": failures}
        async with (
            running_program(folder, written(key, "contentUser", **settings)) as program,
            trials(program.proxy, program.status, folder / "data" / "control.sock", "mobile_app") as running,
        ):
            yield Node(program, running, settings)


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


# ── keys of the store ───────────────────────────────────────────────────────────────────────────


@WORKERS
async def test_from_the_answer_on_no_worker_admits_a_revoked_key(tmp_path: Path, workers: int) -> None:
    async with running_node(tmp_path, workers) as node:
        findings = await node.trials.run(30)
        assert findings.violations == []
        assert findings.trials == 30


@WORKERS
async def test_two_revocations_at_once(tmp_path: Path, workers: int) -> None:
    async with running_node(tmp_path, workers) as node:
        running = node.trials
        for _ in range(5):
            keys = [await running.make() for _ in range(2)]
            await running.use(*(token for _, token in keys))
            await asyncio.gather(*(running.revoke(*key) for key in keys))
            await running.refused()
        assert running.findings.violations == []


@WORKERS
async def test_revocations_while_the_file_is_reloaded(tmp_path: Path, workers: int, key: NewKey) -> None:
    async with running_node(tmp_path, workers, key) as node:
        running = node.trials
        for number in range(5):
            key_id, token = await running.make()
            await running.use(token)
            reload = asyncio.create_task(node.reload(key, f"group{number}"))
            await asyncio.sleep(number / 100)
            await running.revoke(key_id, token)
            await running.refused()
            await reload
        assert running.findings.violations == []


@WORKERS
@pytest.mark.parametrize("lasting", ["stream", "websocket"])
async def test_what_lasts_ends_on_every_worker(tmp_path: Path, workers: int, lasting: str) -> None:
    async with running_node(tmp_path, workers) as node, AsyncExitStack() as stack:
        key_id, token = await node.trials.make()
        wanted = get("/events", bearer(token)) if lasting == "stream" else get("/", bearer(token), *HANDSHAKE)
        clients = await node.on_every_worker(stack, wanted)
        await node.trials.revoke(key_id, token)
        for client in clients:
            async with asyncio.timeout(PATIENCE):
                try:
                    rest = await client.reader.read()
                except ConnectionResetError:
                    rest = b""
            assert lasting == "stream" or rest[:4] == b"\x88\x16\x03\xf0", "1008"


# ── what the file declares ──────────────────────────────────────────────────────────────────────


@WORKERS
@pytest.mark.parametrize(("change", "status"), [("regrouped", 403), ("removed", 401)])
async def test_what_a_file_takes_away_is_gone_when_the_reload_is_told(
    tmp_path: Path, workers: int, key: NewKey, change: str, status: int
) -> None:
    async with running_node(tmp_path, workers, key) as node:
        running = node.trials
        for _ in range(5):
            await running.use(key.key)
            ended = await (node.reload(key, "other") if change == "regrouped" else node.reload(None, "contentUser"))
            running.over(key.key, ended)
            await running.refused(status)
            running.allowed(key.key)
            await node.reload(key, "contentUser")
        assert running.findings.violations == []


# ── guesses ─────────────────────────────────────────────────────────────────────────────────────


@WORKERS
async def test_wrong_keys_are_counted_over_all_workers(tmp_path: Path, workers: int, key: NewKey) -> None:
    async with running_node(tmp_path, workers, key, "20/hour") as node, AsyncExitStack() as stack:
        known = get("/", bearer(key.key))
        clients = await node.on_every_worker(stack, known)
        for client in clients:
            await client.reader.readexactly(2)
        wrong = iter(range(10_000))

        async def guess(client: Client) -> list[int]:
            return [
                (await client.request(get("/", bearer(f"{key.public}.pnsec_wrong{next(wrong)}")))).status
                for _ in range(60)
            ]

        statuses = [status for several in await asyncio.gather(*map(guess, clients)) for status in several]
        assert statuses.count(401) == 20
        assert statuses.count(429) == len(clients) * 60 - 20
        for client in clients:
            assert (await client.request(known)).status == 200, "remembered as good"
