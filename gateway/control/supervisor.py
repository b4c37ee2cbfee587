"""The supervisor: so many slots, a worker in each, and all of them on one configuration and one state of the store.

Every slot has listening sockets of its own (SO_REUSEPORT), which stay open here: connections that wait in one when its
worker dies are served by the next.  A worker is told what to build, says so, and serves only if that is still what is
committed.  Its end is followed by another one at once, later each time while they end young.

Law: what the workers were told has been done by all of them when a call returns, or who has not done it has ended
(`reloading.py`, `revocation.py`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.control.crew import Crew, Member
from gateway.control.messages import (
    Ack,
    Committed,
    Configure,
    Drain,
    Drained,
    Failed,
    Package,
    Prepared,
    Ready,
    Report,
    ReportNow,
    Serve,
    Settings,
    Stop,
)
from gateway.control.nursery_client import Nursery, NurseryError
from gateway.control.patience import Backoff
from gateway.control.process import Process
from gateway.control.reloading import Reloads
from gateway.control.revocation import Revocations
from gateway.control.slots import State
from gateway.core.errors import ConfigError, PosternError, StartError
from gateway.telemetry.events import get_logger

_log = get_logger("postern.control")

#: Seconds that a fresh report is waited for.
REPORTS: Final = 0.25
#: How often a worker may end before it has ever served until the gateway gives up starting.
_ATTEMPTS: Final = 5


class Hooks(Protocol):
    """What the supervisor does not know itself."""

    def equip(self, member: Member) -> Mapping[str, socket.socket | int]:
        """What else a new worker gets, by name; the sockets are closed here once it has them."""
        ...

    def received(self, member: Member, message: object) -> None:
        """A worker says something that is none of the supervisor's business, reports included."""
        ...

    def gone(self, member: Member, reason: str) -> None:
        """A worker has ended: "crashed", "silent" (it was late with something), "restarted" or "stopped"."""
        ...


class Births(Protocol):
    """Where workers come from (`nursery_client.Nursery`)."""

    @property
    def pid(self) -> int | None: ...

    async def start(self) -> None: ...

    async def spawn(self, descriptors: Mapping[str, int], settings: Settings) -> Process: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Slot:
    """A worker's place."""

    index: int
    sockets: Sequence[socket.socket]
    #: Who serves, or is to serve when nobody does.
    current: Member | None = None
    #: Who is to take its place.
    heir: Member | None = None
    #: Has anybody ever served here?
    proven: bool = False
    restarts: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    timer: asyncio.TimerHandle | None = None


