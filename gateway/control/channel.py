"""A channel: whole messages, in order, between two of our own processes over an inherited Unix stream socket.

A message is pickled (protocol 5) behind its length, four bytes, big-endian.  Both ends are the same program started
by the same hand, and the socket is a pair that nobody else can open: that is why unpickling is sound here and nowhere
else.  Everything that one turn of the loop sends leaves in one write.  The socket is read and written by plain calls
when the loop says that it is ready, without a transport, so that `poll` can read what has arrived before anybody is
judged to be silent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.core.errors import PosternError

_log = logging.getLogger("postern.control")

#: The largest message, in bytes: a configuration with a million keys is smaller.
LARGEST: Final = 256 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")
#: Bytes asked of the socket at once, and of one turn of the loop: nobody talks so much that others wait.
_AT_ONCE: Final = 256 * 1024
_A_TURN: Final = 4 * 1024 * 1024
#: Messages that one system call writes; the kernel takes 1024 at the most.
_BUFFERS: Final = 256


class ChannelError(PosternError):
    """A message that cannot be sent: it is larger than any may be."""


def frame(message: object) -> bytes:
    """A message as it travels.  Raises `ChannelError` where it is longer than `LARGEST`."""
    body = pickle.dumps(message, protocol=5)
    if len(body) > LARGEST:
        raise ChannelError(f"a {type(message).__name__} of {len(body)} bytes is larger than a message may be")
    return _LENGTH.pack(len(body)) + body


class Channel:
    """One end.  Belongs to the thread of its loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        received: Callable[[object], None],
        lost: Callable[[], None],
    ) -> None:
        """Take over `sock`.  `received(message)` is called for each message, `lost()` once, when the other end is gone
        or broke the framing (a partial message is dropped); neither is called any more after `close`."""
        self._loop = loop
        self._sock = sock
        self._received = received
        self._lost = lost
        self._open = True
        self._incoming = bytearray()
        self._outgoing: deque[bytes | memoryview] = deque()
        self._flushing = False
        self._writing = False
        sock.setblocking(False)
        self._descriptor = sock.fileno()
        loop.add_reader(self._descriptor, self._readable)

    @property
    def open(self) -> bool:
        """False once it is lost or closed."""
        return self._open

    def send(self, message: object) -> None:
        """Send a message, with whatever else this turn of the loop sends; on a lost channel it is dropped.

        Raises `ChannelError` where it is too large."""
        if self._open:
            self.send_frame(frame(message))

    def send_frame(self, data: bytes) -> None:
        """Send what `frame` made, as `send` does: one frame may go to many."""
        if not self._open:
            return
        self._outgoing.append(data)
        if not self._flushing and not self._writing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def poll(self) -> None:
        """Read all that has arrived by now, and hand it over before this returns."""
        while self._open and self._read(_A_TURN):
            pass

    def close(self) -> None:
        """Send what was given to `send` as far as the kernel takes it, and end; the other end is told by EOF."""
        if self._open:
            self._flush()
        self._end()

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def _readable(self) -> None:
        self._read(_A_TURN)

    def _read(self, most: int) -> bool:
        """Read up to `most` bytes and deliver what is whole; True if there may be more."""
        read = 0
        more = True
        while read < most:
            try:
                data = self._sock.recv(_AT_ONCE)
            except (BlockingIOError, InterruptedError):
                more = False
                break
            except OSError:
                data = b""  # reset: the other end is gone, which EOF says as well
            if not data:
                self._deliver()
                self._fail()
                return False
            self._incoming += data
            read += len(data)
        self._deliver()
        return more

    def _deliver(self) -> None:
        """Hand over the whole messages; whoever receives one may close the channel."""
        while self._open and len(self._incoming) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming)
            if length > LARGEST:
                _log.error("a message of %d bytes was announced between our processes: the link is given up", length)
                self._fail()
                return
            end = _LENGTH.size + length
            if len(self._incoming) < end:
                return
            body = bytes(memoryview(self._incoming)[_LENGTH.size : end])
            del self._incoming[:end]
            try:
                # Our own process wrote it, over a socket that has no name (see above).
                self._received(pickle.loads(body))  # noqa: S301
            except Exception:  # noqa: BLE001 - whatever it was, what it said has not been done
                # An order that was lost may be a revocation: closed rather than open (law 3).
                _log.exception("a message between our processes could not be taken: the link is given up")
                self._fail()
                return

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def _flush(self) -> None:
        """Write all that waits, as far as the kernel takes it; the rest when it takes more."""
        self._flushing = False
        while self._open and self._outgoing:
            try:
                sent = self._sock.sendmsg(list(itertools.islice(self._outgoing, _BUFFERS)))
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # What the other end had still said is read first; then EOF tells of its end.
                self._outgoing.clear()
                break
            while sent:
                first = self._outgoing.popleft()
                if sent < len(first):
                    self._outgoing.appendleft(memoryview(first)[sent:])
                    break
                sent -= len(first)
        if bool(self._outgoing) is not self._writing and self._open:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._descriptor, self._flush)
            else:
                self._loop.remove_writer(self._descriptor)

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def _fail(self) -> None:
        if self._open:
            self._end()
            self._lost()

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._descriptor)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._descriptor)
        self._outgoing.clear()
        self._incoming.clear()
        self._sock.close()
