"""The writer never makes anybody wait, loses only what it counts, and keeps the order."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gateway.telemetry.writer import StreamWriter

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        with suppress(OSError):
            os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)


def test_lines_arrive_in_order(pipe: Pipe) -> None:
    read, write = pipe
    writer = StreamWriter(write, 1024, "test")
    for number in range(5):
        assert writer.write(b"%d\n" % number, 1)
    assert writer.close(5)
    os.close(write)
    assert read_all(read) == b"0\n1\n2\n3\n4\n"
    assert writer.dropped == 0


def test_a_stuck_pipe_costs_lines_and_no_time(pipe: Pipe) -> None:
    read, write = pipe
    size = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)
    line = b"x" * 1023 + b"\n"
    limit = size + 8 * len(line)
    writer = StreamWriter(write, limit, "test")
    sent = 2 * limit // len(line)
    taken = sum(writer.write(line, 1) for _ in range(sent))
    assert 0 < taken < sent
    assert writer.dropped == sent - taken
    assert not writer.drain(0.01)

    received = bytearray()

    def read_on() -> None:
        received.extend(read_all(read))

    reader = threading.Thread(target=read_on)
    reader.start()
    assert writer.close(5)
    os.close(write)
    reader.join()
    assert bytes(received) == line * taken


def test_a_stuck_pipe_does_not_hold_up_the_end(pipe: Pipe) -> None:
    _, write = pipe
    writer = StreamWriter(write, 1 << 20, "test")
    writer.write(b"x" * (1 << 20), 1)
    assert not writer.close(0.05)
    os.close(pipe[0])


def test_a_closed_pipe_costs_lines_and_raises_nothing(pipe: Pipe) -> None:
    read, write = pipe
    os.close(read)
    writer = StreamWriter(write, 1024, "test")
    writer.write(b"a\nb\n", 2)
    assert writer.drain(5)
    assert writer.dropped == 2
    assert writer.close(5)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    read, write = pipe
    os.set_blocking(write, False)
    writer = StreamWriter(write, 1 << 20, "test")
    data = b"x" * (1 << 18)
    writer.write(data, 1)
    received = b""
    while len(received) < len(data):
        received += os.read(read, 65536)
    assert writer.close(5)
    assert received == data


def test_what_comes_after_the_end_is_counted(pipe: Pipe) -> None:
    writer = StreamWriter(pipe[1], 1024, "test")
    assert writer.close(1)
    assert not writer.write(b"late\n", 1)
    assert writer.dropped == 1
