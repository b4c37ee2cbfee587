"""A load whose failures can be told apart, and who a killed worker's failures belong to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from bench.accounted import Clients, Failure, Ledger, Load, in_background
from bench.client import request
from bench.kill import Kill, checks, fallen, unexcused
from bench.sockets import clients_of, parse, state
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send

KINDS = {"kept": Clients(1, 0, 0), "fresh": Clients(0, 1, 0), "pausing": Clients(0, 0, 1)}


def answering(status: int, end: End) -> Script:
    lines = ["Content-Length: 2", *(["Connection: close"] if end is End.CLOSE else [])]
    return Script([Send(head(status, *lines) + b"ok")], end)


async def load_on(port: int, clients: Clients, enough: int) -> Ledger:
    """A load until so many requests have ended, well or not."""
    load = Load(lambda: port, [request("GET", "/")], clients)
    running = asyncio.create_task(load.run())
    async with asyncio.timeout(30):
        while load.ledger.answered + len(load.ledger.failures) < enough:
            await asyncio.sleep(0.01)
    load.stop()
    await running
    return load.ledger


@pytest.mark.parametrize("clients", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("end", [End.KEEP, End.CLOSE])
async def test_what_is_answered_is_no_failure(clients: Clients, end: End) -> None:
    async with RawServer(lambda _: answering(200, end)) as server:
        ledger = await load_on(int(server.url.rpartition(":")[2]), clients, 2)
    assert not ledger.failures
    assert ledger.answered >= 2
    assert ledger.longest > 0


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (answering(503, End.KEEP), "status 503"),
        (Script([], End.CLOSE), "closed"),
        (Script([Send(b"HTTP/1.1 200 OK\r\nContent-Le")], End.CLOSE), "cut"),
        (Script([], End.RESET), "ConnectionResetError"),
    ],
    ids=["status", "closed", "cut", "reset"],
)
async def test_what_is_not_answered_well_is_a_failure_with_its_connection(script: Script, why: str) -> None:
    ports: set[int] = set()

    def scripted(_: RawRequest) -> Script:
        return script

    async with RawServer(scripted) as server:
        ledger = await load_on(int(server.url.rpartition(":")[2]), KINDS["kept"], 2)
        ports = {one.port for one in ledger.failures}
    assert set(ledger.reasons()) == {why}
    assert 0 not in ports
    assert all(one.opened <= one.sent <= one.ended for one in ledger.failures)


async def test_a_connection_that_is_refused_is_counted(unused_tcp_port: int) -> None:
    ledger = await load_on(unused_tcp_port, KINDS["fresh"], 1)
    assert ledger.refused == len(ledger.failures) >= 1


def test_a_load_in_a_thread_is_over_when_its_block_ends() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with in_background(Load(lambda: port, [request("GET", "/")], KINDS["fresh"])) as ledger:
            until = time.monotonic() + 30
            while not ledger.failures and time.monotonic() < until:
                time.sleep(0.01)
    assert ledger.refused == len(ledger.failures)


def test_a_load_that_breaks_breaks_its_block() -> None:
    asked = threading.Event()

    def broken() -> int:
        asked.set()
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup), in_background(Load(broken, [], KINDS["fresh"])):
        assert asked.wait(30)


# ── whose fault ──────────────────────────────────────────────────────────────────────────────────

KILLED = Kill(17, 100.0, frozenset({4000, 4001}), 0.3)


@pytest.mark.parametrize(
    ("failure", "excused"),
    [
        (Failure("closed", 4000, 90.0, 99.9, 100.1), True),
        # It was sent when nobody was there any more: on a connection of that worker all the same.
        (Failure("closed", 4001, 90.0, 100.05, 100.1), True),
        (Failure("closed", 4002, 90.0, 99.9, 100.1), False),
        # A port is used again by a later connection.
        (Failure("closed", 4000, 100.2, 100.3, 100.4), False),
        (Failure("closed", 4000, 90.0, 99.0, 99.5), False),
        (Failure("refused", 0, 99.0, 99.0, 100.1), False),
    ],
)
def test_only_what_was_in_flight_on_a_killed_worker_is_excused(failure: Failure, excused: bool) -> None:
    assert (not unexcused([failure], [KILLED])) is excused


def test_the_verdict_on_kills() -> None:
    good = Ledger(answered=10, failures=[Failure("closed", 4000, 90.0, 99.9, 100.1)])
    assert [check.met for check in checks(good, [KILLED], [])] == [True, True, True, True]
    bad = Ledger(failures=[Failure("refused", 0, 1, 1, 1)])
    slow = Kill(18, 1.0, frozenset(), 1.5)
    assert [check.met for check in checks(bad, [KILLED, slow], ["a"])] == [False, False, False, False]


def test_counters_that_fall_are_told() -> None:
    labels = (("code", "200"),)
    before = {
        ("postern_http_requests_total", labels): 5.0,
        ("postern_denied_total", ()): 1.0,
        ("postern_connections", ()): 7.0,
        ("python_gc_collections_total", ()): 9.0,
    }
    same = {**before, ("postern_connections", ()): 1.0, ("python_gc_collections_total", ()): 1.0}
    assert fallen(before, same) == []
    less = {**before, ("postern_http_requests_total", labels): 4.0}
    del less["postern_denied_total", ()]
    assert fallen(before, less) == ["postern_http_requests_total{'code': '200'}", "postern_denied_total{}"]


# ── whose connections ────────────────────────────────────────────────────────────────────────────

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:1F40 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4 30 10 -1
   2: 0100007F:1F40 0100007F:C001 08 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1
   3: 0100007F:C000 0100007F:1F40 01 00000000:00000000 00:00000000 00000000     0        0 14 1 0 20 4 30 10 -1
   4: short
"""


def test_the_kernels_table_is_read() -> None:
    assert parse(TABLE, 8000) == {12: 0xC000, 13: 0xC001}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux's /proc")
def test_what_waits_to_be_accepted_is_nobodys() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(3)]
        accepted = stack.enter_context(server.accept()[0])
        assert clients_of(os.getpid(), port) == {accepted.getpeername()[1]}
        assert len(clients) == 3
    assert clients_of(os.getpid(), port) == set()
    assert state(os.getpid()) == "R"
