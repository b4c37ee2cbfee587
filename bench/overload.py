"""`make bench-overload`: twice what the gateway can do, in three shapes, and whether it survives it well.

`kept`: 2,000 kept-alive connections; `fresh`: a new connection for each request; `slow`: a service of bounded
concurrency behind the gateway, asked for twice what it can do.  Each shape: capacity by a closed loop, then half of
that, twice that and half of that again, without a gap.  Wanted: what is served under overload is at least 85 % of
capacity, latency bounded, refusals well-formed 503s, and normal latency again within five seconds.  The latencies
that are promised count from when a request had a connection (the kernel's refusing to connect is in nobody's hands);
how long it took to recover, from when it was due.

The gateway and nginx share one core and the generator has the other, so that the generator can offer twice what
the gateway can do.  Exit status: 0 when all is met, 1 when not, 3 when it broke.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestant import PATH, PER_HOUR, PER_MINUTE
from bench.measure import Cores, wrk
from bench.processes import BenchError, Program, free_port, pinned, raise_descriptors
from bench.stage import ROOT, Credentials, Gateway, gateway, known, nginx
from bench.verdict import EXIT_BROKE, Check, conclude, table
from gateway.config.model import Config
from gateway.config.services import Service

SHAPES = ("kept", "fresh", "slow")
#: Of the slow service: requests at once, and seconds each.
CONCURRENCY, SECONDS_EACH = 32, 0.05
#: How long a request may wait for its turn before it is refused, in seconds.
MAX_WAIT = 1.0
#: What a served request may take at the 99th percentile, and a refused one: their wait, and a second.
BOUND_MS = (MAX_WAIT + 1) * 1000
SERVED, RECOVERED = 0.85, 5.0

_BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br",
    "Cookie: session=2f6c1e0b7d9a4c3e8f5a6b7c8d9e0f1a; theme=light; consent=necessary",
    "Referer: http://127.0.0.1/content/v1/read",
)


def config(upstream: int, slow: int, consumers: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The gateway's configuration, and the names of the settings that this version has not."""
    left_out: list[str] = []
    policies = {
        "correlation-id": {},
        "auth": {"any_of": ["api-key"]},
        "acl": {"allow": ["contentUser"]},
        "rate-limiting": {"limits": [f"{PER_MINUTE}/minute", f"{PER_HOUR}/hour"], "by": "credential"},
    }
    bounded = known(Service, {"max_connections": CONCURRENCY}, left_out)

    def service(name: str, port: int, path: str, **settings: Any) -> dict[str, Any]:
        route = {"name": name, "paths": [path], "policies": policies}
        return {"name": name, "url": f"http://127.0.0.1:{port}", "routes": [route], **settings}

    return {
        **known(Config, {"overload": {"max_wait": f"{MAX_WAIT:g}s"}}, left_out),
        "services": [service("lms", upstream, "/content/v1/read"), service("slow", slow, "/reports", **bounded)],
        "consumers": consumers,
    }, left_out


class Shape:
    """One shape of overload against a running gateway."""

    def __init__(self, name: str, seconds: float, there: Gateway, tokens: Path, cores: Cores, connections: int) -> None:
        self.name = name
        self._seconds = seconds
        self._there = there
        self._tokens = tokens
        self._cores = cores
        self._connections = connections
        self._path = "/reports/1" if name == "slow" else PATH

    def capacity(self) -> float:
        """Requests a second of a closed loop; of the slow service what its concurrency allows."""
        if self.name == "slow":
            return CONCURRENCY / SECONDS_EACH
        lines = [*_BROWSER, *(["Connection: close"] if self.name == "fresh" else [])]
        best = 0.0
        for _ in range(2):
            done = wrk(self._there.port, self._tokens, min(5, self._seconds), self._cores.others, lines=lines)
            self._there.trim_log()
            best = max(best, done["requests"] / done["seconds"])
        return best

    def flood(self, capacity: float) -> dict[str, Any]:
        """Half of the capacity, twice, and half again.  Raises BenchError."""
        phases = [(capacity / 2, self._seconds / 3), (capacity * 2, self._seconds), (capacity / 2, 10.0)]
        arguments = [sys.executable, "-m", "bench.flood", "--port", str(self._there.port), "--keys", str(self._tokens)]
        arguments += ["--path", self._path, "--connections", str(8000 if self.name == "fresh" else self._connections)]
        for rate, seconds in phases:
            arguments += ["--phase", f"{rate:.0f}:{seconds:.2f}"]
        for line in _BROWSER:
            arguments += ["--header", line]
        if self.name == "fresh":
            arguments.append("--fresh")
        said = subprocess.run(
            pinned(arguments, self._cores.others),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=sum(seconds for _, seconds in phases) + 120,
        )
        if said.returncode:
            raise BenchError(f"the generator failed: {said.stderr[-1000:]}")
        self._there.trim_log()
        told: dict[str, Any] = json.loads(said.stdout)
        return told


