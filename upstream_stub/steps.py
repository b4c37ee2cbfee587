"""Answers as a script of steps, and the player that performs one on a transport.

Law: a step is a plain value; only `play` touches a socket, and it stops as soon as the peer has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

#: What may wait in the transport before `play` pauses, in bytes.
HIGH_WATER = 1 << 20
_SLICE = 0.02


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Until:
    """Do nothing until somebody sets this event."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Repeat:
    """Perform `steps` so many times; 0 is without end."""

    steps: tuple[Send | Wait | Until, ...]
    count: int = 0


class End(Enum):
    """What becomes of the connection after the last step."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


Step = Send | Wait | Until | Repeat


@dataclass(frozen=True, slots=True)
class Script:
    """Steps, and how the connection ends."""

    steps: Sequence[Step]
    end: End = End.CLOSE


def reset(transport: asyncio.Transport) -> None:
    """Drop a connection so that the peer sees RST, not FIN; what waits to be written is lost."""
    opened = transport.get_extra_info("socket")
    # A transport that has closed already has no descriptor left (uvloop: ValueError, not OSError).
    if opened is not None and opened.fileno() != -1 and opened.family in (socket.AF_INET, socket.AF_INET6):
        # The peer may have reset the connection before us: then there is nothing left to set.
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _wait(transport: asyncio.Transport, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    # A transport that another protocol owns tells nobody when it closes, so it is asked (here and below).
    while not transport.is_closing() and (left := until - loop.time()) > 0:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(min(left, 0.1))


async def _perform(transport: asyncio.Transport, step: Send | Wait | Until) -> None:
    if isinstance(step, Until):
        await step.event.wait()
        return
    if isinstance(step, Wait):
        await _wait(transport, step.seconds)
        return
    transport.write(step.data)
    while transport.get_write_buffer_size() > HIGH_WATER and not transport.is_closing():  # noqa: ASYNC110 - as above
        await asyncio.sleep(_SLICE)


async def play(script: Script, transport: asyncio.Transport) -> None:
    """Perform a script on a transport and end the connection as it says; returns early when the peer leaves."""
    for step in script.steps:
        if isinstance(step, Repeat):
            done = 0
            while not transport.is_closing() and (not step.count or done < step.count):
                for inner in step.steps:
                    await _perform(transport, inner)
                done += 1
                await asyncio.sleep(0)
        elif not transport.is_closing():
            await _perform(transport, step)
    if script.end is End.HANG:
        await _wait(transport, float("inf"))
    elif script.end is End.CLOSE:
        transport.close()
    elif script.end is End.RESET:
        # What was written must leave before the reset, or the peer sees none of it.
        while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110 - as above
            await asyncio.sleep(_SLICE)
        reset(transport)
