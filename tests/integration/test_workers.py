"""`workers: N` as programs: every slot serves, whoever dies is replaced, and the whole group ends as one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from bench.accounted import Clients, Ledger, Load
from bench.sockets import clients_of, state
from tests.integration.gateways import get
from tests.integration.programs import PATIENCE, Program, launch, running_program, settled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT spreads connections on Linux alone")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def text(upstream: str, workers: int = 2, body: str = "one", more: str = "") -> str:
    """`/` is the upstream's, `/here` is answered by the gateway itself."""
    return f"""
version: 1
workers: {workers}
drain: {{idle_timeout: 0.2s}}
{more}
services:
  - name: lms
    url: {upstream}
    policies: {{auth: none}}
    routes:
      - {{name: all, paths: [/]}}
      - {{name: here, paths: [/here], policies: {{request-termination: {{status: 200, body: {body}}}}}}}
"""


class Upstream:
    """Answers "ok" when it may; `asked` once somebody has asked."""

    def __init__(self, *, patient: bool = False) -> None:
        """A `patient` one waits for `go` with each answer."""
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        if not patient:
            self.go.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The gateway may be killed at any moment.
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.asked.set()
                await self.go.wait()
                writer.write(OK)
        writer.close()


@asynccontextmanager
async def node(
    folder: Path, workers: int = 2, upstream: Upstream | None = None, more: str = ""
) -> AsyncIterator[Program]:
    async with (
        upstream or Upstream() as serving,
        running_program(folder, text(serving.url, workers, more=more), leader=True) as program,
    ):
        program.config.with_name("upstream").write_text(serving.url)
        yield program


def rewrite(program: Program, content: str) -> None:
    """Other contents of the file, on the ports and the store that it has."""
    url = program.config.with_name("upstream").read_text()
    replace(program.config, settled(program.config.parent, content.replace("UPSTREAM", url)))


def replace(file: Path, content: str) -> None:
    """Other contents, all at once."""
    draft = file.with_suffix(".new")
    draft.write_text(content, "utf-8")
    draft.replace(file)


async def pids(program: Program) -> list[int]:
    """The workers that serve, by slot."""
    return [worker["pid"] for worker in sorted(await program.workers(), key=lambda worker: worker["slot"])]


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What an answer is once it is true."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await condition()):
            await asyncio.sleep(0.05)
    return found


async def replaced(program: Program, *gone: int, workers: int = 2) -> list[int]:
    """The workers, once there are so many and these are not among them."""

    async def others() -> list[int]:
        found = await pids(program)
        return found if len(found) == workers and not set(found) & set(gone) else []

    found: list[int] = await until(others)
    return found


