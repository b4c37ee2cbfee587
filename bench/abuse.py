"""`make bench-abuse`: thousands of clients that take their time, and what good traffic notices of them.

For each kind of `bench.slow_clients`, and for all of them together: good traffic alone, with them from the moment
when all are connected until they have been dropped, and alone again.  Wanted: every one is dropped within its
timeout (and a second), none before it, and good traffic (a closed loop over 32 connections) keeps 95 % of its rate.
The rate is told by the clock, and by the gateway's CPU time a good request: the latter says the same on a machine
that has other things to do as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from bench import machine
from bench.contestant import PER_HOUR, PER_MINUTE
from bench.measure import CONNECTIONS, Cores, wrk
from bench.processes import BenchError, Program, cpu_of, free_port, memory_of, pinned, raise_descriptors
from bench.slow_clients import KINDS
from bench.stage import ROOT, Credentials, Gateway, gateway, known, nginx
from bench.verdict import EXIT_BROKE, Check, conclude, table
from gateway.config.model import Limits

KEPT = 0.95
#: What a client may live beyond its timeout: a sweep, and a busy machine's delay, in seconds.
GRACE = 1.0
_LARGE = 16 << 20
_WATCH = 3.0


def config(
    upstream: int, sink: int, timeout: float, number: int, credentials: Credentials
) -> tuple[dict[str, Any], list[str]]:
    """The gateway's configuration, and the names of the settings that this version has not."""
    left_out: list[str] = []
    most = number * len(KINDS) + 1000
    wanted = {
        "header_timeout": f"{timeout:g}s",
        "body_timeout": f"{timeout:g}s",
        "body_rate": "100B",
        "idle_timeout": "60s",
        "connections": most,
        "connections_per_client": most,
    }
    policies = {
        "correlation-id": {},
        "auth": {"any_of": ["api-key"]},
        "acl": {"allow": ["contentUser"]},
        "rate-limiting": {"limits": [f"{PER_MINUTE}/minute", f"{PER_HOUR}/hour"], "by": "credential"},
    }

    def service(name: str, port: int, *paths: str) -> dict[str, Any]:
        route = {"name": name, "paths": list(paths), "policies": policies}
        return {"name": name, "url": f"http://127.0.0.1:{port}", "routes": [route]}

    return {
        "limits": known(Limits, wanted, left_out),
        "services": [service("lms", upstream, "/content/v1/read", "/files"), service("uploads", sink, "/api/upload")],
        "consumers": credentials.consumers(),
    }, left_out


class Crowds:
    """Crowds of slow clients as programs of their own; `told` waits for what came of them."""

    def __init__(self, there: Gateway, kinds: Sequence[str], options: argparse.Namespace, token: str) -> None:
        cores = Cores.choose()
        self._programs: list[subprocess.Popen[str]] = []
        for kind in kinds:
            arguments = [sys.executable, "-m", "bench.slow_clients", "--port", str(there.port), "--kind", kind]
            arguments += ["--number", str(options.clients), "--seconds", str(options.timeout + 2 * _WATCH)]
            arguments += ["--upload", "/api/upload", "--download", "/files/large", "--token", token]
            self._programs.append(
                subprocess.Popen(pinned(arguments, cores.others), cwd=ROOT, stdout=subprocess.PIPE, text=True)
            )

    def wait_until_ready(self) -> None:
        """All are connected.  Raises BenchError."""
        for program in self._programs:
            assert program.stdout is not None
            if program.stdout.readline().strip() != "ready":
                raise BenchError("the slow clients failed")

    def told(self) -> list[dict[str, Any]]:
        """What became of each crowd.  Raises BenchError."""
        found = []
        for program in self._programs:
            said, _ = program.communicate(timeout=120)
            if program.returncode:
                raise BenchError("the slow clients failed")
            found.append(json.loads(said))
        return found

    def stop(self) -> None:
        """End those that still run."""
        for program in self._programs:
            if program.poll() is None:
                program.kill()
                program.wait()


class Peak:
    """The most memory that the gateway took while it was watched."""

    def __init__(self, there: Gateway) -> None:
        self._there = there
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.rss = 0

    def _watch(self) -> None:
        processes = self._there.program.tree
        while not self._over.wait(0.2):
            self.rss = max(self.rss, memory_of(processes))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Good:
    """Good traffic for a while: its rate, the gateway's CPU time in microseconds for each, and what went wrong."""

    rate: float
    cpu_us: float
    p99_ms: float
    bad: float


def good(there: Gateway, tokens: Path, seconds: float) -> Good:
    """Good traffic, a closed loop.  Raises BenchError."""
    processes = there.program.tree
    before = cpu_of(processes)
    done = wrk(there.port, tokens, seconds, Cores.choose().others, CONNECTIONS)
    spent = cpu_of(processes) - before
    there.trim_log()
    requests = max(done["requests"], 1)
    return Good(
        requests / done["seconds"],
        (spent.user + spent.system) * 1e6 / requests,
        done["p99_ms"],
        done["bad_status"] + done["broken"],
    )


