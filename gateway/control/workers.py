"""`workers: N`: the data planes of all workers, reached over their links (`core.ports.WorkerLink`).

Here the supervisor meets what the control process does for its workers: it verifies what they ask about, adds up what
they report, passes on what they drop.  A configuration is compiled here once, to be judged by line and column, and what
was compiled is let go of again: workers compile for themselves what they are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from socket import socket, socketpair
from typing import Final, cast

from gateway.build import Ports, build
from gateway.config.loader import Loaded
from gateway.config.package import pack
from gateway.control.cores import core_of
from gateway.control.crew import Member
from gateway.control.messages import Answered, Ask, CancelAsk, Dropped, Feed, Package, Report, Settings
from gateway.control.slots import ProtocolError
from gateway.control.supervisor import Supervisor
from gateway.control.verification import Verification
from gateway.core.ports import Authenticator, Clock, Counters, Redeclared
from gateway.counters.hub_server import HubServer
from gateway.credentials.wire import Wire
from gateway.proxy.listener import bind_slots
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.node import NodeMetrics
from gateway.telemetry.states import TargetStatus, WorkerStatus

#: Seconds between two tidings of how old the change feed is.
_TICK: Final = 0.25


@dataclass(frozen=True, slots=True)
class Office:
    """What the control process lends: to judge tokens, to count, and to pass on to each worker.

    `age` tells how many seconds ago the change feed was heard to its end; `settings` is what every worker is told
    (its slot is filled in), `descriptors` what every worker inherits (`messages.Settings`), `hub` is where they count
    (None: elsewhere, and each for itself).
    """

    clock: Clock
    counters: Counters
    verification: Verification
    authenticator: Authenticator
    metrics: Metrics
    age: Callable[[], float]
    settings: Settings
    pinned: bool = False
    descriptors: Mapping[str, int] | None = None
    hub: HubServer | None = None


class _NoStats:
    """Counts nothing: what is compiled here is never served."""

    def observe(self, method: str, status: int, seconds: float, upstream_seconds: float | None) -> None:
        """A request that nobody sent."""

    def denied(self, policy: str, reason: str) -> None:
        """A refusal that nobody got."""


class _Asker:
    """A worker that asks (`verification.Asker`)."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def answered(self, number: int, told: Wire) -> None:
        """Send the answer."""
        self._member.send(Answered(number, told))