def checks(shape: str, capacity: float, flood: Mapping[str, Any]) -> list[Check]:
    """What is promised of a shape."""
    _, over, _ = flood["phases"]
    strange = sum(over["others"].values()) + sum(flood["broken"].values()) + flood["unanswered"]
    return [
        Check(f"{shape}: served under overload ÷ capacity", over["served_a_second"] / capacity, SERVED, at_least=True),
        Check(f"{shape}: p99 of what is served", over["accepted_p99_ms"], BOUND_MS, " ms"),
        Check(f"{shape}: p99 of what is refused", over["refused_p99_ms"], BOUND_MS, " ms"),
        Check(f"{shape}: refusals without Retry-After or the text", flood["malformed_503"], 0),
        Check(f"{shape}: other answers, broken connections, no answer", strange, 0),
        # Never within what was watched: said as longer than that.
        Check(f"{shape}: recovery", flood["recovery_s"] if flood["recovery_s"] is not None else 999.0, RECOVERED, " s"),
    ]


def _rows(shape: str, capacity: float, flood: Mapping[str, Any]) -> list[list[object]]:
    names = ("before", "overload", "after")
    return [
        [
            f"{shape}, {name}",
            capacity,
            phase["rate"],
            phase["served_a_second"],
            phase["refused_a_second"],
            phase["held_back_a_second"],
            phase["served_p50_ms"],
            phase["served_p99_ms"],
            phase["accepted_p99_ms"],
            phase["refused_p50_ms"],
            phase["refused_p99_ms"],
        ]
        for name, phase in zip(names, flood["phases"], strict=True)
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.overload", description="Twice what the gateway can do.")
    parser.add_argument("--seconds", type=float, default=15, help="length of the overload [%(default)s]")
    parser.add_argument("--connections", type=int, default=2000, help="kept connections [%(default)s]")
    parser.add_argument("--only", default=",".join(SHAPES), metavar="SHAPE,…", help="[%(default)s]")
    parser.add_argument("--output", type=Path, help="write everything as JSON to this file")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Every wanted shape, a gateway afresh for each; returns the exit status.  Raises BenchError."""
    raise_descriptors()
    cores = Cores.choose()
    header = ["shape", "capacity/s", "offered/s", "served/s", "503/s", "held back/s"]
    header += ["served p50 ms", "p99", "p99 connected", "503 p50 ms", "p99"]
    rows: list[list[object]] = []
    promised: list[Check] = []
    facts: dict[str, Any] = {"machine": machine.describe(), "shapes": {}}
    with tempfile.TemporaryDirectory(prefix="postern-overload-") as name:
        folder = Path(name)
        credentials = Credentials.make(folder)
        with nginx(folder / "upstream", cores.proxy) as upstream:
            for shape in options.only.split(","):
                slow = free_port()
                settings, left_out = config(upstream, slow, credentials.consumers())
                service = [sys.executable, "-m", "bench.slow_upstream", "--port", str(slow)]
                service += ["--concurrency", str(CONCURRENCY), "--seconds", str(SECONDS_EACH)]
                program = Program.start(
                    service, core=cores.proxy, folder=ROOT, output=folder / f"{shape}.slow", environment={}
                )
                try:
                    program.wait_for(slow)
                    with gateway(folder / shape, settings, cores.proxy, left_out=left_out) as there:
                        work = Shape(shape, options.seconds, there, credentials.tokens, cores, options.connections)
                        capacity = work.capacity()
                        flood = work.flood(capacity)
                        peak = there.sample().rss
                finally:
                    program.stop()
                rows += _rows(shape, capacity, flood)
                promised += checks(shape, capacity, flood)
                facts["shapes"][shape] = {"capacity": capacity, "rss_after": peak, **flood}
                facts["left_out"] = left_out
                print(
                    f"{shape}: recovery {flood['recovery_s']} s; generator late p50 "
                    f"{flood['generator_late_p50_ms']:.1f} ms, p99 {flood['generator_late_p99_ms']:.1f} ms; "
                    f"memory afterwards {peak / 2**20:.0f} MiB; broken {flood['broken']}, "
                    f"unanswered {flood['unanswered']}, reconnected {flood['reconnected']}",
                    flush=True,
                )
                for sample in flood["samples"]:
                    print(f"  a refusal that is not as promised: {sample!r}")
    print()
    print(table(header, rows))
    if facts.get("left_out"):
        print(f"not known to this version: {', '.join(facts['left_out'])}")
    return conclude(promised, options.output, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    options = _parse(arguments)
    try:
        return run(options)
    except BenchError as error:
        print(f"the run broke: {error}", file=sys.stderr)
        return EXIT_BROKE


if __name__ == "__main__":
    sys.exit(main())
