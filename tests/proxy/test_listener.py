"""Sockets of several slots that share an address."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from gateway.core.errors import StartError
from gateway.proxy.listener import UNSENT, bind_slots


@contextmanager
def slots_of(host: str, port: int, slots: int) -> Iterator[list[list[socket.socket]]]:
    with ExitStack() as stack:
        opened = bind_slots(host, port, slots)
        for slot in opened:
            for sock in slot:
                stack.enter_context(closing(sock))
        yield opened


def addresses(host: str) -> set[str]:
    return {str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("slots", [1, 3])
def test_each_slot_has_its_own_sockets_at_one_port(host: str, slots: int) -> None:
    with slots_of(host, 0, slots) as opened:
        names = [[sock.getsockname() for sock in slot] for slot in opened]
        assert len(names) == slots
        assert all(each == names[0] for each in names)
        assert {name[0] for name in names[0]} == addresses(host)
        assert len({name[1] for name in names[0]}) == 1


def test_connections_are_spread_over_the_slots_and_wait_there() -> None:
    with slots_of("127.0.0.1", 0, 2) as opened, ExitStack() as clients:
        address = opened[0][0].getsockname()
        for _ in range(64):
            clients.enter_context(socket.create_connection(address, 30))
        # Of 64 connections none fall to one of two sockets once in 2 ** 63 times.
        for (sock,) in opened:
            assert select.select([sock], [], [], 30)[0] == [sock]


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
def test_accepted_sockets_are_those_of_a_listener_that_is_alone() -> None:
    with slots_of("127.0.0.1", 0, 2) as opened:
        for (sock,) in opened:
            assert sock.getsockopt(socket.IPPROTO_TCP, 25) == UNSENT
            assert not os.get_blocking(sock.fileno())
            assert not sock.get_inheritable()


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "in slots"])
def test_an_address_that_another_gateway_has_is_refused(shared: bool) -> None:
    with ExitStack() as stack:
        if shared:
            ((first,), _) = stack.enter_context(slots_of("127.0.0.1", 0, 2))
        else:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = first.getsockname()[1]
        with pytest.raises(StartError, match=f"127.0.0.1:{port}.*in use"):
            bind_slots("127.0.0.1", port, 2)


def test_an_address_that_was_left_a_moment_ago_can_be_had_again() -> None:
    with slots_of("127.0.0.1", 0, 2) as opened:
        address = opened[0][0].getsockname()
        with socket.create_connection(address, 30):
            ready, _, _ = select.select([sock for (sock,) in opened], [], [], 30)
            ready[0].accept()[0].close()  # we close first: TIME_WAIT is ours
    with slots_of("127.0.0.1", address[1], 2) as again:
        assert again[0][0].getsockname() == address


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StartError, match=r"nobody\.invalid.*not known"):
        bind_slots("nobody.invalid", 0, 1)
