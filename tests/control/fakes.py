"""Workers without processes: each does what it is told over a real link, as long as no test wants it otherwise."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.control.channel import Channel
from gateway.control.crew import Member
from gateway.control.messages import (
    Ack,
    Commit,
    Committed,
    Configure,
    Drain,
    Drained,
    Invalidate,
    Package,
    Prepare,
    Prepared,
    Ready,
    Report,
    ReportNow,
    Serve,
    Settings,
    Stop,
)
from gateway.control.nursery_client import NurseryError
from gateway.control.process import Process
from gateway.control.supervisor import Supervisor

PATIENCE = 30.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds; fails with TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


class FakeProcess(Process):
    """A process that a fake worker stands for: it has ended when somebody says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int, worker: FakeWorker) -> None:
        super().__init__(loop, pid, None)
        self._worker = worker
        self.immortal = False

    def kill(self) -> None:
        if not self.immortal:
            self._worker.die()

    def ended(self) -> None:
        # No process of this number is ours to be reaped.
        if self.alive:
            self._dead.set_result(None)
            if self.on_end is not None:
                self.on_end()


class FakeWorker:
    """Does what it is told; messages of a type in `deaf` it never hears."""

    def __init__(self, world: World, number: int, settings: Settings, link: socket.socket) -> None:
        self.world = world
        self.settings = settings
        self.deaf: set[type] = set(world.deaf)
        self.problems: tuple[str, ...] = ()
        self.heard: list[Any] = []
        self.hash = self.building = ""
        self.serves = False
        loop = asyncio.get_running_loop()
        self.process = FakeProcess(loop, number, self)
        self.channel = Channel(loop, link, self._received, self.die)

    def die(self) -> None:
        """End, as a process that is killed."""
        self.serves = False
        self.channel.close()
        asyncio.get_running_loop().call_soon(self.process.ended)

    def say(self, message: object) -> None:
        self.channel.send(message)

    def told(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def _received(self, message: object) -> None:
        self.heard.append(message)
        if type(message) in self.deaf:
            return
        match message:
            case Configure(package=package):
                self.building = package.hash
                self.say(Ready(self.process.pid, package.hash))
            case Serve():
                self.serves, self.hash = True, self.building
            case Prepare(number=number, package=package):
                self.building = package.hash
                self.say(Prepared(number, self.problems))
            case Commit(number=number):
                self.hash = self.building
                self.say(Committed(number))
            case Invalidate(epoch=epoch):
                self.say(Ack(epoch))
            case ReportNow(number=number):
                self.say(Report(number, {"slot": self.settings.slot}))
            case Drain() | Stop():
                self.serves = False
                self.say(Drained(True))
                asyncio.get_running_loop().call_later(0.01, self.die)


@dataclass
class World:
    """The nursery of fake workers, and what the supervisor's hooks are told."""

    #: What the next workers are deaf to.
    deaf: set[type] = field(default_factory=set)
    #: How many of the next attempts to spawn fail.
    barren: int = 0
    #: Held shut, no worker is born.
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    workers: list[FakeWorker] = field(default_factory=list)
    ended: list[tuple[int, str]] = field(default_factory=list)
    heard: list[tuple[int, object]] = field(default_factory=list)
    equipped: list[socket.socket] = field(default_factory=list)
    spawned: list[dict[str, int]] = field(default_factory=list)
    closed: bool = False

    # ── the nursery ──────────────────────────────────────────────────────────────────────────

    @property
    def pid(self) -> int | None:
        return None

    async def start(self) -> None:
        self.gate.set()

    async def spawn(self, descriptors: Mapping[str, int], settings: Settings) -> Process:
        await self.gate.wait()
        if self.barren:
            self.barren -= 1
            raise NurseryError("there are no processes left")
        self.spawned.append(dict(descriptors))
        link = socket.socket(fileno=os.dup(descriptors["link"]))
        # The numbers of no process that lives.
        worker = FakeWorker(self, 10_000_000 + len(self.workers), settings, link)
        self.workers.append(worker)
        return worker.process

    async def close(self) -> None:
        self.closed = True

    # ── the hooks ────────────────────────────────────────────────────────────────────────────

    def equip(self, member: Member) -> Mapping[str, socket.socket | int]:
        ours, theirs = socket.socketpair()
        self.equipped.append(ours)
        return {"hub": theirs, "access": 1}

    def received(self, member: Member, message: object) -> None:
        if isinstance(message, str):
            raise TypeError("a worker says what no worker says")
        self.heard.append((member.slot, message))

    def gone(self, member: Member, reason: str) -> None:
        self.ended.append((member.slot, reason))

    # ── what tests ask ───────────────────────────────────────────────────────────────────────

    @property
    def living(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.process.alive]

    def of(self, slot: int) -> FakeWorker:
        """The newest worker of a slot."""
        return [worker for worker in self.workers if worker.settings.slot == slot][-1]

    @property
    def hashes(self) -> list[str]:
        """What serves, by slot."""
        return [worker.hash for worker in sorted(self.living, key=lambda it: it.settings.slot) if worker.serves]


def package(name: str) -> Package:
    return Package(name, name.encode() * 100)


@asynccontextmanager
async def supervised(
    slots: int = 2, *, started: bool = True, world: World | None = None
) -> AsyncIterator[tuple[Supervisor, World]]:
    """A supervisor over fake workers, on the configuration "a"."""
    world = world or World()
    loop = asyncio.get_running_loop()
    sockets = [[socket.socket()] for _ in range(slots)]
    found = world
    supervisor = Supervisor(
        loop, sockets, package("a"), lambda slot: Settings(slot, slots), world, lambda exited: found
    )
    try:
        if started:
            await supervisor.start()
            await eventually(lambda: len(found.hashes) == slots)
        yield supervisor, world
    finally:
        async with asyncio.timeout(PATIENCE):
            await supervisor.stop()
        for worker in world.workers:
            worker.channel.close()
        for sock in world.equipped:
            sock.close()
