"""What the listener does for many clients at once, and against those that do not read."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from gateway.proxy.listener import UNSENT
from tests.integration.gateways import eventually, get, proxied, running_gateway
from upstream_stub.misbehaviours import head
from upstream_stub.steps import End, Script, Send


async def test_a_crowd_is_accepted_in_a_few_turns_of_the_loop() -> None:
    """One a turn would let it wait for as many turns as it has members, and under load a turn is long."""
    async with running_gateway("services: []") as gateway:
        crowd = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(300)]
        turns = 0
        while len(gateway.plane.downstreams) < len(crowd):
            await asyncio.sleep(0)
            turns += 1
        for opened in crowd:
            opened.close()
        assert turns < 50


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
async def test_little_is_held_for_a_client_that_does_not_read() -> None:
    body = Script([Send(head(200, "Content-Length: 8000000") + bytes(8_000_000))], End.HANG)
    async with proxied(lambda _: body) as (_, gateway):
        client = await gateway.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
        client.send(get())
        await eventually(lambda: any(one._blocked for one in gateway.plane.downstreams))
        (downstream,) = gateway.plane.downstreams
        assert downstream.transport is not None
        sock = downstream.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, 25) == UNSENT
        # What was read at once, beside the mark.
        assert downstream.transport.get_write_buffer_size() < 384 * 1024
        client.reset()