def family(pid: int) -> set[int]:
    """All processes that descend from one, and live."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | family(child)
    return found


def lives(pid: int) -> bool:
    return state(pid) not in ("", "Z", "X")


async def all_end(processes: set[int]) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(map(lives, processes)):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def loaded(program: Program, *, kept: int = 4, fresh: int = 2) -> AsyncIterator[Ledger]:
    """Requests all the while, each accounted for."""
    load = Load(lambda: program.proxy, [get("/"), get("/here")], Clients(kept, fresh, 0))
    running = asyncio.create_task(load.run())
    try:
        await until(lambda: _resolved(load.ledger.answered > 50))
        yield load.ledger
        before = load.ledger.answered
        await until(lambda: _resolved(load.ledger.answered > before + 50))
    finally:
        load.stop()
        await running


async def _resolved(value: bool) -> bool:
    return value


# ── serving ─────────────────────────────────────────────────────────────────────────────────────


async def test_every_slot_serves_and_the_node_is_one(tmp_path: Path) -> None:
    async with node(tmp_path, workers=3) as program:
        clients = [await program.connect() for _ in range(60)]
        for client in clients:
            assert (await client.request(get("/here"))).body == b"one"
        workers = await program.workers()
        assert [worker["slot"] for worker in workers] == [0, 1, 2]
        assert len({worker["config_hash"] for worker in workers}) == 1
        shares = [len(clients_of(worker["pid"], program.proxy)) for worker in workers]
        assert sum(shares) == 60
        assert min(shares) > 0
        assert await program.metric("postern_http_requests_total", route="here") == 60
        assert (await program.status_of("/status/ready"))[0] == 200
        for client in clients:
            client.writer.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is but one processor")
async def test_affinity_keeps_each_worker_to_a_processor(tmp_path: Path) -> None:
    async with node(tmp_path, more="worker_affinity: auto") as program:
        allowed = sorted(os.sched_getaffinity(0))
        assert [os.sched_getaffinity(pid) for pid in await pids(program)] == [{allowed[0]}, {allowed[1]}]
        assert os.sched_getaffinity(program.process.pid) == set(allowed)


async def test_auto_is_as_many_as_there_is_room_for(tmp_path: Path) -> None:
    async with running_program(tmp_path, text("http://127.0.0.1:9").replace("workers: 2", "workers: auto")) as program:
        assert 1 <= len(await program.workers()) <= len(os.sched_getaffinity(0))


# ── who dies ────────────────────────────────────────────────────────────────────────────────────


async def test_only_what_is_on_it_fails_when_a_worker_is_killed(tmp_path: Path) -> None:
    async with node(tmp_path) as program, loaded(program, kept=8) as ledger:
        for number in range(3):
            victim = (await pids(program))[number % 2]
            os.kill(victim, signal.SIGSTOP)
            async with asyncio.timeout(PATIENCE):
                while state(victim) not in ("T", "t"):
                    await asyncio.sleep(0.001)
            before, clients = len(ledger.failures), clients_of(victim, program.proxy)
            os.kill(victim, signal.SIGKILL)
            await replaced(program, victim)
            await asyncio.sleep(0.1)
            assert {failure.port for failure in ledger.failures[before:]} <= clients
        assert ledger.refused == 0


async def test_nobody_notices_the_death_of_the_nursery(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        before = await pids(program)
        (nursery,) = family(program.process.pid) - set(before)
        async with loaded(program) as ledger:
            os.kill(nursery, signal.SIGKILL)
            await program.event("nursery_died")
            assert await pids(program) == before
            assert ledger.failures == []
        os.kill(before[0], signal.SIGKILL)
        after = await replaced(program, before[0])
        assert after[1] == before[1]
        assert lives(program.process.pid)


async def test_nothing_goes_on_without_the_control_process(tmp_path: Path) -> None:
    """Not even a worker that does not run when it should end."""
    async with node(tmp_path, workers=3) as program:
        everybody = family(program.process.pid)
        assert len(everybody) == 4
        os.kill((await pids(program))[0], signal.SIGSTOP)
        program.process.kill()
        await all_end(everybody)
        with pytest.raises(OSError, match="Connect"):
            await program.connect()


async def test_workers_that_lose_the_control_process_finish_what_is_in_flight(tmp_path: Path) -> None:
    upstream = Upstream(patient=True)
    async with node(tmp_path, upstream=upstream) as program:
        everybody = family(program.process.pid)
        async with await program.connect() as client:
            client.send(get("/"))
            await upstream.asked.wait()
            program.process.kill()
            await program.event("control_process_lost")
            upstream.go.set()
            assert (await client.response()).body == b"ok"
        await all_end(everybody)


# ── signals ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_whole_group_drains_it(tmp_path: Path, number: signal.Signals) -> None:
    upstream = Upstream(patient=True)
    async with node(tmp_path, upstream=upstream) as program:
        everybody = family(program.process.pid)
        async with await program.connect() as client:
            client.send(get("/"))
            await upstream.asked.wait()
            os.killpg(program.process.pid, number)
            await program.event("draining")
            assert (await program.status_of("/status/ready"))[0] == 503
            upstream.go.set()
            assert (await client.response()).headers["connection"] == "close"
        assert await program.ended() == 0
        assert (await program.event("drained"))["clean"] is True
        await all_end(everybody)
        assert not [event for event in program.events if event.get("level") in ("error", "warning")]


async def test_a_second_signal_cuts_the_drain_short(tmp_path: Path) -> None:
    upstream = Upstream(patient=True)
    async with node(tmp_path, upstream=upstream) as program:
        everybody = family(program.process.pid)
        async with await program.connect() as client:
            client.send(get("/"))
            await upstream.asked.wait()
            program.signal(signal.SIGTERM)
            await program.event("draining")
            program.signal(signal.SIGTERM)
            assert await program.ended() == 0
            assert (await program.event("drained"))["clean"] is False
            with contextlib.suppress(ConnectionResetError):
                assert not await client.rest()
        await all_end(everybody)


async def test_a_signal_while_it_starts(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(settled(tmp_path, text("http://127.0.0.1:9", 3)), "utf-8")
    for delay in (0.3, 0.6, 0.9):
        process = await launch(config, leader=True)
        await asyncio.sleep(delay)
        everybody = family(process.pid)
        os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
        assert process.returncode in (0, -signal.SIGTERM), output.decode()
        await all_end(everybody)


async def test_a_graceful_restart_fails_no_request(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        async with loaded(program) as ledger:
            for _ in range(3):
                before = await pids(program)
                program.signal(signal.SIGUSR2)
                await replaced(program, *before)
            assert ledger.failures == []
            assert ledger.refused == 0
        assert await program.metric("postern_worker_restarts_total", reason="crashed") == 0
        assert len([event for event in program.events if event["event"] == "restarted"]) == 3


async def test_a_restart_of_one_process_is_none(tmp_path: Path) -> None:
    async with node(tmp_path, workers=1) as program:
        before = await pids(program)
        program.signal(signal.SIGUSR2)
        program.signal(signal.SIGHUP)
        await program.event("config_loaded")
        assert await pids(program) == before


# ── reloads ─────────────────────────────────────────────────────────────────────────────────────


async def served(program: Program, body: bytes) -> bool:
    """Is this what all workers answer with?"""
    hashes = {worker["config_hash"] for worker in await program.workers()}
    for _ in range(20):
        async with await program.connect() as client:
            if (await client.request(get("/here"))).body != body:
                return False
    return len(hashes) == 1


async def test_all_workers_take_a_reload_under_load(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        before = await pids(program)
        async with loaded(program) as ledger:
            for number in range(5):
                rewrite(program, text("UPSTREAM", body=f"b{number}"))
                program.signal(signal.SIGHUP)
                await program.event("config_loaded", number + 1)
                assert await served(program, f"b{number}".encode())
            assert ledger.failures == []
        assert await pids(program) == before


async def test_a_worker_dies_in_the_middle_of_a_reload(tmp_path: Path) -> None:
    async with node(tmp_path, workers=3) as program:
        for number in range(3):
            victim = (await pids(program))[number]
            rewrite(program, text("UPSTREAM", 3, body=f"b{number}"))
            program.signal(signal.SIGHUP)
            os.kill(victim, signal.SIGKILL)
            await program.event("config_loaded", number + 1)
            await replaced(program, victim, workers=3)
            assert await served(program, f"b{number}".encode())


async def test_a_worker_that_hangs_is_replaced_and_holds_up_no_reload_for_ever(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        victim = (await pids(program))[1]
        os.kill(victim, signal.SIGSTOP)
        rewrite(program, text("UPSTREAM", body="two"))
        program.signal(signal.SIGHUP)
        await program.event("config_loaded")
        await replaced(program, victim)
        assert not lives(victim)
        assert await served(program, b"two")
        assert await program.metric("postern_worker_restarts_total", reason="silent") == 1


async def test_bad_configurations_change_nothing(tmp_path: Path) -> None:
    bad = [
        text("UPSTREAM", body="two").replace("auth: none", "auth: nobody"),
        text("UPSTREAM", body="two") + "tls: {certificates: [{certificate: nowhere.pem}]}\n",
        text("UPSTREAM", body="two") + "}{",
    ]
    async with node(tmp_path) as program:
        before = await program.workers()
        for number in range(20):
            rewrite(program, bad[number % len(bad)])
            program.signal(signal.SIGHUP)
            await program.event("config_refused", number + 1)
        after = await program.workers()
        for key in ("pid", "config_hash", "restarts"):
            assert [worker[key] for worker in after] == [worker[key] for worker in before]
        assert await served(program, b"one")
        rewrite(program, text("UPSTREAM", body="three"))
        await program.event("config_loaded")
        assert await served(program, b"three")


async def test_what_needs_a_restart_waits_for_it_in_a_worker_that_comes_later_too(tmp_path: Path) -> None:
    async with node(tmp_path) as program:
        before = await pids(program)
        other = settled(tmp_path, text("UPSTREAM", body="two")).replace(
            '0", status', '0", proxy_protocol: "on", status'
        )
        replace(program.config, other.replace("UPSTREAM", "http://127.0.0.1:9"))
        assert (await program.event("config_needs_restart"))["settings"] == ["listen"]
        await program.event("config_loaded")
        os.kill(before[0], signal.SIGKILL)
        await replaced(program, before[0])
        assert await served(program, b"two")


async def test_a_file_that_changes_while_the_gateway_starts(tmp_path: Path) -> None:
    """It has been read, and nobody watches it yet."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def reader() -> int | None:
        with contextlib.suppress(OSError):
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        return None

    async def change() -> None:
        waited_for = await until(reader)
        replace(tmp_path / "config.yaml", settled(tmp_path, text("http://127.0.0.1:9", body="two")))
        os.write(waited_for, b"one")
        os.close(waited_for)

    changing = asyncio.create_task(change())
    async with running_program(tmp_path, text("http://127.0.0.1:9", body='"${file:pipe}"'), leader=True) as program:
        await changing
        await program.event("config_loaded")
        assert await served(program, b"two")


# ── starts that cannot be ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ("tls: {certificates: [{certificate: nowhere.pem}]}", 2, "tls.certificates[0].certificate: "),
        ("PORT", 3, "is another gateway running?"),
    ],
)
async def test_a_start_that_cannot_be(tmp_path: Path, more: str, status: int, said: str) -> None:
    async with Upstream() as taken:
        content = settled(tmp_path, text("http://127.0.0.1:9", 2))
        if more == "PORT":
            content = content.replace('proxy: "127.0.0.1:0"', f'proxy: "127.0.0.1:{taken.port}"')
        else:
            content += more + "\n"
        config = tmp_path / "config.yaml"
        config.write_text(content, "utf-8")
        process = await launch(config, leader=True)
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
        assert said in output.decode()
        assert process.returncode == status
        assert "Traceback" not in output.decode()
