"""Revocation within a node, on a real gateway under load: from the answer on, no worker admits another request."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import bcrypt
import pytest

from bench.trials import Trials, holder_of, trials
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
max_staleness: {staleness}
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
WORKERS = 3
#: Seconds between two requests on one connection: a small machine is to serve besides what is tried.
PAUSE = 0.002


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
        #: How many connections `on_every_worker` has opened so far.
        self.opened = 0
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

    async def on_every_worker(self, stack: AsyncExitStack, data: bytes) -> dict[int, Client]:
        """A connection on each worker, by process, on which this was said and answered (a lasting answer: begun)."""
        held: dict[int, Client] = {}
        async with asyncio.timeout(PATIENCE):
            while not held.keys() >= set(workers := await self.trials.workers()):
                client = await stack.enter_async_context(await self.program.connect())
                self.opened += 1
                client.send(data)
                answer = await client.head()
                if "content-length" in answer.headers:
                    await client.body_of(answer)
                port: int = client.writer.get_extra_info("sockname")[1]
                holder = await asyncio.to_thread(holder_of, self.program.proxy, port, workers)
                if holder is not None:
                    held[holder] = client
        return held

    async def counted(self, name: str, number: int) -> None:
        """Wait until a metric says so: a worker that is slow to report is in the next scrape."""
        async with asyncio.timeout(PATIENCE):
            while await self.program.metric(name) < number:
                await asyncio.sleep(0.05)
        assert await self.program.metric(name) == number

    async def replaced(self, *gone: int) -> None:
        """Wait until as many workers as there should be serve, and none of these is among them."""
        async with asyncio.timeout(PATIENCE):
            while set(gone) & set(await self.trials.workers()):
                await asyncio.sleep(0.05)


def written(key: NewKey | None, group: str, **settings: object) -> str:
    keys = "" if key is None else f"{{name: one, public: {key.public}, secret_hash: '{key.secret_hash}'}}"
    return CONFIG.format(keys=keys, group=group, **settings)


@asynccontextmanager
async def running_node(
    folder: Path, workers: int, key: NewKey | None = None, **settings: object
) -> AsyncIterator[Node]:
    """A gateway with so many workers; its file declares `key`, and guesses are hardly limited, if nothing is said."""
    control = folder / "data" / "control.sock"
    async with RawServer(scripted) as upstream:
        settings = {
            "url": upstream.url, "workers": workers, "rounds": 4, "failures": "100000/second", "staleness": "5m"
        } | settings  # fmt: skip
        async with (
            running_program(folder, written(key, "contentUser", **settings)) as program,
            trials(program.proxy, program.status, control, "mobile_app", workers, PAUSE) as running,
        ):
            yield Node(program, running, settings)


def lives(process: int) -> bool:
    """Is it there, and more than a dead one whose parent has not noticed?"""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "XZ"
    except OSError:
        return False


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


# ── keys of the store ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workers", [1, WORKERS])
async def test_from_the_answer_on_no_worker_admits_a_revoked_key(tmp_path: Path, workers: int) -> None:
    async with running_node(tmp_path, workers) as node:
        running = node.trials
        findings = await running.run(30)
        for _ in range(5):
            two = [await running.make() for _ in range(2)]
            await running.use(*(token for _, token in two))
            await asyncio.gather(*(running.revoke(*each) for each in two))
            await running.refused()
        assert findings.violations == []
        assert (findings.trials, len(findings.seconds)) == (30, 40)


async def test_revocations_while_the_file_is_reloaded(tmp_path: Path, key: NewKey) -> None:
    async with running_node(tmp_path, WORKERS, key) as node:
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


async def test_what_lasts_ends_on_every_worker(tmp_path: Path) -> None:
    async with running_node(tmp_path, WORKERS) as node, AsyncExitStack() as stack:
        key_id, token = await node.trials.make()
        streams = await node.on_every_worker(stack, get("/events", bearer(token)))
        sockets = await node.on_every_worker(stack, get("/", bearer(token), *HANDSHAKE))
        await node.trials.revoke(key_id, token)
        for worker, client in (*streams.items(), *sockets.items()):
            async with asyncio.timeout(PATIENCE):
                try:
                    rest = await client.reader.read()
                except ConnectionResetError:
                    rest = b""
            if client in sockets.values() and lives(worker):
                assert rest[:4] == b"\x88\x16\x03\xf0", "1008"


# ── workers that die, sleep, come and go ────────────────────────────────────────────────────────


async def test_a_worker_that_does_not_listen_is_waited_for_and_then_ended(tmp_path: Path) -> None:
    async with running_node(tmp_path, WORKERS) as node:
        running = node.trials
        for number in range(4):
            key_id, token = await running.make()
            await running.use(token)
            asleep = (await running.workers())[number % WORKERS]
            os.kill(asleep, signal.SIGSTOP)
            revoking = asyncio.create_task(running.revoke(key_id, token))
            await asyncio.wait({revoking}, timeout=0.2)
            # On a machine that stalls it may have been ended by now.
            assert not (revoking.done() and lives(asleep)), "answered while one worker has not forgotten"
            if number % 2:
                with suppress(ProcessLookupError):
                    os.kill(asleep, signal.SIGCONT)
            await revoking
            assert number % 2 or not lives(asleep), "what it remembers ends with it"
            await running.refused()
            await node.replaced(*([] if number % 2 else [asleep]))
        assert running.findings.violations == []


async def test_a_revocation_while_workers_come_and_go(tmp_path: Path) -> None:
    async with running_node(tmp_path, WORKERS) as node:
        running = node.trials
        for number, how in enumerate(["killed", "restarted"] * 2):
            key_id, token = await running.make()
            await running.use(token)
            before = await node.trials.workers()
            leaving = before if how == "restarted" else [before[number % WORKERS]]
            if how == "restarted":
                node.program.signal(signal.SIGUSR2)
            else:
                os.kill(leaving[0], signal.SIGKILL)
            await asyncio.sleep(number * 0.1)
            await running.revoke(key_id, token)
            await running.refused()
            await node.replaced(*leaving)
            # Those that came meanwhile have been told nothing of the key, and ask.
            await running.spread(token)
            await running.refused()
        assert running.findings.violations == []


async def test_a_worker_that_dies_while_its_questions_are_open(tmp_path: Path) -> None:
    async with running_node(tmp_path, WORKERS, rounds=11) as node, AsyncExitStack() as stack:
        for _ in range(2):
            _, token = await node.trials.make()
            clients = await node.on_every_worker(stack, get("/"))
            dying, *others = clients
            clients[dying].send(get("/", bearer(token)))
            await asyncio.sleep(0.05)
            os.kill(dying, signal.SIGKILL)
            for other in others:
                clients[other].send(get("/", bearer(token)))
            for other in others:
                assert (await clients[other].response()).status == 200
            await node.replaced(dying)
        async with asyncio.timeout(PATIENCE):
            while await node.program.metric("postern_bcrypt_queue"):
                await asyncio.sleep(0.05)


async def test_nothing_is_believed_for_long_while_the_control_process_sleeps(tmp_path: Path) -> None:
    async with running_node(tmp_path, WORKERS, staleness="1s") as node, AsyncExitStack() as stack:
        _, token = await node.trials.make()
        known = get("/", bearer(token))
        clients = (await node.on_every_worker(stack, known)).values()
        for number, status in ((signal.SIGSTOP, 500), (signal.SIGCONT, 200)):
            node.program.signal(number)
            for client in clients:
                async with asyncio.timeout(PATIENCE):
                    while (await client.request(known)).status != status:
                        await asyncio.sleep(0.05)


# ── what the file declares ──────────────────────────────────────────────────────────────────────


async def test_what_a_file_takes_away_is_gone_when_the_reload_is_told(tmp_path: Path, key: NewKey) -> None:
    async with running_node(tmp_path, WORKERS, key) as node:
        running = node.trials
        for declared, group, status in [(key, "other", 403), (None, "contentUser", 401)] * 3:
            await running.use(key.key)
            running.over(key.key, await node.reload(declared, group))
            await running.refused(status)
            running.allowed(key.key)
            await node.reload(key, "contentUser")
        assert running.findings.violations == []


# ── guesses ─────────────────────────────────────────────────────────────────────────────────────


async def test_look_ups_and_wrong_keys_are_counted_over_all_workers(tmp_path: Path, key: NewKey) -> None:
    async with running_node(tmp_path, WORKERS, key, failures="20/hour") as node, AsyncExitStack() as stack:
        known = get("/", bearer(key.key))
        clients = list((await node.on_every_worker(stack, known)).values())
        await node.counted("postern_credential_cache_total", node.opened)
        assert await node.program.metric("postern_credential_cache_total", result="miss") == 1
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
