"""`make bench-kill`: `kill -9` of a random worker, again and again, under load.

Promised: only what was in flight on the worker that was killed fails, and no connection is refused.  To show it, each
worker is stopped (SIGSTOP) for the moment in which the kernel is asked who its clients are, and then killed: a failure
must belong to one of those connections, opened before and ended after that moment, or it has no excuse.  Also: each
worker is replaced, whoever replaces it serves the same configuration, and no counter of `/metrics` falls.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import machine
from bench.accounted import Clients, Failure, Ledger, Load, in_background
from bench.client import request
from bench.contestant import PATH
from bench.measure import Cores
from bench.processes import BenchError
from bench.sockets import clients_of, state
from bench.stage import Credentials, Gateway, gateway, nginx
from bench.verdict import EXIT_BROKE, Check, conclude
from bench.workers import config

KILLS = 30
INTERVAL = 10.0
WORKERS = 2
#: Seconds within which a killed worker is to be replaced.
RESPAWN = 1.0
_AT_ONCE = 5.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One worker's end: when, whose connections it had, and after how many seconds another served in its place."""

    pid: int
    at: float
    clients: frozenset[int]
    replaced_after: float


def kill(there: Gateway, victim: int, workers: int) -> Kill:
    """Kill a worker and wait for the next one.  Raises BenchError."""
    os.kill(victim, signal.SIGSTOP)
    until = time.monotonic() + _AT_ONCE
    while state(victim) not in ("T", "t") and time.monotonic() < until:
        time.sleep(0.001)
    at = time.monotonic()
    clients = frozenset(clients_of(victim, there.port))
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        serving = {one.pid for one in there.workers()}
        return victim not in serving and len(serving) == workers

    return Kill(victim, at, clients, there.wait_for(replaced, "another worker"))


def unexcused(failures: Sequence[Failure], kills: Sequence[Kill]) -> list[Failure]:
    """The failures that no killed worker explains."""
    return [
        one
        for one in failures
        if not any(one.port in each.clients and one.opened <= each.at <= one.ended for each in kills)
    ]


def fallen(before: dict[tuple[str, tuple[tuple[str, str], ...]], float],
           after: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> list[str]:  # fmt: skip
    """The counters that are less than they were, or gone."""
    counts = ("_total", "_count", "_bucket", "_sum")
    return [
        f"{name}{dict(labels)}"
        for (name, labels), value in before.items()
        if name.endswith(counts) and name.startswith("postern_") and after.get((name, labels), -1) < value
    ]


def trial(there: Gateway, workers: int, times: int, interval: float) -> tuple[list[Kill], list[str]]:
    """Kill so often; returns the kills, and the counters that fell.  Raises BenchError."""
    kills: list[Kill] = []
    fell: list[str] = []
    seen = there.metrics()
    for number in range(times):
        time.sleep(interval)
        victim = random.choice(there.workers()).pid
        kills.append(kill(there, victim, workers))
        now = there.metrics()
        fell += fallen(seen, now)
        seen = now
        hashes = {one.config_hash for one in there.workers()}
        if len(hashes) != 1:
            raise BenchError(f"the workers serve with {len(hashes)} configurations")
        print(f"kill {number + 1}: {len(kills[-1].clients)} clients, {kills[-1].replaced_after:.2f} s", flush=True)
    return kills, fell


def checks(ledger: Ledger, kills: Sequence[Kill], fell: Sequence[str]) -> list[Check]:
    """What was promised."""
    return [
        Check("failed requests that were not in flight on a killed worker", len(unexcused(ledger.failures, kills)), 0),
        Check("connections refused", ledger.refused, 0),
        Check(
            "seconds until a killed worker is replaced, the longest", max(one.replaced_after for one in kills), RESPAWN
        ),
        Check("counters that fell", len(fell), 0),
    ]


def run(options: argparse.Namespace) -> int:
    """Run the trial; returns the exit status.  Raises BenchError."""
    cores = Cores.choose()
    with tempfile.TemporaryDirectory(prefix="postern-kill-") as name:
        folder = Path(name)
        credentials = Credentials.make(folder)
        tokens = [request("GET", PATH, f"Authorization: Bearer {key.token}") for key in credentials.keys]
        with nginx(folder / "upstream", cores.others) as upstream:
            settings = config(upstream, options.workers, credentials)
            with gateway(folder / "gateway", settings, None) as there:
                there.wait_until_ready()
                load = Load(lambda: there.port, tokens, Clients(options.kept, options.fresh, options.pausing))
                with in_background(load) as ledger:
                    kills, fell = trial(there, options.workers, options.kills, options.interval)
                    time.sleep(1)
    lost = sum(len(one.clients) for one in kills)
    print(f"\n{ledger.answered:,} requests answered on {ledger.connections:,} connections; the killed workers had "
          f"{lost} clients, {len(ledger.failures)} requests failed: {dict(ledger.reasons())}")  # fmt: skip
    for one in unexcused(ledger.failures, kills):
        print(f"not excused: {one}")
    facts = {
        "machine": machine.describe(),
        "answered": ledger.answered,
        "connections": ledger.connections,
        "longest_seconds": ledger.longest,
        "failures": [asdict(one) for one in ledger.failures],
        "kills": [{**asdict(one), "clients": sorted(one.clients)} for one in kills],
        "fell": fell,
    }
    return conclude(checks(ledger, kills, fell), options.output, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.kill", description="Kill workers under load.")
    parser.add_argument("--kills", type=int, default=KILLS, help="how many workers [%(default)s]")
    parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds between two [%(default)s]")
    parser.add_argument("--workers", type=int, default=WORKERS, help="how many there are [%(default)s]")
    for kind, number in (("kept", 16), ("fresh", 8), ("pausing", 16)):
        parser.add_argument(f"--{kind}", type=int, default=number, help=f"{kind} clients [%(default)s]")
    parser.add_argument("--output", type=Path, help="write everything as JSON to this file")
    try:
        return run(parser.parse_args(arguments))
    except BenchError as error:
        print(f"the run broke: {error}", file=sys.stderr)
        return EXIT_BROKE


if __name__ == "__main__":
    sys.exit(main())
