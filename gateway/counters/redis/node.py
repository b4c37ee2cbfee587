"""One Redis server, and the circuit breaker before it: UP, or DOWN with a reason.

    DOWN ── a probe succeeds ──► UP ── no answer in time, a lost connection, a server that cannot count ──► DOWN

Laws:

* While it is DOWN nobody waits: whoever asks is told at once.  In the background it is tried every 250 ms: found,
  connected, given the scripts, and made to count once, within the time that a request's question has.  A connection
  on which an answer was late is tried first, for a second.
* Only that makes it UP: a server that answers but cannot count (a replica, out of memory, a wrong user) stays DOWN.
* A change of state is one line of the log, and so is another reason for being DOWN, at most one in ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

from hiredis import ReplyError

from gateway.core.counters_url import Address, RedisLocation
from gateway.core.errors import CountersError
from gateway.counters.redis.door import Door
from gateway.counters.redis.refusals import MOVED, refusal_of
from gateway.counters.redis.scripts import SCRIPTS
from gateway.counters.redis.wire import Asked, Ignored, Told, Wire, packed

_log = logging.getLogger("postern.counters")

#: Seconds between two attempts at a server that is down.
PROBE: Final = 0.25
#: Seconds for which a connection is tried on which an answer was late.
REVIVAL: Final = 1.0
#: Seconds between two looks at where a server that is up should be.
WATCH: Final = 1.0
#: Seconds between two lines about different reasons.
_QUIET: Final = 10.0

_LOADS: Final = tuple(packed((b"SCRIPT", b"LOAD", script.text)) for script in SCRIPTS)
_INFO: Final = packed((b"INFO", b"cluster"))

Find = Callable[[], Awaitable[Address]]


def _awaited(wire: Wire, command: bytes) -> asyncio.Future[Any]:
    """The answer to a command of the background's.  Raises `CountersError` if it is not taken."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answered(reply: Any) -> None:
        if not future.done():
            future.set_result(reply)

    def failed(error: CountersError) -> None:
        if not future.done():
            future.set_exception(error)

    wire.ask(Told(command, answered, failed))
    return future


