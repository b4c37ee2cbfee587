"""Several processes write to one stream: no line is cut into by another, whoever is killed in the middle of one."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.telemetry import events, turns
from gateway.telemetry.access import AccessLog
from gateway.telemetry.turns import make_lock, same_stream
from gateway.telemetry.writer import StreamWriter
from tests.telemetry.test_access import REQUEST

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
LOCKS = hasattr(os, "memfd_create") and Path("/proc/self/fd").exists()

pytestmark = pytest.mark.skipif(not LOCKS, reason="needs Linux' anonymous files")

#: Writes BATCHES batches of LINES lines of LENGTH bytes, each line of one letter.
WRITER = """
import sys
from gateway.telemetry.writer import StreamWriter

stream, lock, letter = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
batches, lines, length = map(int, sys.argv[4:])
writer = StreamWriter(stream, 1 << 30, "test", lock)
sys.stdin.readline()
for _ in range(batches):
    writer.write((letter * length + b"\\n") * lines, lines)
assert writer.close(60) and not writer.dropped
"""


@pytest.fixture
def lock() -> Iterator[int]:
    made = make_lock()
    assert made is not None
    yield made
    os.close(made)


def writing(stream: int, lock: int, letter: str, batches: int, lines: int, length: int) -> subprocess.Popen[bytes]:
    """Another process that is about to write; it begins with a line to its standard input."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, (stream, lock, letter, batches, lines, length))],
        cwd=ROOT, stdin=subprocess.PIPE, pass_fds=(stream, lock),
    )  # fmt: skip