class Workers:
    """See the module.  Belongs to the loop's thread, save `compile`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, loaded: Loaded, office: Office) -> None:
        """Compile `loaded`.  Raises `ConfigError`."""
        self._loop = loop
        self._loaded = loaded
        #: What the gateway was started with.
        self._standing = loaded.config
        self._office = office
        self._package = self.compile(loaded)
        self._supervisor: Supervisor | None = None
        self._askers: dict[int, _Asker] = {}
        self._pending: Loaded | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: The node's metrics.
        self.readings = NodeMetrics(office.metrics, self._reports, self._helpers)
        self._port = loaded.config.listen.proxy.port

    # ── life ─────────────────────────────────────────────────────────────────────────────────

    @property
    def port(self) -> int:
        """Where clients connect, once started."""
        return self._port

    async def start(self) -> None:
        """Listen, and have all workers serve.  Raises `StartError`, or `ConfigError`."""
        listen = self._loaded.config.listen.proxy
        sockets = bind_slots(listen.host, listen.port, self._office.settings.slots)
        self._port = int(sockets[0][0].getsockname()[1])
        self._supervisor = supervisor = Supervisor(self._loop, sockets, self._package, self._settings, self)
        self._timer = self._loop.call_later(_TICK, self._tick)
        await supervisor.start()

    def stop_accepting(self) -> None:
        """Take no more connections."""
        self._there.stop_accepting()

    async def drain(self, seconds: float) -> bool:
        """Finish what is in flight; False if something had to be cut."""
        return await self._there.drain(seconds)

    def cut(self) -> None:
        """Drain no longer."""
        self._there.cut()

    async def stop(self) -> None:
        """End every process."""
        if self._supervisor is not None:
            await self._supervisor.stop()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._tasks)

    async def restart(self) -> None:
        """Replace every worker by a fresh one, one after another.  Raises `PosternError` where one does not come up."""
        await self._there.restart(self._loaded.config.drain.timeout)

    # ── configurations ───────────────────────────────────────────────────────────────────────

    def compile(self, loaded: Loaded) -> Package:
        """What is sent to the workers; may run in a thread.  Raises `ConfigError`."""
        office, stats = self._office, _NoStats()
        build(loaded, Ports(office.clock, office.counters, office.authenticator, lambda _service, _route: stats))
        return Package(loaded.hash, pack(loaded, self._standing))

    async def prepare(self, loaded: Loaded, compiled: object) -> None:
        """Have it built by all.  Raises `PosternError`, and then nothing has changed."""
        await self._there.prepare(cast(Package, compiled))
        self._pending = loaded

    async def commit(self, redeclared: Redeclared) -> list[object]:
        """Put in force what was prepared; whoever cannot follow is replaced."""
        if self._pending is not None:
            self._loaded, self._pending = self._pending, None
        await self._there.commit(redeclared)
        return []

    # ── the store ────────────────────────────────────────────────────────────────────────────

    def invalidate(self, kind: str, name: str) -> None:
        """Have a change of the store told to all that may remember something."""
        if self._supervisor is not None:
            self._supervisor.invalidate(kind, name)

    async def confirm(self) -> None:
        """Return when all have forgotten what was invalidated so far, or have ended."""
        if self._supervisor is not None:
            await self._supervisor.confirm()

    # ── what is told ─────────────────────────────────────────────────────────────────────────

    def workers(self) -> Sequence[WorkerStatus]:
        """The processes that serve."""
        if self._supervisor is None:
            return []
        return [
            WorkerStatus(
                member.pid,
                member.life.hash,
                slot.index,
                round(self._loop.time() - (member.serving_since or member.began), 3),
                slot.restarts,
                self.readings.connections(member.number),
            )
            for slot in self._supervisor.slots
            if (member := slot.current) is not None and member.serves
        ]

    def targets(self) -> Sequence[TargetStatus]:
        """Every service's targets, as the workers hold them to be."""
        return self.readings.targets()

    # ── what the supervisor asks of us ───────────────────────────────────────────────────────

    def equip(self, member: Member) -> Mapping[str, socket | int]:
        """What a new worker gets."""
        office = self._office
        self._askers[member.number] = _Asker(member)
        given: dict[str, socket | int] = dict(office.descriptors or {})
        if office.hub is not None:
            ours, given["hub"] = socketpair()
            self._begin(office.hub.serve(ours))
        return given

    def received(self, member: Member, message: object) -> None:
        """Something that a worker says."""
        office = self._office
        match message:
            case Ask(number=number, token=token, client=client):
                office.verification.ask(self._askers[member.number], number, token, client)
            case CancelAsk(number=number):
                office.verification.cancel(self._askers[member.number], number)
            case Report(content=content):
                self.readings.reported(member.number, content)
            case Dropped():
                self._there.broadcast(message, but=member)
            case _:
                raise ProtocolError(f"a worker said {type(message).__name__}")

    def gone(self, member: Member, reason: str) -> None:
        """A worker has ended."""
        asker = self._askers.pop(member.number, None)
        if asker is not None:
            self._office.verification.gone(asker)
        self.readings.gone(member.number, reason)

    # ── small things ─────────────────────────────────────────────────────────────────────────

    async def _reports(self) -> None:
        """Have all report that can do so soon."""
        if self._supervisor is not None:
            await self._supervisor.reports()

    def _helpers(self) -> list[int]:
        """The processes that do not report: the nursery's."""
        pid = None if self._supervisor is None else self._supervisor.nursery_pid
        return [] if pid is None else [pid]

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _settings(self, slot: int) -> Settings:
        core = core_of(slot) if self._office.pinned else None
        return replace(self._office.settings, slot=slot, core=core)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        self._there.broadcast(Feed(self._office.age()))

    @property
    def _there(self) -> Supervisor:
        if self._supervisor is None:
            raise RuntimeError("nothing serves yet")
        return self._supervisor
