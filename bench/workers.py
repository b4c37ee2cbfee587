"""`make bench-workers`: what each further worker costs in memory.

The gateway is started with 1, 2, 3 … workers and the policies of `make bench`, measured idle, loaded over kept
connections until every worker has seen every key, and measured again.  What a worker costs is the growth of the
proportional memory of the whole tree (`bench.memory`) from one number of workers to the next: with two, the control
process and the nursery come along, so their difference to one is told and the promise is about each one after that.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestant import PER_HOUR, PER_MINUTE
from bench.measure import Cores, wrk
from bench.memory import Memory, memory, total
from bench.processes import BenchError
from bench.stage import Credentials, gateway, nginx
from bench.verdict import EXIT_BROKE, Check, conclude, table

MOST = 4
#: MiB that each worker may cost.
GOAL = 60.0
SECONDS = 5.0
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Weighed:
    """A gateway with so many workers: its tree, and the worker that takes most, idle and loaded."""

    workers: int
    idle: Memory
    loaded: Memory
    heaviest: Memory


def config(upstream: int, workers: int, credentials: Credentials) -> dict[str, Any]:
    """Keys, groups, limits: what `make bench` measures as Postern with everything on."""
    policies = {
        "correlation-id": {},
        "auth": {"any_of": ["api-key"]},
        "acl": {"allow": ["contentUser"]},
        "rate-limiting": {"limits": [f"{PER_MINUTE}/minute", f"{PER_HOUR}/hour"], "by": "credential"},
    }
    route = {"name": "content-read", "paths": ["/content/v1/read"], "policies": policies}
    return {
        "workers": workers,
        "services": [{"name": "lms", "url": f"http://127.0.0.1:{upstream}", "routes": [route]}],
        "consumers": credentials.consumers(),
    }


def weigh(folder: Path, upstream: int, workers: int, seconds: float, cores: Cores, credentials: Credentials) -> Weighed:
    """Start it, measure, load, measure, end it.  Raises BenchError."""
    with gateway(folder, config(upstream, workers, credentials), cores.proxy) as there:
        there.wait_until_ready()
        idle = total(there.program.tree)
        # Many connections, so that the kernel gives each worker its part of them.  First every key is verified, beside
        # busy workers: what that takes is not what is measured.
        for _ in range(2):
            result = wrk(there.port, credentials.tokens, seconds, cores.others, connections=32 * workers)
        if result["bad_status"] or result["broken"]:
            raise BenchError(f"{result['bad_status']:.0f} bad answers, {result['broken']:.0f} broken connections")
        serving = [one.pid for one in there.workers()]
        if len(serving) != workers:
            raise BenchError(f"{len(serving)} workers serve, {workers} were asked for")
        heaviest = max((memory(one) for one in serving), key=lambda each: each.resident)
        return Weighed(workers, idle, total(there.program.tree), heaviest)


def checks(found: Sequence[Weighed]) -> list[Check]:
    """The promise about each worker after the second; of the second one's company only the figure."""
    judged: list[Check] = []
    for before, after in pairwise(found[1:]):
        for state, more in (("idle", after.idle.proportional - before.idle.proportional),
                            ("loaded", after.loaded.proportional - before.loaded.proportional)):  # fmt: skip
            judged.append(Check(f"worker number {after.workers}, {state}", more / _MIB, GOAL, " MiB"))
    heaviest = max((one.heaviest.unique for one in found if one.workers > 1), default=0)
    judged.append(Check("the heaviest worker's own memory", heaviest / _MIB if heaviest else None, GOAL, " MiB"))
    return judged


def run(options: argparse.Namespace) -> int:
    """Measure it; returns the exit status.  Raises BenchError."""
    cores = Cores.choose()
    found: list[Weighed] = []
    with tempfile.TemporaryDirectory(prefix="postern-workers-") as name:
        folder = Path(name)
        credentials = Credentials.make(folder)
        with nginx(folder / "upstream", cores.others) as upstream:
            for workers in range(1, options.most + 1):
                place = folder / f"gateway-{workers}"
                found.append(weigh(place, upstream, workers, options.seconds, cores, credentials))
                print(f"{workers} measured", flush=True)
    header = ["workers", "MiB idle", "MiB loaded", "more, loaded", "heaviest RSS", "heaviest PSS", "heaviest USS"]
    rows: list[list[object]] = []
    for number, one in enumerate(found):
        more = one.loaded.proportional - found[number - 1].loaded.proportional if number else 0
        sizes = [one.idle.proportional, one.loaded.proportional, more]
        sizes += [one.heaviest.resident, one.heaviest.proportional, one.heaviest.unique]
        rows.append([one.workers, *(size / _MIB for size in sizes)])
    print(table(header, rows))
    facts = {
        "machine": machine.describe(),
        "cores": os.cpu_count(),
        "rows": [dict(zip(header, row, strict=True)) for row in rows],
    }
    return conclude(checks(found), options.output, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.workers", description="What each further worker costs in memory.")
    parser.add_argument("--most", type=int, default=MOST, help="up to how many workers [%(default)s]")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of the load [%(default)s]")
    parser.add_argument("--output", type=Path, help="write everything as JSON to this file")
    try:
        return run(parser.parse_args(arguments))
    except BenchError as error:
        print(f"the run broke: {error}", file=sys.stderr)
        return EXIT_BROKE


if __name__ == "__main__":
    sys.exit(main())
