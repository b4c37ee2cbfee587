"""Workers that are killed, reloaded and replaced while clients ask: small versions of `make bench-kill` and of
`make bench-reloads`, and by the same judges."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.accounted import Clients, Ledger, Load, in_background
from bench.client import request
from bench.contestant import PATH
from bench.kill import trial, unexcused
from bench.processes import Program, free_port
from bench.reloads import SPOILT, Reloading, rolling, versioned
from bench.stage import ROOT, Credentials, Gateway, gateway
from bench.workers import config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the judges ask Linux's /proc")

CLIENTS = Clients(kept=3, fresh=2, pausing=3)


@dataclass(frozen=True)
class Stage:
    """A place for gateways in front of an upstream that takes its time: something is always in flight."""

    folder: Path
    settings: dict[str, Any]
    requests: list[bytes]

    @contextmanager
    def gateway(self) -> Iterator[Gateway]:
        with gateway(self.folder / "gateway", versioned(self.settings, 0), None) as there:
            there.wait_until_ready()
            yield there

    @contextmanager
    def load(self, there: Gateway) -> Iterator[Ledger]:
        with in_background(Load(lambda: there.port, self.requests, CLIENTS)) as ledger:
            yield ledger
        assert ledger.answered > 0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    credentials = Credentials.make(tmp_path)
    port = free_port()
    arguments = [sys.executable, "-m", "bench.slow_upstream", "--port", str(port), "--concurrency", "64"]
    arguments += ["--seconds", "0.02"]
    upstream = Program.start(arguments, core=None, folder=ROOT, output=tmp_path / "upstream.log", environment={})
    try:
        upstream.wait_for(port)
        requests = [request("GET", PATH, f"Authorization: Bearer {key.token}") for key in credentials.keys[:10]]
        yield Stage(tmp_path, config(port, 2, credentials), requests)
    finally:
        upstream.stop()


def test_only_what_a_killed_worker_had_in_flight_fails(stage: Stage) -> None:
    with stage.gateway() as there, stage.load(there) as ledger:
        kills, fell = trial(there, 2, times=3, interval=0.5)
    assert len({one.pid for one in kills}) == 3
    assert not unexcused(ledger.failures, kills)
    assert ledger.refused == 0
    assert not fell


def test_reloads_and_graceful_restarts_fail_no_request(stage: Stage) -> None:
    with stage.gateway() as there:
        subject = Reloading(there, stage.settings)
        with stage.load(there) as ledger:
            for number in range(6):
                subject.reload()
                subject.bad(SPOILT[number % len(SPOILT)])
            for _ in range(3):
                subject.restart()
                subject.reload()
        assert there.end() == 0
    assert subject.version == 9
    assert subject.wrong == 0
    assert ledger.failures == []


def test_gateways_that_take_turns_behind_a_balancer_fail_no_request(stage: Stage) -> None:
    ledger = rolling(stage.folder, stage.settings, CLIENTS, stage.requests, times=1)
    assert ledger.failures == []
    assert ledger.answered > 0
