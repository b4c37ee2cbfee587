"""The supervisor: so many slots, a worker in each, and all of them on one configuration and one state of the store.

Every slot has listening sockets of its own (SO_REUSEPORT), which stay open here: connections that wait in one when its
worker dies are served by the next.  A worker is told what to build, says so, and serves only if that is still what is
committed.  Its end is followed by another one at once, later each time while they end young.

Law: what the workers were told has been done by all of them when a call returns, or who has not done it has ended.
A reload is prepared by all or refused, and committed by all: who comes up while it is under way ends on
what is committed.
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
    Change,
    Commit,
    Committed,
    Configure,
    Drain,
    Drained,
    Failed,
    Forget,
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
from gateway.control.nursery_client import Nursery, NurseryError
from gateway.control.patience import Backoff
from gateway.control.process import Process
from gateway.control.slots import Duty, ProtocolError, State
from gateway.core.errors import ConfigError, PosternError, StartError
from gateway.core.ports import Redeclared
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
        self._committed = package
        #: What is being prepared or has been; `_gathering` says which.
        self._pending: Package | None = None
        self._gathering = False
        self._reload = 0
        self._problems: list[str] = []
        #: Built and ready, and held back until it is known what is to be committed.
        self._held: set[Member] = set()
        self._epoch = 0
        self._changes: list[Change] = []
        self._reports = 0
        self._restarting = asyncio.Lock()
        self._closing = False
        self._unclean = False
        #: Why nothing will ever serve here.
        self._hopeless: PosternError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ── what there is ────────────────────────────────────────────────────────────────────────

    @property
    def hash(self) -> str:
        """The configuration that is committed."""
        return self._committed.hash

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
        seconds at the most.  Raises `PosternError` where a fresh one does not come to serve; the old ones go on."""
        async with self._restarting:
            _log.info("restarting", workers=len(self._slots))
            for slot in self._slots:
                await self._crew.until(lambda: self._pending is None or self._closing)
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
        heir = self._hire(slot)
        slot.heir = heir
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
        if not self._closing:
            slot.current = self._hire(slot)

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
            member.send(Configure(self._committed))

    def gone(self, member: Member) -> None:
        """A worker's process has ended: somebody else takes its place."""
        slot = self._slots[member.slot]
        self._held.discard(member)
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
                life.has_prepared(number, not problems)
                if number == self._reload and not self._problems:
                    self._problems.extend(problems)
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
        elif member.life.built != self._committed.hash:
            member.send(Configure(self._committed))
        elif self._pending is not None and not self._gathering:
            self._held.add(member)
        else:
            self._let_serve(member)

    def _let_serve(self, member: Member) -> None:
        slot = self._slots[member.slot]
        now = self._crew.now
        member.life.served(now)
        member.serving_since = self._loop.time()
        member.send(Serve())
        if self._pending is not None:
            member.life.preparing(self._reload, now)
            member.send(Prepare(self._reload, self._pending))
        if slot.heir is member:
            slot.current, slot.heir = member, None
        slot.proven = True
        _log.info("worker_serves", worker=member.slot, pid=member.pid, hash=self._committed.hash)

    # ── one configuration ────────────────────────────────────────────────────────────────────

    async def prepare(self, package: Package) -> None:
        """Have a configuration built by all that serve.  Raises `PosternError`, and then all have forgotten it.

        One at a time: `commit` or `forget` comes before the next.
        """
        if self._pending is not None:
            raise ProtocolError("another configuration is being prepared")
        self._reload += 1
        asked = self._crew.tell(self._crew.admitting, Prepare(self._reload, package))
        self._pending, self._gathering = package, True
        self._problems.clear()
        for member in asked:
            member.life.preparing(self._reload, self._crew.now)
        try:
            await self._crew.until(
                lambda: bool(self._problems) or not any(member.life.owes(Duty.PREPARE) for member in self._crew)
            )
        except BaseException:
            self.forget()
            raise
        self._gathering = False
        if self._problems:
            self.forget()
            raise ConfigError(list(self._problems))
        if asked and not self._able():
            self.forget()
            raise PosternError("no worker lived to prepare the configuration")

    def _able(self) -> list[Member]:
        """Those that have prepared what is pending."""
        return [member for member in self._crew.admitting if member.life.prepared == self._reload]

    def forget(self) -> None:
        """What was prepared will not be committed."""
        if self._pending is None:
            return
        self._pending, self._gathering = None, False
        for member in self._crew.tell(self._crew.admitting, Forget(self._reload)):
            member.life.forgets()
        self._release()

    async def commit(self, redeclared: Redeclared) -> None:
        """Put in force what was prepared, in all workers: when this returns, each has, or has ended."""
        package = self._pending
        if package is None:
            raise ProtocolError("nothing was prepared")
        # From here on whoever comes up serves by it.
        self._committed, self._pending, self._gathering = package, None, False
        able = self._able()
        for member in self._crew.admitting:
            if member not in able:
                self._crew.dismiss(member, "silent")
        order = Commit(self._reload, redeclared.usernames, redeclared.organizations, redeclared.everything)
        for member in self._crew.tell(able, order):
            member.life.committing(package.hash, self._crew.now)
        self._release()
        await self._crew.until(
            lambda: all(member.life.hash == package.hash for member in self._crew if member.life.admits)
        )

    def _release(self) -> None:
        """Whoever was held back serves by what is committed, once it has built that."""
        held, self._held = self._held, set()
        for member in held:
            if member.life.state is State.CONFIGURING:
                self._settle_in(member)

    # ── one state of the store ───────────────────────────────────────────────────────────────

    def invalidate(self, kind: str, name: str) -> None:
        """Have a change told to all; `confirm` returns when they have forgotten."""
        if not self._changes:
            self._loop.call_soon(self._tell_changes)
        self._changes.append((kind, name))

    async def confirm(self) -> None:
        """Return when no worker admits anything any more on what was invalidated so far."""
        self._tell_changes()
        epoch = self._epoch
        await self._crew.until(lambda: not any(member.life.owes_epoch(epoch) for member in self._crew))

    def _tell_changes(self) -> None:
        if not self._changes:
            return
        changes, self._changes = tuple(self._changes), []
        self._epoch += 1
        for member in self._crew.tell(self._crew.admitting, Invalidate(self._epoch, changes)):
            member.life.told(self._epoch, self._crew.now)
        self._crew.hasten()

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
