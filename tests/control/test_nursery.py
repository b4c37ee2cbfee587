"""The nursery with real processes: what it forks, what that inherits, and what becomes of it when others die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.config.loader import load_bytes
from gateway.config.package import pack
from gateway.control import nursery_client
from gateway.control.channel import Channel
from gateway.control.messages import Configure, Failed, Package, Prepare, Prepared, Ready, Settings
from gateway.control.nursery import IGNORED
from gateway.control.nursery_client import Nursery, NurseryError, environment
from gateway.control.process import Process
from gateway.core.errors import StartError
from tests.control.fakes import PATIENCE, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

CONFIG = b"""
version: 1
services: [{name: s, url: http://127.0.0.1:9, policies: {auth: none}, routes: [{name: r, paths: [/]}]}]
"""


def packed(text: bytes = CONFIG) -> Package:
    loaded = load_bytes(text, Path("config.yaml"), environ={})
    return Package(loaded.hash, pack(loaded))


class Born:
    """A real worker, and the other ends of what it was given."""

    def __init__(self, process: Process, link: socket.socket, hub: socket.socket) -> None:
        self.process = process
        self.hub = hub
        self.heard: list[object] = []
        self.lost = False
        self.channel = Channel(asyncio.get_running_loop(), link, self.heard.append, self._lost)

    def _lost(self) -> None:
        self.lost = True

    async def hears(self, number: int) -> list[object]:
        await eventually(lambda: len(self.heard) >= number)
        return self.heard


@asynccontextmanager
async def nursing() -> AsyncIterator[tuple[Nursery, dict[int, int]]]:
    exits: dict[int, int] = {}
    nursery = Nursery(asyncio.get_running_loop(), exits.__setitem__)
    await nursery.start()
    try:
        yield nursery, exits
    finally:
        await nursery.close()


async def born(nursery: Nursery, **extra: int) -> Born:
    ours, theirs = socket.socketpair()
    with theirs:
        hub, their_hub = socket.socketpair()
        with their_hub:
            process = await nursery.spawn({"link": theirs.fileno(), "hub": their_hub.fileno(), **extra}, Settings(0, 1))
    return Born(process, ours, hub)


def exists(pid: int | None) -> bool:
    """Is there such a process, and is it no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


async def ended(worker: Born) -> None:
    async with asyncio.timeout(PATIENCE):
        await worker.process.wait()


async def test_a_worker_is_there_builds_what_it_is_sent_and_ends_with_its_link() -> None:
    async with nursing() as (nursery, exits):
        worker = await born(nursery)
        package = packed()
        worker.channel.send(Configure(package))
        assert await worker.hears(1) == [Ready(worker.process.pid, package.hash)]
        worker.channel.send(Prepare(1, package))
        assert (await worker.hears(2))[1] == Prepared(1)
        worker.channel.send(Prepare(2, Package("x", b"no pickle")))
        heard = await worker.hears(3)
        assert isinstance(heard[2], Prepared)
        assert heard[2].problems
        worker.channel.close()
        await ended(worker)
        await eventually(lambda: exits == {worker.process.pid: 0})


async def test_what_cannot_be_built_is_said() -> None:
    text = CONFIG + b"tls: {certificates: [{certificate: nowhere.pem, key: nowhere.key}]}\n"
    async with nursing() as (nursery, _):
        worker = await born(nursery)
        worker.channel.send(Configure(packed(text)))
        (failed,) = await worker.hears(1)
        assert isinstance(failed, Failed)
        assert failed.config
        await ended(worker)


async def test_a_worker_holds_nothing_but_its_own() -> None:
    async with nursing() as (nursery, _):
        first = await born(nursery)
        first.channel.send(Configure(packed()))
        await first.hears(1)
        log = os.memfd_create("log")
        second = await born(nursery, access=log)
        second.channel.send(Configure(packed()))
        await second.hears(1)
        try:
            held, others, ours = (_descriptors(pid) for pid in (second.process.pid, first.process.pid, os.getpid()))
            assert len([where for where in held.values() if where.startswith("/memfd:log")]) == 1
            assert held[0] == "/dev/null"
            # Standard output and error are everybody's; the other ends of its sockets were given away.
            everybody = {held[number] for number in (0, 1, 2)}
            sockets = {where for where in held.values() if where.startswith("socket:")} - everybody
            assert not sockets & set(others.values())
            assert not sockets & set(ours.values())
        finally:
            os.close(log)
        for worker in (first, second):
            worker.channel.close()
            await ended(worker)


def _descriptors(pid: int) -> dict[int, str]:
    """Where a process' descriptors lead."""
    found: dict[int, str] = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # The descriptor of this very listing is gone when it is looked at.
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found


async def test_the_nursery_is_fit_to_be_forked_and_gives_no_secret_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERN_SECRET_KEY", "s" * 40)
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    async with nursing() as (nursery, _):
        assert len(list(Path(f"/proc/{nursery.pid}/task").iterdir())) == 1
        worker = await born(nursery)
        worker.channel.send(Configure(packed()))
        await worker.hears(1)
        for pid in (nursery.pid, worker.process.pid):
            for secret in (b"hunter2", b"s" * 40):
                for file in ("environ", "cmdline"):
                    assert secret not in Path(f"/proc/{pid}/{file}").read_bytes()
            status = Path(f"/proc/{pid}/status").read_text("ascii")
            masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
            ignored, blocked = int(masks["SigIgn"], 16), int(masks["SigBlk"], 16)
            assert all(ignored >> (number - 1) & 1 for number in IGNORED)
            assert not blocked
        worker.channel.close()
        await ended(worker)


async def test_who_is_killed_is_told_of() -> None:
    async with nursing() as (nursery, exits):
        one, other = await born(nursery), await born(nursery)
        told: list[str] = []
        one.process.on_end = lambda: told.append("ended")
        os.kill(one.process.pid, signal.SIGSTOP)
        one.process.kill()
        await ended(one)
        assert told == ["ended"]
        await eventually(lambda: exits == {one.process.pid: -signal.SIGKILL})
        one.process.kill()
        assert other.process.alive
        other.channel.close()
        await ended(other)


async def test_workers_outlive_their_nursery_and_there_is_another_one() -> None:
    async with nursing() as (nursery, _):
        before = nursery.pid
        assert before is not None
        old = await born(nursery)
        os.kill(before, signal.SIGKILL)
        # Its end may be heard of only when it is asked.
        await eventually(lambda: nursery.pid != before)
        young = await born(nursery)
        assert nursery.pid not in (None, before)
        assert exists(old.process.pid)
        for worker in (old, young):
            worker.channel.send(Configure(packed()))
            await worker.hears(1)
        old.process.kill()
        await ended(old)
        young.channel.close()
        await ended(young)


async def test_a_nursery_that_dies_as_it_is_asked() -> None:
    async with nursing() as (nursery, _):
        assert nursery.pid is not None
        os.kill(nursery.pid, signal.SIGSTOP)
        spawning = asyncio.create_task(born(nursery))
        await asyncio.sleep(0.05)
        os.kill(nursery.pid, signal.SIGKILL)
        with pytest.raises(NurseryError):
            await spawning
        worker = await born(nursery)
        worker.channel.close()
        await ended(worker)


async def test_what_is_sent_to_the_group_ends_nobody() -> None:
    """Also while the nursery is being made: what is blocked then is ignored later."""
    nursery = Nursery(asyncio.get_running_loop(), lambda pid, status: None)
    starting = asyncio.create_task(nursery.start())
    await eventually(lambda: nursery.pid is not None)
    assert nursery.pid is not None
    for number in IGNORED:
        os.kill(nursery.pid, number)
    async with asyncio.timeout(PATIENCE):
        await starting
    worker = await born(nursery)
    for number in IGNORED:
        os.kill(worker.process.pid, number)
    worker.channel.send(Configure(packed()))
    assert isinstance((await worker.hears(1))[0], Ready)
    worker.channel.close()
    await ended(worker)
    await nursery.close()


@pytest.mark.parametrize("moment", ["at once", "ready"])
async def test_it_ends_when_it_is_closed(moment: str) -> None:
    nursery = Nursery(asyncio.get_running_loop(), lambda pid, status: None)
    starting = asyncio.create_task(nursery.start())
    await eventually(lambda: nursery.pid is not None)
    pid = nursery.pid
    if moment == "ready":
        await starting
    async with asyncio.timeout(PATIENCE):
        await nursery.close()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert not exists(pid)


@pytest.mark.parametrize("executable", ["/bin/false", "/nowhere/python"])
async def test_a_nursery_that_cannot_be(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    nursery = Nursery(asyncio.get_running_loop(), lambda pid, status: None)
    with pytest.raises(StartError, match="ends as it starts"):
        await nursery.start()
    await nursery.close()


async def test_a_nursery_that_stands_still_before_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery_client, "PATIENCE", 0.2)
    monkeypatch.setattr(nursery_client, "_execute", _asleep)
    nursery = Nursery(asyncio.get_running_loop(), lambda pid, status: None)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StartError, match="ends as it starts"):
            await nursery.start()
    await nursery.close()


def _asleep() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        return ours, subprocess.Popen(["sleep", "1000"], pass_fds=(theirs.fileno(),))


def test_a_process_without_a_pidfd_ends_with_its_link() -> None:
    async def live() -> None:
        child = subprocess.Popen(["sleep", "1000"])
        process = Process(asyncio.get_running_loop(), child.pid, None)
        told: list[str] = []
        process.on_end = lambda: told.append("ended")
        process.kill()
        assert child.wait() == -signal.SIGKILL
        assert process.alive
        process.unlinked()
        process.unlinked()
        await process.wait()
        process.kill()
        assert (process.alive, told) == (False, ["ended"])

    with asyncio.Runner() as runner:
        runner.run(live())


@pytest.mark.parametrize(
    ("name", "seen"),
    [("PATH", True), ("PYTHONHASHSEED", True), ("LC_ALL", True), ("POSTERN_ADMIN_TOKEN", False), ("AWS_KEY", False)],
)
def test_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, seen: bool) -> None:
    monkeypatch.setenv(name, "1")
    assert (name in environment()) is seen


def test_no_two_children_draw_the_same_numbers() -> None:
    code = (
        "import os, random, secrets, ssl, sys, gateway.control.worker as worker\n"
        "worker.preload()\n"
        "random.random(), ssl.RAND_bytes(8), secrets.token_hex(8)\n"
        "for _ in range(3):\n"
        "    if not os.fork():\n"
        "        print(random.random(), ssl.RAND_bytes(8).hex(), secrets.token_hex(8), flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    drawn = done.stdout.split()
    assert len(drawn) == len(set(drawn)) == 9


def test_a_worker_never_imports_what_only_the_control_process_needs() -> None:
    """Its memory is what is not shared; and what it cannot import it cannot do: open the store, hash a secret."""
    code = (
        "import sys, threading, gateway.control.worker as worker\n"
        "worker.preload()\n"
        "unwanted = 'sqlalchemy alembic aiosqlite asyncpg bcrypt aiohttp typer rich prometheus_client redis hiredis "
        "aiocache cryptography gateway.app gateway.store gateway.admin gateway.control.supervisor'.split()\n"
        "print([name for name in unwanted if name in sys.modules], threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 1\n"