class Supervisor:
    """See the module.  Belongs to the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sequence[Sequence[socket.socket]],
        package: Package,
        settings: Callable[[int], Settings],
        hooks: Hooks,
        nursery: Callable[[Callable[[int, int], None]], Births] | None = None,
    ) -> None:
        """`sockets` has the listening sockets of each slot, which are taken over; `package` is what is in force;
        `settings(slot)` is what a worker is told at its birth; `nursery` makes what forks, given whom to tell of a
        worker's exit status."""
        self._loop = loop
        self._settings = settings
        self._hooks = hooks
        self._crew = Crew(loop, self)
        self._nursery: Births = Nursery(loop, self._exited) if nursery is None else nursery(self._exited)
        self._slots = [Slot(index, tuple(listening)) for index, listening in enumerate(sockets)]
        self._reloads = Reloads(self._crew, package, self._settle_in)
        self._revocations = Revocations(loop, self._crew)
        #: Two-phase reloads, as `core.ports.WorkerLink` has them.
        self.prepare = self._reloads.prepare
        self.forget = self._reloads.forget
        self.commit = self._reloads.commit
        #: And revocations.
        self.invalidate = self._revocations.invalidate
        self.confirm = self._revocations.confirm
        self._reports = 0
        self._restarting = asyncio.Lock()
        #: How many restarts have begun.
        self._restarts = 0
        self._closing = False
        self._unclean = False
        #: Why nothing will ever serve here.
        self._hopeless: PosternError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ── what there is ────────────────────────────────────────────────────────────────────────

    @property
    def hash(self) -> str:
        """The configuration that is committed."""
        return self._reloads.committed.hash

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots, and who serves in them."""
        return self._slots

    @property
    def nursery_pid(self) -> int | None:
        """The nursery's process."""
        return self._nursery.pid

    def serving(self) -> list[Member]:
        """The workers that serve now, by slot; those that drain are not among them."""
        return [slot.current for slot in self._slots if slot.current is not None and slot.current.serves]

    # ── starting and ending ──────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Return when every slot serves.  Raises `StartError`, or `ConfigError`."""
        await self._nursery.start()
        for slot in self._slots:
            self._begin(slot)
        await self._crew.until(
            lambda: self._hopeless is not None or self._closing or len(self.serving()) == len(self._slots)
        )
        if self._hopeless is not None:
            raise self._hopeless

    def stop_accepting(self) -> None:
        """Let the listening sockets go, and begin no worker any more; the workers close theirs when they drain."""
        self._closing = True
        for slot in self._slots:
            for sock in slot.sockets:
                sock.close()

    async def drain(self, seconds: float) -> bool:
        """Have all workers finish what is in flight within so many seconds, and end; False if something was cut."""
        self._closing = True
        self._unclean = False
        for slot in self._slots:
            if slot.timer is not None:
                slot.timer.cancel()
        for member in self._crew:
            if member.life.admits:
                self._drain(member, seconds)
            else:
                self._crew.dismiss(member, "stopped")
        self._crew.settle()
        await self._crew.until(lambda: not len(self._crew))
        return not self._unclean

    def cut(self) -> None:
        """Drain no longer."""
        self._crew.tell(self._crew.admitting, Stop())

    async def stop(self) -> None:
        """End everything at once; nothing of it is left when this returns."""
        self._closing = True
        for slot in self._slots:
            if slot.timer is not None:
                slot.timer.cancel()
        self.stop_accepting()
        for member in self._crew:
            self._crew.dismiss(member, "stopped")
        await self._crew.until(lambda: not len(self._crew))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._crew.close()
        await self._nursery.close()

    async def restart(self, seconds: float) -> None:
        """Put a fresh worker into each slot, one after another; each is ready before the old one drains, for so many
        seconds at the most.  Raises `PosternError` where a fresh one does not come to serve; the old ones go on.

        Calls that come while one is under way are served by one more."""
        before = self._restarts
        async with self._restarting:
            if self._restarts > before:
                return
            self._restarts += 1
            _log.info("restarting", workers=len(self._slots))
            for slot in self._slots:
                await self._crew.until(lambda: self._reloads.settled or self._closing)
                if self._closing:
                    return
                await self._replace(slot, seconds)
            _log.info("restarted", workers=len(self._slots), pids=[member.pid for member in self.serving()])

    async def _replace(self, slot: Slot, seconds: float) -> None:
        before = slot.current
        if before is None or not before.serves:
            # A fresh one is on its way here anyway.
            await self._crew.until(lambda: self._serves(slot) or self._closing)
            return
        try:
            slot.heir = heir = self._hire(slot)
        except OSError as error:
            raise PosternError(f"no new worker for slot {slot.index}: {error}") from error
        await self._crew.until(lambda: heir.life.state in (State.SERVING, State.GONE) or self._closing)
        if heir.life.state is State.GONE and not self._closing:
            raise PosternError(f"the new worker of slot {slot.index} did not come to serve: the old one goes on")
        if slot.current is heir and not self._closing:
            self._leave(before, seconds)

    def _leave(self, member: Member, seconds: float) -> None:
        """Have one drain whose place another one has taken."""
        if member.serves:
            self._drain(member, seconds)

    def _serves(self, slot: Slot) -> bool:
        return slot.current is not None and slot.current.serves

    def _drain(self, member: Member, seconds: float) -> None:
        member.life.draining(seconds, self._crew.now)
        member.send(Drain(seconds))

    # ── slots ────────────────────────────────────────────────────────────────────────────────

    def _begin(self, slot: Slot) -> None:
        """A worker for an empty slot."""
        slot.timer = None
        if self._closing:
            return
        try:
            slot.current = self._hire(slot)
        except OSError as error:
            # No descriptors are left, most likely: that passes.
            _log.error("worker_not_spawned", worker=slot.index, error=str(error))
            slot.timer = self._loop.call_later(max(slot.backoff.delay(0.0), Backoff.FIRST), self._begin, slot)

    def _hire(self, slot: Slot) -> Member:
        member, link = self._crew.hire(slot.index)
        task = self._loop.create_task(self._bear(slot, member, link), name="spawn")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return member

    async def _bear(self, slot: Slot, member: Member, link: socket.socket) -> None:
        """Have the process made, and tell it what to build."""
        extra: Mapping[str, socket.socket | int] = {}
        try:
            extra = self._hooks.equip(member)
            descriptors = {"link": link.fileno()}
            for name, value in extra.items():
                descriptors[name] = value if isinstance(value, int) else value.fileno()
            for index, sock in enumerate(slot.sockets):
                descriptors[f"listen.{index}"] = sock.fileno()
            process = await self._nursery.spawn(descriptors, self._settings(slot.index))
        except (NurseryError, OSError) as error:
            _log.error("worker_not_spawned", worker=slot.index, error=str(error))
            self._crew.dismiss(member, "crashed")
            return
        finally:
            link.close()
            for value in extra.values():
                if isinstance(value, socket.socket):
                    value.close()
        self._crew.employ(member, process)
        if member.life.state is State.SPAWNING:
            member.life.spawned()
            member.send(Configure(self._reloads.committed))

    def gone(self, member: Member) -> None:
        """A worker's process has ended: somebody else takes its place."""
        slot = self._slots[member.slot]
        self._reloads.left(member)
        reason = member.doom or "crashed"
        if member.life.clean is not None:
            reason = "stopped" if self._closing else "restarted"
        if self._closing and not member.life.clean and member.serving_since is not None:
            self._unclean = True
        lived = 0.0 if member.serving_since is None else self._loop.time() - member.serving_since
        tell = _log.info if reason in ("stopped", "restarted") else _log.warning
        tell("worker_ended", worker=member.slot, pid=member.pid, reason=reason, served=round(lived, 1))
        self._hooks.gone(member, reason)
        if slot.heir is member:
            slot.heir = None
        if slot.current is not member:
            return
        # Whoever was to follow it is on its way; else another one is begun.
        slot.current, slot.heir = slot.heir, None
        if self._closing:
            return
        slot.restarts += 1
        delay = slot.backoff.delay(lived)
        if slot.current is None:
            slot.timer = self._loop.call_later(delay, self._begin, slot)
        if not slot.proven and slot.backoff.failures >= _ATTEMPTS:
            self._hopeless = self._hopeless or StartError("workers: they end as they start; the log says why")

    def _exited(self, pid: int, status: int) -> None:
        if status:
            _log.warning("process_exited", pid=pid, status=status)
        self._crew.exited(pid, status)

    # ── what workers say ─────────────────────────────────────────────────────────────────────

    def received(self, member: Member, message: object) -> None:
        """Take a worker's message.  Raises `ProtocolError`, which ends it."""
        life = member.life
        match message:
            case Report(number=number):
                member.reported = max(member.reported, number)
                self._hooks.received(member, message)
            case Ack(epoch=epoch):
                life.acknowledged(epoch)
            case Ready(hash=config_hash):
                life.ready(config_hash, self._crew.now)
                self._settle_in(member)
            case Prepared(number=number, problems=problems):
                self._reloads.answered(member, number, problems)
            case Committed(number=number):
                life.committed(number)
            case Drained(clean=clean):
                life.drained(clean)
            case Failed(problems=problems, config=config):
                _log.error("worker_failed", worker=member.slot, pid=member.pid, problems=list(problems))
                if not self._slots[member.slot].proven:
                    self._hopeless = ConfigError(list(problems)) if config else StartError("\n".join(problems))
            case _:
                self._hooks.received(member, message)

    def _settle_in(self, member: Member) -> None:
        """It has built a configuration: let it serve by it, unless another one is or will be in force."""
        if self._closing:
            self._crew.dismiss(member, "stopped")
        elif member.life.built != self.hash:
            member.send(Configure(self._reloads.committed))
        elif not self._reloads.holds(member):
            self._let_serve(member)

    def _let_serve(self, member: Member) -> None:
        slot = self._slots[member.slot]
        member.life.served(self._crew.now)
        member.serving_since = self._loop.time()
        member.send(Serve())
        self._reloads.joined(member)
        if slot.heir is member:
            slot.current, slot.heir = member, None
        slot.proven = True
        _log.info("worker_serves", worker=member.slot, pid=member.pid, hash=self.hash)

    # ── everybody ────────────────────────────────────────────────────────────────────────────

    def broadcast(self, message: object, but: Member | None = None) -> None:
        """Tell all that serve, and those that drain."""
        self._crew.tell((member for member in self._crew.admitting if member is not but), message)

    async def reports(self) -> None:
        """Have all report now, and return when they have or `REPORTS` seconds are over."""
        self._reports += 1
        number = self._reports
        asked = self._crew.tell(self._crew.admitting, ReportNow(number))
        try:
            async with asyncio.timeout(REPORTS):
                await self._crew.until(
                    lambda: all(member.reported >= number or member.life.state is State.GONE for member in asked)
                )
        except TimeoutError:
            return