def phase(
    there: Gateway, kinds: Sequence[str], options: argparse.Namespace, credentials: Credentials
) -> dict[str, Any]:
    """One crowd, or several at once: the rates without, with, without; what became of the crowds; the peak memory."""
    seconds = options.timeout + _WATCH
    before = good(there, credentials.tokens, seconds / 2)
    crowds = Crowds(there, kinds, options, credentials.keys[0].token)
    try:
        with Peak(there) as peak:
            crowds.wait_until_ready()
            during = good(there, credentials.tokens, seconds)
            told = crowds.told()
    finally:
        crowds.stop()
    time.sleep(1)
    after = good(there, credentials.tokens, seconds / 2)
    return {"before": before, "during": during, "after": after, "crowds": told, "peak_rss": peak.rss}


def checks(name: str, found: Mapping[str, Any], timeout: float) -> list[Check]:
    """What is promised of one phase."""
    before, during, after = (found[when] for when in ("before", "during", "after"))
    promised = [
        Check(f"{name}: good traffic keeps of its rate", during.rate / mean((before.rate, after.rate)), KEPT, "", True),
        Check(
            f"{name}: the same by CPU time", mean((before.cpu_us, after.cpu_us)) / during.cpu_us, KEPT, at_least=True
        ),
        Check(f"{name}: good requests that failed", before.bad + during.bad + after.bad, 0),
    ]
    for crowd in found["crowds"]:
        kind = crowd["kind"] if len(found["crowds"]) == 1 else f"{name}, {crowd['kind']}"
        promised += [
            Check(f"{kind}: not connected, or not dropped", crowd["failed"] + crowd["connected"] - crowd["dropped"], 0),
            Check(f"{kind}: the last was dropped after", crowd["last_s"], timeout + GRACE, " s"),
            # Connecting and a sweep's rounding are in it.
            Check(f"{kind}: the first was dropped after", crowd["first_s"], timeout - 0.3, " s", at_least=True),
        ]
    return promised


def _row(title: str, found: Mapping[str, Any]) -> list[object]:
    three = [found[when] for when in ("before", "during", "after")]
    row: list[object] = [title, *(one.rate for one in three), *(one.cpu_us for one in three), three[1].p99_ms]
    return [*row, found["peak_rss"] / 2**20]


def _told(found: Mapping[str, Any]) -> str:
    """What the slow clients were told, as far as they read it."""
    return "; ".join(f"{crowd['kind']} {crowd['told']}" for crowd in found["crowds"])


def run(options: argparse.Namespace) -> int:
    """Every phase against one gateway; returns the exit status.  Raises BenchError."""
    raise_descriptors()
    cores = Cores.choose()
    rows: list[list[object]] = []
    promised: list[Check] = []
    facts: dict[str, Any] = {"machine": machine.describe(), "phases": {}}
    kinds = [kind for kind in options.only.split(",") if kind]
    phases = {kind: [kind] for kind in kinds}
    if len(kinds) > 1:
        phases["together"] = kinds
    with tempfile.TemporaryDirectory(prefix="postern-abuse-") as name:
        folder = Path(name)
        credentials = Credentials.make(folder)
        sink = free_port()
        arguments = [sys.executable, "-m", "upstream_stub", "--port", str(sink)]
        uploads = Program.start(
            arguments, core=cores.others, folder=ROOT, output=folder / "uploads.log", environment={}
        )
        try:
            uploads.wait_for(sink)
            with nginx(folder / "upstream", cores.others) as upstream:
                files = folder / "upstream" / "files"
                files.mkdir()
                (files / "large").write_bytes(bytes(_LARGE))
                settings, left_out = config(upstream, sink, options.timeout, options.clients, credentials)
                with gateway(folder / "gateway", settings, cores.proxy, left_out=left_out) as there:
                    good(there, credentials.tokens, 2)
                    for title, several in phases.items():
                        found = phase(there, several, options, credentials)
                        facts["phases"][title] = {
                            name: asdict(value) if isinstance(value, Good) else value for name, value in found.items()
                        }
                        promised += checks(title, found, options.timeout)
                        rows.append(_row(title, found))
                        print(f"{title}: {_told(found)}", flush=True)
        finally:
            uploads.stop()
    header = ["", "good/s alone", "with them", "alone", "CPU µs alone", "with them", "alone", "p99 ms with them"]
    print(table([*header, "peak MiB"], rows))
    if left_out:
        print(f"not known to this version: {', '.join(left_out)}")
    return conclude(promised, options.output, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.abuse", description="Clients that take their time.")
    parser.add_argument("--clients", type=int, default=2000, help="of each kind [%(default)s]")
    parser.add_argument("--timeout", type=float, default=10, help="header_timeout and body_timeout, s [%(default)s]")
    parser.add_argument("--only", default=",".join(KINDS), metavar="KIND,…", help="[%(default)s]")
    parser.add_argument("--output", type=Path, help="write everything as JSON to this file")
    try:
        return run(parser.parse_args(arguments))
    except BenchError as error:
        print(f"the run broke: {error}", file=sys.stderr)
        return EXIT_BROKE


if __name__ == "__main__":
    sys.exit(main())
