"""The load generator counts from when a request was due, and `/proc` is read right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.open_loop import Generator, percentile
from bench.processes import BenchError, Program, cpu_of, free_port, memory_of, tree
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send, Wait

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 99, 0.0),
        ([5000], 99, 5.0),
        ([3000, 1000, 2000, 4000], 50, 2.0),
        ([3000, 1000, 2000, 4000], 75.1, 4.0),
        (list(range(1000, 101_000, 1000)), 99, 99.0),
        ([1000, 2000], 100, 2.0),
    ],
)
def test_percentile(values: list[int], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


async def test_every_due_request_is_sent_and_counted() -> None:
    async with RawServer() as server:
        result = await Generator([REQUEST], rate=200, seconds=0.5, warm_up=0.1, connections=4).run(server.port)
    assert result["broken"] == result["refused"] == 0
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["max_us"]
    assert len(server.requests) > 50


async def test_a_stall_is_felt_by_all_that_it_delays() -> None:
    def once_slow(request: RawRequest) -> Script:
        answer = Send(head(200, "Content-Length: 2") + b"ok")
        return Script([Wait(0.3), answer] if len(server.requests) == 1 else [answer], End.KEEP)

    async with RawServer(once_slow) as server:
        result = await Generator([REQUEST], rate=100, seconds=0.5, warm_up=0, connections=1).run(server.port)
    # One answer took 300 ms; the thirty requests that were due meanwhile waited for it, half of them over 150 ms.
    assert result["p50_us"] > 10_000
    assert result["max_us"] > 250_000


async def test_a_wrong_status_is_counted() -> None:
    refusing = Script([Send(head(503, "Content-Length: 0"))], End.KEEP)
    async with RawServer(lambda _: refusing) as server:
        result = await Generator([REQUEST], rate=100, seconds=0.2, warm_up=0, connections=2).run(server.port)
    assert result["refused"] > 0


def test_the_account_of_a_process_tree() -> None:
    spent = "sum(i * i for i in range(3_000_000)); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spent!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as process:
        try:
            found = tree(process.pid)
            while len(found) < 2 or cpu_of(found).user < 0.02:
                found = tree(process.pid)
                assert process.poll() is None
            assert memory_of(found) > 1 << 20
        finally:
            process.communicate(b"\n")
    assert os.getpid() not in found
    assert cpu_of([process.pid]).user == 0


def test_a_program_that_does_not_serve_says_why(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", "raise SystemExit('no luck today')"]
    program = Program.start(arguments, core=None, folder=tmp_path, output=tmp_path / "out", environment={})
    with pytest.raises(BenchError, match="no luck today"):
        program.wait_for(free_port(), 30)
    program.stop()
