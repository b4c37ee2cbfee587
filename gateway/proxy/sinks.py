"""Where the bytes of a body go: sinks with pause and resume.

A body's source (a connection) writes payload into a sink; a sink that has had enough calls
`source.pause()` and, when it can take more, `source.resume()`.  A sink takes payload, never framing.
The next sinks (a cache, a tunnel) have the same two methods.
"""

from __future__ import annotations

from typing import Final, Protocol

#: The most bytes of a request held while nobody can take them yet: a body before its decision, pipelined heads.
INBOX: Final = 64 * 1024

#: Write-buffer marks of every transport, in bytes: what a slow reader may cost us beside one read of its source.
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024


class Source(Protocol):
    """What a sink may ask of the connection that feeds it."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Sink(Protocol):
    """Takes a body: `last` is true with its final piece (which may be empty)."""

    def write(self, payload: bytes, last: bool) -> None: ...


class HoldSink:
    """Holds a body's beginning until somebody can take it; pauses its source at 64 KiB."""

    __slots__ = ("_pieces", "_source", "last", "paused", "size")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pieces: list[bytes] = []
        self.size = 0
        self.last = False
        self.paused = False

    def write(self, payload: bytes, last: bool) -> None:
        if payload:
            self._pieces.append(payload)
            self.size += len(payload)
        self.last = last
        if self.size > INBOX and not last and not self.paused:
            self.paused = True
            self._source.pause()

    def take(self) -> bytes:
        """All that was held; the source may go on."""
        held = b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        if self.paused:
            self.paused = False
            self._source.resume()
        return held


class DrainSink:
    """Reads a body and throws it away, so that the connection can carry the next request."""

    __slots__ = ("drained", "last")

    def __init__(self) -> None:
        self.drained = 0
        self.last = False

    def write(self, payload: bytes, last: bool) -> None:
        self.drained += len(payload)
        self.last = last
