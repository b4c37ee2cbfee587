"""The workers that there are: each with its link, its process and its life, and what one can wait for together.

Law: a worker is gone when its process has ended, and not before: a link can be lost while a process goes on.  Whoever
waits for a worker to do something waits until it has done it or is gone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, Protocol

from gateway.control.channel import Channel, frame
from gateway.control.patience import AwakeClock
from gateway.control.process import Process
from gateway.control.slots import Duty, Life, State
from gateway.telemetry.events import get_logger

_log = get_logger("postern.control")

#: Seconds between two looks at what the workers owe; shorter while somebody owes something within seconds.
_TICK: Final = 0.25
_PRESSED: Final = 0.05


class Member:
    """One worker.  `number` tells it from all others that there have been, `slot` is its place."""

    def __init__(self, number: int, slot: int, now: float, began: float) -> None:
        self.number = number
        self.slot = slot
        self.life = Life(now)
        self.channel: Channel
        self.process: Process | None = None
        #: When it was asked for and when it began to serve, by the loop's clock.
        self.began = began
        self.serving_since: float | None = None
        #: The latest report that it was asked for and has given.
        self.reported = 0
        #: Why it was ended, "" while nobody has.
        self.doom = ""
        #: Its exit status or minus the signal's number, where the nursery told.
        self.status: int | None = None

    @property
    def pid(self) -> int:
        """Its process, 0 before it has one."""
        return 0 if self.process is None else self.process.pid

    @property
    def serves(self) -> bool:
        """Does it take new connections?"""
        return self.life.state is State.SERVING

    def send(self, message: object) -> None:
        """Send it a message; dropped if its link is lost."""
        self.channel.send(message)


class Employer(Protocol):
    """Who hears what becomes of the workers."""

    def received(self, member: Member, message: object) -> None:
        """A worker said something.  What this raises ends the worker."""
        ...

    def gone(self, member: Member) -> None:
        """A worker's process has ended."""
        ...


class Crew:
    """See the module.  Belongs to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, employer: Employer) -> None:
        self._loop = loop
        self._employer = employer
        self._clock = AwakeClock(loop.time())
        self._members: dict[int, Member] = {}
        self._numbers = 0
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._interval = _TICK
        self._timer = loop.call_later(_TICK, self._tick)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)

    @property
    def admitting(self) -> list[Member]:
        """Those that may let requests in."""
        return [member for member in self._members.values() if member.life.admits]

    @property
    def now(self) -> float:
        """The fair clock: what duties are measured by."""
        return self._clock.read(self._loop.time(), 2 * self._interval)

    # ── coming and going ─────────────────────────────────────────────────────────────────────

    def hire(self, slot: int) -> tuple[Member, socket.socket]:
        """A new member with a link, and the other end of it for the process to come."""
        ours, theirs = socket.socketpair()
        self._numbers += 1
        member = Member(self._numbers, slot, self.now, self._loop.time())
        member.channel = Channel(self._loop, ours, partial(self._received, member), partial(self._lost, member))
        self._members[member.number] = member
        return member, theirs

    def employ(self, member: Member, process: Process) -> None:
        """The member's process is there."""
        member.process = process
        process.on_end = partial(self._ended, member)
        if not member.channel.open:
            # It was given up meanwhile.
            process.unlinked()

    def dismiss(self, member: Member, reason: str) -> None:
        """End it at once."""
        if member.doom or member.life.state is State.GONE:
            return
        member.doom = reason
        if member.process is None:
            # It never got a process, or gets it when nobody wants it any more.
            self._ended(member)
            return
        member.channel.poll()
        if member.channel.open:
            member.process.kill()

    def exited(self, pid: int, status: int) -> None:
        """The nursery has reaped a process."""
        for member in self:
            if member.pid == pid and member.process is not None:
                member.status = status
                member.process.ended()

    def _received(self, member: Member, message: object) -> None:
        if member.life.state is State.GONE:
            return
        member.life.heard(self.now)
        self._employer.received(member, message)
        self.settle()

    def _lost(self, member: Member) -> None:
        """Its link has ended: so has the process, or it is made to."""
        if member.process is not None:
            member.process.unlinked()
        # Else it is about to have one, which is ended then (`employ`), or never gets one.

    def _ended(self, member: Member) -> None:
        # What it had still said counts: its last report, that its drain was a clean one.
        member.channel.poll()
        member.channel.close()
        if self._members.pop(member.number, None) is None:
            return
        member.life.gone()
        self._employer.gone(member)
        self.settle()

    # ── together ─────────────────────────────────────────────────────────────────────────────

    def tell(self, members: Iterable[Member], message: object) -> list[Member]:
        """Send one message to many; returns to whom.  Raises `ChannelError`."""
        told = list(members)
        data = frame(message)
        for member in told:
            member.channel.send_frame(data)
        return told

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when something holds that what workers say or do can make true."""
        if condition():
            return
        self.hasten()
        waiting: tuple[Callable[[], bool], asyncio.Future[None]] = condition, self._loop.create_future()
        self._waiting.append(waiting)
        try:
            await waiting[1]
        finally:
            self._waiting.remove(waiting)

    def settle(self) -> None:
        """Something has changed: whoever waited for it goes on."""
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(None)

    # ── lateness ─────────────────────────────────────────────────────────────────────────────

    def hasten(self) -> None:
        """Look at what is owed more often, if somebody owes something within seconds."""
        if self._interval == _TICK and any(member.life.pressed for member in self):
            self._schedule(_PRESSED)

    def _schedule(self, interval: float) -> None:
        # What has passed until now is counted as it was watched.
        self._clock.read(self._loop.time(), 2 * self._interval)
        self._timer.cancel()
        self._interval = interval
        self._timer = self._loop.call_later(interval, self._tick)

    def _tick(self) -> None:
        now = self.now
        for member in self:
            if member.life.late(now) is None or member.doom:
                continue
            # What it has said may be lying here: it is read before anybody is judged.
            member.channel.poll()
            duty = member.life.late(now)
            if duty is not None and member.life.state is not State.GONE:
                _log.error("worker_late", worker=member.slot, pid=member.pid, what=duty.value)
                self.dismiss(member, "silent" if duty is not Duty.DRAIN else "stopped")
        self._schedule(_PRESSED if any(member.life.pressed for member in self) else _TICK)

    def close(self) -> None:
        """End the looking; the members are gone."""
        self._timer.cancel()
