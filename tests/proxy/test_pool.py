"""What a pool hands over: connections that live, and an error for those that ended as they were opened."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from unittest.mock import Mock

import pytest

from gateway.proxy.pool import ConnectError, Pool
from gateway.proxy.upstream import Upstream
from gateway.snapshot import Origin


class Loop:
    """The running loop, but what happens to a connection before its opener hears of it is told here."""

    def __init__(self, *events: tuple[str, Any]) -> None:
        self._events = events
        self.create_task = asyncio.get_running_loop().create_task

    async def create_connection(self, factory: Any, host: str, port: int) -> tuple[Any, Any]:
        protocol = factory()
        transport = Mock(**{f"{name}.return_value": None for name in ("set_write_buffer_limits", "abort")})
        transport.is_closing.return_value = False
        protocol.connection_made(transport)
        for event, argument in self._events:
            getattr(protocol, event)(*argument)
        return transport, protocol


async def opened(*events: tuple[str, Any]) -> tuple[Pool, list[Upstream], list[BaseException]]:
    """A pool, and what it delivered of one connection."""
    pool = Pool(Origin("127.0.0.1", 9), cast(asyncio.AbstractEventLoop, Loop(*events)))
    connections: list[Upstream] = []
    errors: list[BaseException] = []
    pool.connect().then(connections.append, errors.append)
    for _ in range(5):
        await asyncio.sleep(0)
    return pool, connections, errors


async def test_a_connection_that_lives_is_handed_over() -> None:
    pool, connections, errors = await opened()
    assert (pool.connections, errors) == (set(connections), [])
    assert len(connections) == 1


@pytest.mark.parametrize(
    "events",
    [
        [("connection_lost", (ConnectionResetError(),))],
        [("eof_received", ())],
        [("eof_received", ()), ("connection_lost", (None,))],
        [("data_received", (b"SSH-2.0-nobody-asked\r\n",))],
    ],
)
async def test_one_that_ended_as_it_was_opened_is_an_error(events: list[tuple[str, Any]]) -> None:
    """Who wrote to it would wait for an answer until its deadline, and the pool would count it for ever."""
    pool, connections, (error,) = await opened(*events)
    assert connections == []
    assert isinstance(error, ConnectError)
    assert pool.connections == set()


async def test_what_is_given_back_is_read_from_again() -> None:
    """The last piece of a response may fill its client's buffer: the pause would be the next request's silence."""
    pool, (connection,), _ = await opened()
    transport = cast(Mock, connection.transport)
    transport.pause_reading.return_value = transport.resume_reading.return_value = None  # as the compiled code checks
    connection.pause()
    connection.release(0)
    assert pool.take() is connection
    assert [call[0] for call in transport.method_calls if call[0].endswith("_reading")] == [
        "pause_reading",
        "resume_reading",
    ]


async def test_what_is_given_up_or_closed_takes_no_room() -> None:
    pool, (connection,), _ = await opened()
    attempt = pool.connect()
    assert pool.busy == 2
    attempt.cancel()
    connection.close()
    assert pool.busy == 0
    await asyncio.sleep(0.01)
    assert (pool.busy, pool.connections) == (0, set())
