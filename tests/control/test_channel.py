"""Messages between two of our processes: whole, in order, and the end told once."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control import channel as module
from gateway.control.channel import Channel, ChannelError, frame
from gateway.control.messages import Ack, Answered, Ask, Invalidate, Package, Prepare

PATIENCE = 30.0


class End:
    """One end of a channel, and what it heard."""

    def __init__(self, sock: socket.socket, react: Callable[[End, object], None] | None = None) -> None:
        self.heard: list[object] = []
        self.losses = 0
        self._react = react
        self.channel = Channel(asyncio.get_running_loop(), sock, self._received, self._lost)

    def _received(self, message: object) -> None:
        self.heard.append(message)
        if self._react is not None:
            self._react(self, message)

    def _lost(self) -> None:
        self.losses += 1

    async def hears(self, number: int) -> list[object]:
        async with asyncio.timeout(PATIENCE):
            while len(self.heard) < number:
                await asyncio.sleep(0.001)
        return self.heard

    async def loses(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.losses:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def linked(react: Callable[[End, object], None] | None = None) -> AsyncIterator[tuple[End, End]]:
    left, right = socket.socketpair()
    one, other = End(left), End(right, react)
    try:
        yield one, other
    finally:
        one.channel.close()
        other.channel.close()


@asynccontextmanager
async def raw() -> AsyncIterator[tuple[socket.socket, End]]:
    """A channel, and the bare socket at its other end."""
    left, right = socket.socketpair()
    end = End(right)
    try:
        yield left, end
    finally:
        left.close()
        end.channel.close()


SAID: list[object] = [
    Ack(7),
    Invalidate(3, (("key", "k1"), ("consumer", "c"))),
    Ask(1, b"pnpub_a.pnsec_b", "192.0.2.1"),
    Answered(1, ("identity", {"groups": ("a", "b")})),
    Prepare(1, Package("abc", os.urandom(3_000_000))),
    Ack(8),
]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_messages_arrive_whole_and_in_order_both_ways(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def talk() -> None:
        async with linked() as (one, other):
            for message in SAID:
                one.channel.send(message)
                other.channel.send(message)
            assert await other.hears(len(SAID)) == SAID
            assert await one.hears(len(SAID)) == SAID

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(talk())


async def test_what_one_turn_sends_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    with right:
        channel = Channel(asyncio.get_running_loop(), left, lambda _: None, lambda: None)
        right.setblocking(False)
        for number in range(5):
            channel.send(Ack(number))
        with pytest.raises(BlockingIOError):
            right.recv(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert right.recv(65536) == b"".join(frame(Ack(number)) for number in range(5))
        channel.close()


async def test_more_messages_than_one_system_call_takes() -> None:
    async with linked() as (one, other):
        for number in range(3000):
            one.channel.send(Ack(number))
        assert await other.hears(3000) == [Ack(number) for number in range(3000)]


async def test_a_reader_that_sleeps_loses_nothing() -> None:
    """The socket is full for a while: what waits is sent when there is room, in order."""
    left, right = socket.socketpair()
    one = End(left)
    big = [Package(str(number), os.urandom(400_000)) for number in range(10)]
    for message in big:
        one.channel.send(message)
    await asyncio.sleep(0.01)
    one.channel.send(Ack(1))
    other = End(right)
    assert await other.hears(11) == [*big, Ack(1)]
    one.channel.close()
    await other.loses()
    assert other.losses == 1
    assert not other.channel.open


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"", []),
        (frame(Ack(1)), [Ack(1)]),
        (frame(Ack(1)) + frame(Ack(2))[:-1], [Ack(1)]),
        (frame(Ack(1)) + b"\0\0", [Ack(1)]),
        (frame(Ack(1)) + struct.pack(">I", module.LARGEST + 1) + b"x" * 100, [Ack(1)]),
        (frame(Ack(1)) + struct.pack(">I", 5) + b"never" + frame(Ack(2)), [Ack(1)]),
    ],
    ids=["nothing", "one", "a partial message", "a partial length", "too long", "no pickle"],
)
async def test_the_end_is_told_once_and_half_a_message_never(said: bytes, heard: list[object]) -> None:
    async with raw() as (sock, end):
        sock.sendall(said)
        sock.close()
        await end.loses()
        assert end.heard == heard
        end.channel.send(Ack(9))
        end.channel.close()
        await asyncio.sleep(0.01)
        assert end.losses == 1


async def test_what_cannot_be_taken_ends_the_link() -> None:
    """An order that was not carried out may have been a revocation."""

    def refuse(_end: End, message: object) -> None:
        if message == Ack(2):
            raise ValueError("a defect")

    async with linked(refuse) as (one, other):
        for number in (1, 2, 3):
            one.channel.send(Ack(number))
        await other.loses()
        await one.loses()
        assert other.heard == [Ack(1), Ack(2)]


async def test_whoever_receives_may_close() -> None:
    async with linked(lambda end, _: end.channel.close()) as (one, other):
        one.channel.send(Ack(1))
        one.channel.send(Ack(2))
        await one.loses()
        assert (other.heard, other.losses) == ([Ack(1)], 0)


async def test_poll_reads_what_has_arrived_without_a_turn_of_the_loop() -> None:
    async with raw() as (sock, end):
        sock.sendall(frame(Ack(1)) + frame(Ack(2)))
        end.channel.poll()
        assert end.heard == [Ack(1), Ack(2)]
        end.channel.poll()
        sock.close()
        end.channel.poll()
        assert end.losses == 1


async def test_close_sends_what_was_given_before() -> None:
    left, right = socket.socketpair()
    one, other = End(left), End(right)
    one.channel.send(Ack(1))
    one.channel.close()
    assert await other.hears(1) == [Ack(1)]
    await other.loses()
    assert one.losses == 0


async def test_a_message_that_is_too_large_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    async with linked() as (one, other):
        with pytest.raises(ChannelError, match="is larger than a message may be"):
            one.channel.send(Package("x", bytes(2000)))
        one.channel.send(Ack(1))
        assert await other.hears(1) == [Ack(1)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=20), st.data())
def test_however_the_bytes_are_cut(sizes: list[int], data: st.DataObject) -> None:
    messages = [Package(str(number), bytes(size)) for number, size in enumerate(sizes)]
    stream = b"".join(map(frame, messages))

    async def read() -> list[object]:
        async with raw() as (sock, end):
            rest = stream
            while rest:
                cut = data.draw(st.integers(1, len(rest)))
                sock.sendall(rest[:cut])
                rest = rest[cut:]
                end.channel.poll()
            return end.heard

    with asyncio.Runner() as runner:
        assert runner.run(read()) == messages


def test_secrets_do_not_show() -> None:
    shown = repr([Ask(1, b"pnsec_x", "a"), Package("h", b"pnsec_x"), Answered(1, ("pnsec_x",))])
    assert "pnsec_x" not in shown
    assert pickle.loads(pickle.dumps(Ask(1, b"pnsec_x", "a"), protocol=5)) == Ask(1, b"pnsec_x", "a")
