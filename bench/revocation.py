"""`make revocation-trials`: a thousand keys, each used without pause on every worker and revoked meanwhile.

From the moment at which a revocation has been answered, no request that is sent is admitted, by any worker.  How it is
tried is told in `bench.trials`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.measure import Cores
from bench.open_loop import percentile
from bench.processes import BenchError
from bench.stage import Gateway, gateway, nginx
from bench.trials import Findings, trials
from bench.verdict import EXIT_BROKE, Check, conclude, table
from gateway.core.errors import PosternError

TRIALS = 1_000
WORKERS = 3
_CONSUMER = "mobile_app"


def config(upstream: int, workers: int) -> dict[str, Any]:
    """The gateway's configuration."""
    policies = {"auth": {"any_of": ["api-key"]}, "acl": {"allow": ["contentUser"]}}
    route = {"name": "all", "paths": ["/"], "policies": policies}
    return {
        "workers": workers,
        "services": [{"name": "lms", "url": f"http://127.0.0.1:{upstream}", "routes": [route]}],
        "consumers": [{"username": _CONSUMER, "groups": ["contentUser"]}],
    }


async def measure(there: Gateway, number: int, workers: int) -> Findings:
    """Try so many revocations.  Raises BenchError."""
    control = there.log.parent / "data" / "control.sock"
    async with trials(there.port, there.status, control, _CONSUMER, workers) as running:
        try:
            await running.workers()
            return await running.run(number)
        except (TimeoutError, PosternError) as error:
            raise BenchError(f"it does not go on: {error!r}") from error


def checks(found: Findings, wanted: int) -> list[Check]:
    """What is promised."""
    return [
        Check("requests admitted after the revocation's answer", len(found.violations), 0),
        Check("revocations tried", found.trials, wanted, at_least=True),
    ]


def run(options: argparse.Namespace) -> int:
    """Try it; returns the exit status.  Raises BenchError."""
    cores = Cores.choose()
    with tempfile.TemporaryDirectory(prefix="postern-revocation-") as name:
        folder = Path(name)
        with (
            nginx(folder / "upstream", cores.others) as upstream,
            gateway(folder / "gateway", config(upstream, options.workers), None) as there,
        ):
            found = asyncio.run(measure(there, options.trials, options.workers))
    nanoseconds = [int(seconds * 1e9) for seconds in found.seconds]
    spread = [percentile(nanoseconds, share) / 1000 for share in (50, 99, 100)]
    header = ["trials", "workers", "requests", "admitted after", "answer ms p50", "p99", "longest", "replaced"]
    row = [found.trials, options.workers, found.answered, len(found.violations), *spread, found.replaced]
    print(table(header, [row]))
    for violation in found.violations[:20]:
        print(violation)
    facts = {
        "machine": machine.describe(),
        "workers": options.workers,
        "requests": found.answered,
        "answer_ms": dict(zip(("p50", "p99", "longest"), spread, strict=True)),
        "replaced": found.replaced,
    }
    return conclude(checks(found, options.trials), options.output, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.revocation", description="What a revocation's answer is worth.")
    parser.add_argument("--trials", type=int, default=TRIALS, help="how many [%(default)s]")
    parser.add_argument("--workers", type=int, default=WORKERS, help="how many processes serve [%(default)s]")
    parser.add_argument("--output", type=Path, help="write everything as JSON to this file")
    try:
        return run(parser.parse_args(arguments))
    except BenchError as error:
        print(f"the run broke: {error}", file=sys.stderr)
        return EXIT_BROKE


if __name__ == "__main__":
    sys.exit(main())