def begin(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()


def read_on(descriptor: int, into: bytearray) -> threading.Thread:
    """Read until nobody writes any more, in a thread."""

    def read() -> None:
        with suppress(OSError):  # a terminal ends with an error
            while part := os.read(descriptor, 65536):
                into.extend(part)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.parametrize("stream", ["pipe", "file", "appended file", "terminal"])
def test_lines_of_several_processes_stay_whole(stream: str, lock: int, tmp_path: Path) -> None:
    received = bytearray()
    reader: threading.Thread | None = None
    file = tmp_path / "access.log"
    if stream == "pipe":
        source, target = os.pipe()
        reader = read_on(source, received)
    elif stream == "terminal":
        source, target = os.openpty()
        reader = read_on(source, received)
    else:
        append = os.O_APPEND if stream == "appended file" else 0
        source = target = os.open(file, os.O_WRONLY | os.O_CREAT | append)
    # Far more than a pipe takes at once; a terminal is slow.
    size = (10, 20, 500) if stream == "terminal" else (20, 300, 1000)
    processes = [writing(target, lock, letter, *size) for letter in "abc"]
    begin(*processes)
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    os.close(target)
    if reader is not None:
        reader.join(PATIENCE)
        os.close(source)
    else:
        received = bytearray(file.read_bytes())
    batches, lines, length = size
    found = received.replace(b"\r\n", b"\n").splitlines()
    assert len(found) == 3 * batches * lines
    assert {bytes(line) for line in found} == {letter * length for letter in (b"a", b"b", b"c")}


def test_a_process_that_is_killed_in_the_middle_of_a_line_spoils_no_other(lock: int) -> None:
    source, target = os.pipe()
    victim = writing(target, lock, "a", 1, 1000, 999)
    begin(victim)
    # Nobody reads: it fills the pipe, and is stuck in its turn.
    deadline = time.monotonic() + PATIENCE
    while _waiting(source) < 4096 and time.monotonic() < deadline:
        time.sleep(0.01)
    waiter = StreamWriter(target, 1 << 20, "test", lock)
    waiter.write(b"b" * 50_000 + b"\n", 1)
    assert not waiter.drain(0.2), "it is not its turn"
    victim.send_signal(signal.SIGKILL)
    victim.wait(PATIENCE)
    received = bytearray()
    reader = read_on(source, received)
    assert waiter.close(PATIENCE)
    os.close(target)
    reader.join(PATIENCE)
    os.close(source)
    *whole, cut, after = received.splitlines()
    assert set(map(bytes, whole)) <= {b"a" * 999}
    assert len(whole) > 3
    assert cut + b"a" * (999 - len(cut)) == b"a" * 999, "a part of a line, which ends there"
    assert after == b"b" * 50_000
    assert waiter.dropped == 0


def _open_locks() -> int:
    """How many descriptors of this process lead to the file of a lock."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            found += "postern-log" in str(link.readlink())
    return found


def _waiting(descriptor: int) -> int:
    """Bytes that wait to be read."""
    size = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, size)
    return size[0]


@pytest.mark.parametrize("shared", [True, False])
def test_a_line_that_a_full_disk_cut_off_ends_before_the_next(
    shared: bool, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = os.pipe()
    writer = StreamWriter(target, 1 << 20, "test", lock if shared else None)
    real, room = os.write, [6, 0, 100]

    def write(descriptor: int, data: memoryview) -> int:
        if descriptor != target:
            return real(descriptor, data)
        if not (space := room.pop(0) if room else 100):
            raise OSError(errno.ENOSPC, "full")
        return real(descriptor, data[:space])

    monkeypatch.setattr("gateway.telemetry.writer.os.write", write)
    for line in (b"one\n" * 2, b"two\n", b"three\n"):
        writer.write(line, line.count(b"\n"))
    assert writer.close(PATIENCE)
    os.close(target)
    received = bytearray()
    read_on(source, received).join(PATIENCE)
    os.close(source)
    assert received == b"one\non\ntwo\nthree\n"
    assert writer.dropped == 2


@pytest.mark.parametrize("call", ["flock", "pwrite"])
def test_a_lock_that_fails_costs_lines_that_are_counted(call: str, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = os.pipe()
    writer = StreamWriter(target, 1 << 20, "test", lock)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks left")

    with monkeypatch.context() as patched:
        patched.setattr(f"gateway.telemetry.turns.{'fcntl' if call == 'flock' else 'os'}.{call}", fail)
        writer.write(b"lost\n", 1)
        assert writer.drain(PATIENCE)
    writer.write(b"kept\n", 1)
    assert writer.close(PATIENCE)
    os.close(target)
    assert os.read(source, 100) == b"kept\n"
    os.close(source)
    assert writer.dropped == 1


def test_the_locks_file_is_let_go_of(lock: int) -> None:
    source, target = os.pipe()
    before = _open_locks()
    for use in (True, False):
        writer = StreamWriter(target, 1 << 20, "test", lock)
        if use:
            writer.write(b"x\n", 1)
        assert writer.close(PATIENCE)
        assert writer.close(PATIENCE)
        assert _open_locks() == before
    os.close(source)
    os.close(target)


def test_access_lines_and_events_of_one_stream_take_turns(lock: int) -> None:
    source, target = os.pipe()
    received = bytearray()
    reader = read_on(source, received)
    access = AccessLog(target, report=print, lock=lock)
    try:
        events.configure("json", descriptor=target, lock=lock, worker=3)
        logger = events.get_logger("test")
        for number in range(200):
            for _ in range(20):
                access.record(**{**REQUEST, "path": "/" + "x" * 500})
            access.flush()
            logger.info("event", number=number, text="y" * 5000)
        assert access.close(PATIENCE)
        assert events.flush(PATIENCE)
    finally:
        events.configure("auto", "warning")
    os.close(target)
    reader.join(PATIENCE)
    os.close(source)
    lines = [json.loads(line) for line in received.splitlines()]
    told = [line for line in lines if "event" in line]
    assert len(lines) - len(told) == 4000
    assert [line["number"] for line in told] == list(range(200))
    assert {line["worker"] for line in told} == {3}


@pytest.mark.parametrize("missing", ["memfd_create", "/proc"])
def test_without_what_it_takes_there_is_no_lock(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "/proc":
        monkeypatch.setattr(turns, "_opened_anew", lambda _: os.open("/nonexistent", os.O_RDONLY))
    else:
        monkeypatch.delattr(os, missing)
    before = _open_locks()
    assert make_lock() is None
    assert _open_locks() == before


def test_one_stream_under_two_descriptors_is_known() -> None:
    source, target = os.pipe()
    copy = os.dup(target)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    assert same_stream(target, copy)
    assert not same_stream(target, nowhere)
    assert not same_stream(target, 1 << 20)
    for descriptor in (source, target, copy, nowhere):
        os.close(descriptor)
