"""One connection to Redis: the commands of one turn of the event loop leave in one write, answers are matched in order.

Laws:

* Every command that was taken is answered or fails, exactly once, in the order of asking.
* When a command has gone unanswered for `patience` seconds since it was written, all that waits fails.  The socket is
  looked at once more before that, since it may be this process that stood still.  Answers that come after all are
  counted off and dropped: none is ever taken for another's.
* No more than `AT_ONCE` commands are on their way: what else was asked is written when they are answered.  So a burst
  of ours, which takes Redis a while, is not mistaken for a Redis that does not answer.
* What may wait is bounded; beyond, a command is not taken.

The transport is opened, secured and authenticated elsewhere (`door.py`), and then taken over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from hiredis import ProtocolError, Reader

from gateway.core.errors import CountersError

#: Commands that were written and not answered yet.
AT_ONCE: Final = 128
#: Commands that may wait, written or not.
MOST_WAITING: Final = 16_384
#: Seconds between the first look at an answer that is late and the last.
_SECOND_LOOK: Final = 0.004


def packed(parts: Sequence[bytes]) -> bytes:
    """A command as Redis reads it: an array of strings."""
    lines = [b"*%d\r\n" % len(parts)]
    for part in parts:
        lines.append(b"$%d\r\n" % len(part))
        lines.append(part)
        lines.append(b"\r\n")
    return b"".join(lines)


class Asked:
    """A command, and who waits for its answer: the base of those who do."""

    __slots__ = ("command",)

    def __init__(self, command: bytes) -> None:
        self.command = command

    def answered(self, reply: Any) -> None:
        """Take the answer: what hiredis makes of it, an error reply as `hiredis.ReplyError`."""
        raise NotImplementedError

    def failed(self, error: CountersError) -> None:
        """No answer will come."""
        raise NotImplementedError


class Told(Asked):
    """A command whose answer, or fault, is told to one of two callbacks."""

    __slots__ = ("on_answer", "on_fault")

    def __init__(
        self, command: bytes, on_answer: Callable[[Any], None], on_fault: Callable[[CountersError], None]
    ) -> None:
        super().__init__(command)
        self.on_answer = on_answer
        self.on_fault = on_fault

    def answered(self, reply: Any) -> None:
        """To the first."""
        self.on_answer(reply)

    def failed(self, error: CountersError) -> None:
        """To the second."""
        self.on_fault(error)


class Ignored(Asked):
    """A command whose answer nobody waits for: if it did not work, the next one says so."""

    __slots__ = ()

    def answered(self, reply: Any) -> None:
        """Whatever it is."""

    def failed(self, error: CountersError) -> None:
        """Whatever came between."""


#: Stands for a command that was given up, until its answer has come.
_GIVEN_UP: Final = Ignored(b"")


class Wire:
    """See the module.  `late(wire, reason)` is told when all that waited was given up, and `lost(wire, reason)` once
    when the connection has ended, unless `close` ended it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        patience: float,
        late: Callable[[Wire, str], None],
        lost: Callable[[Wire, str], None],
    ) -> None:
        self._loop = loop
        self._patience = patience
        self._late = late
        self._lost = lost
        self._reader: Any = Reader()
        self._transport: Any = None
        #: The streams that opened the transport would close it when they are freed.
        self._kept: object = None
        #: Asked and not written yet; written and not answered yet.
        self._unwritten: deque[Asked] = deque()
        self._waiting: deque[Asked] = deque()
        #: Of those that wait for their answers, how many were given up.
        self._given_up = 0
        self._written = 0
        self._answered = 0
        #: For each write the number of commands written up to then, and when it was.
        self._writes: deque[tuple[int, float]] = deque()
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._suspect = -1
        self._over = False

    def take_over(self, transport: Any, kept: object) -> None:
        """Speak on `transport` from now on; `kept` is held as long."""
        self._transport = transport
        self._kept = kept
        transport.set_protocol(self)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over

    def ask(self, asked: Asked) -> None:
        """Send a command.  Raises `CountersError` if it is not taken."""
        if self._over:
            raise CountersError("the connection to Redis has ended")
        unwritten = self._unwritten
        if len(unwritten) >= MOST_WAITING - AT_ONCE:
            raise CountersError("too many requests wait for Redis")
        unwritten.append(asked)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def close(self, reason: str) -> None:
        """End the connection; what waits fails with `reason`."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        waiting = [*self._waiting, *self._unwritten]
        self._waiting.clear()
        self._unwritten.clear()
        error = CountersError(reason)
        for asked in waiting:
            asked.failed(error)

    def _end(self, reason: str) -> None:
        if not self._over:
            self.close(reason)
            self._lost(self, reason)

    def _flush(self) -> None:
        self._flushing = False
        unwritten, waiting = self._unwritten, self._waiting
        count = min(len(unwritten), AT_ONCE + self._given_up - len(waiting))
        if self._over or count <= 0:
            return
        commands: list[bytes] = []
        for _ in range(count):
            asked = unwritten.popleft()
            commands.append(asked.command)
            waiting.append(asked)
        self._written += count
        self._writes.append((self._written, monotonic()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience - _SECOND_LOOK, self._look)
        self._transport.write(b"".join(commands))

    def _look(self) -> None:
        """Whether the oldest write has waited too long: suspected first, and judged after the socket was read again."""
        self._timer = None
        writes = self._writes
        if not writes:
            return
        number, since = writes[0]
        left = since + self._patience - _SECOND_LOOK - monotonic()
        if left <= 0:
            if self._suspect == number:
                self._give_up(f"gave no answer within {self._patience * 1000:.0f} ms")
                return
            self._suspect = number
            left = _SECOND_LOOK
        self._timer = self._loop.call_later(left, self._look)

    def _give_up(self, reason: str) -> None:
        given_up = [*self._waiting, *self._unwritten]
        self._given_up = len(self._waiting)
        self._waiting = deque([_GIVEN_UP] * self._given_up)
        self._unwritten.clear()
        self._writes.clear()
        error = CountersError(reason)
        self._late(self, reason)
        for asked in given_up:
            asked.failed(error)

    # ── what the transport calls ─────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        """Match what came to what waits."""
        reader = self._reader
        try:
            reader.feed(data)
            reply = reader.gets()
            while reply is not False and not self._over:
                if not self._waiting:
                    self._end("answered what was not asked")
                    return
                asked = self._waiting.popleft()
                self._answered += 1
                if asked is _GIVEN_UP:
                    self._given_up -= 1
                else:
                    self._deliver(asked, reply)
                reply = reader.gets()
        except ProtocolError:
            self._end("does not speak Redis' protocol")
            return
        writes = self._writes
        while writes and writes[0][0] <= self._answered:
            writes.popleft()
        if self._unwritten and not self._flushing:
            self._flush()

    def _deliver(self, asked: Asked, reply: Any) -> None:
        try:
            asked.answered(reply)
        except Exception as fault:  # noqa: BLE001 - a fault in one request is not another's: it is told, and the rest go on
            self._loop.call_exception_handler({"message": "an answer of Redis could not be taken", "exception": fault})

    def eof_received(self) -> bool:
        """The server has closed its side; so do we."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        self._end("closed the connection" if error is None else f"broke the connection ({type(error).__name__})")
        self._kept = None

    def connection_made(self, transport: Any) -> None:
        """Nothing: the transport was taken over."""

    def pause_writing(self) -> None:
        """Nothing: what waits is bounded, and Redis has `patience` seconds to take it."""

    def resume_writing(self) -> None:
        """Nothing."""
