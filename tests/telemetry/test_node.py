"""The node's metrics: workers are asked when somebody looks, and counted when they are replaced."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gateway.telemetry.metrics import Metrics
from gateway.telemetry.node import NodeMetrics
from gateway.telemetry.states import TargetStatus
from gateway.telemetry.usage import Usage, usage_of
from tests.telemetry.test_deltas import Worker, always

REQUESTS = "postern_http_requests_total"


async def nobody() -> None:
    """Ask nobody."""


async def test_who_looks_has_the_workers_report_first() -> None:
    workers = {number: Worker() for number in (1, 2, 3)}

    async def ask() -> None:
        for number, worker in workers.items():
            node.reported(number, worker.told())

    node = NodeMetrics(Metrics(), ask)
    for worker in workers.values():
        worker.serve(5)
        worker.metrics.gauge("postern_connections", ("side", "state"), always({("downstream", "idle"): 2}))
        worker.targets = [TargetStatus("lms", "http://a", worker is not workers[2])]
    assert node.read().values[REQUESTS] == {}
    await node.fresh()
    reading = node.read()
    assert sum(reading.values[REQUESTS].values()) == 15
    assert reading.values["postern_connections"] == {("downstream", "idle"): 6}
    assert node.connections(2) == 2
    assert node.targets() == [TargetStatus("lms", "http://a", False)]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([], (0, 0, 0)),
        (["crashed"], (1, 0, 0)),
        (["crashed", "silent", "restarted", "restarted", "stopped"], (1, 1, 2)),
    ],
)
def test_those_that_are_replaced_are_counted(reasons: list[str], expected: tuple[int, ...]) -> None:
    node = NodeMetrics(Metrics(), nobody)
    for number, reason in enumerate(reasons):
        worker = Worker()
        worker.serve()
        node.reported(number, worker.told())
        node.gone(number, reason)
    values = node.read().values
    assert values["postern_worker_restarts_total"] == dict(
        zip([("crashed",), ("silent",), ("restarted",)], expected, strict=True)
    )
    assert sum(values[REQUESTS].values()) == len(reasons)


@pytest.mark.skipif(usage_of(os.getpid()) is None, reason="needs /proc")
def test_a_process_that_does_not_report_is_looked_at() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    node = NodeMetrics(Metrics(), nobody, lambda: [sleeper.pid, 2**22 + 1])
    others = node.read().others
    assert others is not None
    assert others.resident > 0
    sleeper.communicate(b"\n")
    after = node.read().others
    assert after is not None
    assert after == Usage(after.cpu, 0, 0, 0)
    assert after.cpu >= others.cpu
