"""A stream that may block, behind a thread that may wait: nobody else ever does.

Standard output and standard error can be pipes that nobody reads.  A `StreamWriter` takes bytes in a plain
call, holds at most `limit` of them, and drops what comes beyond, counted.

Laws kept here: what is handed over at once is written in one piece, whoever else writes to the stream (`turns.py`); a
line that was cut off (the stream broke, its process was killed) spoils no other.
"""

from __future__ import annotations

import os
import select
import threading
import time
from queue import SimpleQueue

from gateway.telemetry.turns import turns

#: How long the writer waits for a descriptor that somebody made non-blocking, before it looks again.
_POLL_MS = 1000
_NEWLINE = ord("\n")


class StreamWriter:
    """Writes to a file descriptor from a thread of its own, started by the first write (so: after forking)."""

    def __init__(self, descriptor: int, limit: int, name: str, lock: int | None = None) -> None:
        """`limit` is the most that may wait, in bytes; `name` is the thread's.

        `lock` is the stream's where other processes write to it, too (`turns.make_lock`).  Raises OSError.
        """
        self._descriptor = descriptor
        self._limit = limit
        self._name = name
        self._turns = turns(lock)
        self._queue: SimpleQueue[tuple[bytes | bytearray, int] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._dropped = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Lines lost so far: the backlog was full, or the stream refused them."""
        return self._dropped

    def write(self, data: bytes | bytearray, lines: int) -> bool:
        """Hand over whole lines; returns False, and counts them as dropped, when there is no room.  Never waits."""
        with self._lock:
            if self._closed or self._waiting + len(data) > self._limit:
                self._dropped += lines
                return False
            self._waiting += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._queue.put((data, lines))
        return True

    def drain(self, timeout: float) -> bool:
        """Wait until all that was handed over is written, at most `timeout` seconds; True if it is."""
        deadline = time.monotonic() + timeout
        while self._waiting:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        return True

    def close(self, timeout: float) -> bool:
        """Take no more, and wait as `drain` does; a thread stuck in a write is left behind."""
        with self._lock:
            again, self._closed = self._closed, True
            thread = self._thread
        if thread is None:
            if not again:
                self._turns.close()
            return True
        self._queue.put(None)
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            data, lines = item
            if not self._write_all(data):
                with self._lock:
                    self._dropped += lines
            with self._lock:
                self._waiting -= len(data)
        self._turns.close()

    def _write_all(self, data: bytes | bytearray) -> bool:
        """Write it all in one turn, however slowly; False when the stream is gone or full."""
        try:
            cut = self._turns.take()
        except OSError:
            return False
        if cut:
            data = b"\n" + data
        written = self._write_on(data)
        if written:
            cut = data[written - 1] != _NEWLINE
        try:
            self._turns.give(cut)
        except OSError:
            return False
        return written == len(data)

    def _write_on(self, data: bytes | bytearray) -> int:
        """Write until all is written or the stream fails; returns how many bytes went out."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll(_POLL_MS)
            except OSError:
                # A closed pipe or a full disk: these lines are lost and counted; later ones may fare better.
                break
        return len(data) - len(rest)