class Node:
    """See the module.  `name` is what the log calls it; `find` says where it is, asked anew for each connection, and
    `moves` whether it may be elsewhere while it is up; `probe` makes the command that counts once; `changed` is told of
    every attempt that failed and every change of state."""

    def __init__(
        self,
        location: RedisLocation,
        door: Door,
        name: str,
        find: Find,
        probe: Callable[[Node], bytes],
        *,
        moves: bool = False,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._location = location
        self._door = door
        self._name = name
        self._find = find
        self._probe = probe
        self._moves = moves
        self._changed = changed
        self._wire: Wire | None = None
        #: The connection on which an answer was late.
        self._doubted: Wire | None = None
        #: Where it was reached last.
        self.address: Address | None = None
        self._ended = asyncio.Event()
        self._settled = asyncio.Event()
        self._said = ""
        self._quiet_until = 0.0
        self.reason = f"Redis {name} has not been reached yet"
        self._keeper = self._loop.create_task(self._keep(), name=f"redis {name}")

    @property
    def up(self) -> bool:
        """Whether it can be asked."""
        return self._wire is not None

    def ask(self, asked: Asked) -> None:
        """Send a command.  Raises `CountersError` while it is down, or when too many wait."""
        wire = self._wire
        if wire is None:
            raise CountersError(self.reason)
        wire.ask(asked)

    def reload(self) -> None:
        """Give it the scripts again, ahead of whatever is asked next.  Raises `CountersError` like `ask`."""
        for command in _LOADS:
            self.ask(Ignored(command))

    def trip(self, reason: str) -> None:
        """It cannot be asked any more: what waits fails, and it is tried again in the background."""
        wire, self._wire = self._wire, None
        if wire is not None:
            self._down(reason)
            wire.close(self.reason)
            self._ended.set()

    async def tried(self) -> None:
        """Wait until the first attempt has ended, well or not."""
        await self._settled.wait()

    async def close(self) -> None:
        """End it; what waits fails."""
        self._keeper.cancel()
        self.reason = "the counters are closed"
        for wire in (self._wire, self._doubted):
            if wire is not None:
                wire.close(self.reason)
        self._wire = self._doubted = None
        await asyncio.gather(self._keeper, return_exceptions=True)

    # ── in the background ────────────────────────────────────────────────────────────────────

    async def _keep(self) -> None:
        while True:
            begun = monotonic()
            try:
                if self._doubted is None:
                    await self._open()
                else:
                    await self._revive(self._doubted)
            except CountersError as error:
                self._down(str(error))
            except Exception as fault:  # noqa: BLE001 - nobody else would ever try again
                self._down(f"cannot be tried ({type(fault).__name__})")
            else:
                await self._stay()
            self._settled.set()
            await asyncio.sleep(max(0.0, begun + PROBE - monotonic()))

    async def _open(self) -> None:
        """Find it, connect, make it count once; then it is up.  Raises `CountersError`."""
        try:
            async with asyncio.timeout(self._location.connect_patience):
                address = await self._find()
            async with asyncio.timeout(self._location.connect_patience):
                transport, kept = await self._door.connect(address)
        except TimeoutError:
            raise CountersError("cannot be reached in time") from None
        wire = Wire(self._loop, self._location.patience, self._late, self._lost)
        wire.take_over(transport, kept)
        try:
            await self._prove(wire)
        except BaseException:
            wire.close("it was not proven")
            raise
        self._ended.clear()
        self._wire, self.address = wire, address
        self._up()

    async def _revive(self, wire: Wire) -> None:
        """Make it count again on the connection that it has.  Raises `CountersError`: it needs another."""
        until = monotonic() + REVIVAL
        while True:
            try:
                reply = await _awaited(wire, self._probe(self))
                break
            except CountersError:
                if wire.over or monotonic() >= until:
                    self._doubted = None
                    wire.close("it was late")
                    raise
        self._doubted = None
        if isinstance(reply, ReplyError):
            wire.close("it was late")
            raise CountersError(refusal_of(reply).text)
        self._ended.clear()
        self._wire = wire
        self._up()

    async def _prove(self, wire: Wire) -> None:
        """Raises `CountersError` unless it counts."""
        commands = (_INFO, *_LOADS, self._probe(self))
        futures = [_awaited(wire, command) for command in commands]
        replies = await asyncio.gather(*futures, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, CountersError):
                raise reply
        information, *proofs = replies
        if self._location.kind != "cluster" and isinstance(information, bytes) and b"cluster_enabled:1" in information:
            raise CountersError(refusal_of("MOVED 0 :0").text)
        for reply in proofs:
            if isinstance(reply, ReplyError):
                refusal = refusal_of(reply)
                raise CountersError("is not the master of its slots" if refusal.kind == MOVED else refusal.text)

    async def _stay(self) -> None:
        """Until it has ended, look whether it is still where it should be."""
        self._settled.set()
        while not self._ended.is_set():
            try:
                async with asyncio.timeout(WATCH if self._moves else None):
                    await self._ended.wait()
            except TimeoutError:
                await self._look()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self._location.connect_patience):
                address = await self._find()
        except (CountersError, TimeoutError):
            return  # who cannot be asked says nothing against it
        if address != self.address:
            self.trip(f"is no longer the master, which is now {address}")

    # ── what is said ─────────────────────────────────────────────────────────────────────────

    def _late(self, wire: Wire, reason: str) -> None:
        if wire is self._wire:
            self._wire, self._doubted = None, wire
            self._down(reason)
            self._ended.set()

    def _lost(self, wire: Wire, reason: str) -> None:
        if wire is self._wire:
            self.trip(reason)

    def _up(self) -> None:
        _log.warning("counters are shared by Redis %s%s", self._name, " again" if self._said else "")
        self._said = ""
        if self._changed is not None:
            self._changed()

    def _down(self, reason: str) -> None:
        self.reason = f"Redis {self._name} {reason}"
        now = monotonic()
        if not self._said or (reason != self._said and now >= self._quiet_until):
            _log.error(
                "counters cannot be asked, each rule's on_fault decides until they can: Redis %s %s",
                self._name,
                reason,
            )
            self._said = reason
            self._quiet_until = now + _QUIET
        if self._changed is not None:
            self._changed()
