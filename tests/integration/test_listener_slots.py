"""Sockets of a slot in several hands: what waits in them is served by whoever holds them next."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from gateway.proxy.listener import Listener, bind_slots
from tests.integration.gateways import PATIENCE, Client, Gateway, eventually, get, running_gateway


def started(sock: socket.socket, data: bytes) -> socket.socket:
    """A connection that the kernel has accepted, with a request on it; it does not wait for the loop."""
    client = socket.create_connection(sock.getsockname(), PATIENCE)
    client.sendall(data)
    client.setblocking(False)
    return client


async def answer_on(sock: socket.socket) -> tuple[int, str]:
    """`(status, Connection)` of the answer to what was sent before."""
    async with Client(*await asyncio.open_connection(sock=sock)) as client:
        response = await client.response()
        return response.status, response.headers.get("connection", "")


@asynccontextmanager
async def listening(gateway: Gateway, sock: socket.socket) -> AsyncIterator[Listener]:
    """A listener on a slot's socket, as each worker has one."""
    listener = Listener(gateway.plane, "127.0.0.1", 0, sockets=[sock.dup()])
    await listener.start()
    assert listener.port == sock.getsockname()[1]
    try:
        yield listener
    finally:
        listener.stop_accepting()


async def test_a_slot_passes_from_hand_to_hand_and_loses_no_connection() -> None:
    ((slot,),) = bind_slots("127.0.0.1", 0, 1)
    with closing(slot):
        async with running_gateway("services: []") as gateway:
            waiting: list[socket.socket] = []
            for _ in range(3):
                async with listening(gateway, slot):
                    waiting.append(started(slot, get()))
                # Between two holders: the kernel keeps it.
                waiting.append(started(slot, get()))
            async with listening(gateway, slot):
                assert [(await answer_on(client))[0] for client in waiting] == [404] * 6


async def test_two_that_hold_a_slot_at_a_time_do_not_disturb_each_other() -> None:
    """A graceful restart: the next worker accepts before the one before it stops."""
    ((slot,),) = bind_slots("127.0.0.1", 0, 1)
    with closing(slot):
        async with running_gateway("services: []") as old, running_gateway("services: []") as new:
            async with listening(old, slot) as first, listening(new, slot):
                first.pause()
                assert (await answer_on(started(slot, get())))[0] == 404
                await eventually(lambda: new.records)
                first.resume()
                first.stop_accepting()
                for _ in range(10):
                    assert (await answer_on(started(slot, get())))[0] == 404
            assert len(new.records) >= 11


async def test_who_takes_a_slot_makes_no_other_holder_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a socket blocks is a matter of all that hold it: who accepts from an empty one would stand still."""
    ((slot,),) = bind_slots("127.0.0.1", 0, 1)
    blocked: list[bool] = []
    dup = socket.socket.dup

    def noted(sock: socket.socket) -> socket.socket:
        duplicate = dup(sock)
        blocked.append(os.get_blocking(duplicate.fileno()))
        return duplicate

    with closing(slot):
        # As a process has it that was given a descriptor.
        inherited = socket.socket(fileno=os.dup(slot.fileno()))
        async with running_gateway("services: []") as gateway:
            listener = Listener(gateway.plane, "127.0.0.1", 0, sockets=[inherited])
            monkeypatch.setattr(socket.socket, "dup", noted)
            await listener.start()
            listener.pause()
            listener.resume()
            assert (await answer_on(started(slot, get())))[0] == 404
            listener.stop_accepting()
    assert len(blocked) >= 2
    assert not any(blocked)


async def test_who_stops_for_good_serves_what_the_kernel_has_accepted() -> None:
    async with running_gateway("services: []") as gateway:
        gateway.listener.pause()  # the loop accepts none of them
        clients = [socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) for _ in range(200)]
        for client in clients:
            client.sendall(get())
            client.setblocking(False)
        gateway.listener.stop_accepting()
        draining = asyncio.create_task(gateway.plane.drain(PATIENCE))
        assert [await answer_on(client) for client in clients] == [(404, "close")] * 200
        assert await draining
        with pytest.raises(ConnectionRefusedError):
            await gateway.connect()
