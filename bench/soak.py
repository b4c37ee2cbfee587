"""`make soak`: every policy, mixed traffic at 70 % of saturation, for half an hour; nothing may break, grow or leak.

Saturation is what a closed loop makes of the gateway's core.  The load is `bench.mix` (every kind of traffic, each
answer judged) and, on top, as many plain requests (`bench.flood`) as bring the gateway to 70 %.  Resident memory,
descriptors, objects and the allocator's blocks are sampled on the way.  Wanted: no fault; memory within 5 % and
descriptors flat between the first steady minute and the last; and after the traffic no descriptor too many.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestant import PATH
from bench.keys import GROUP
from bench.kinds import KINDS, ORIGIN
from bench.measure import Cores, wrk
from bench.processes import BenchError, Program, cpu_of, free_port, pinned, raise_descriptors
from bench.stage import ROOT, Credentials, Gateway, Sample, gateway, nginx
from bench.verdict import EXIT_BROKE, Check, conclude, growth, table

SHARE = 0.7
MEMORY, DESCRIPTORS = 0.05, 0.05
#: The steady part begins after so many seconds of load, and is compared by windows of so many.
WARM_UP, WINDOW = 60.0, 60.0
#: Descriptors that may be open after the run beside those of before it and of kept upstream connections.
_SPARE = 4
_SETTLING = 30.0
_MINUTE = 60.0


def config(upstream: int, stub: int, credentials: Credentials) -> dict[str, Any]:
    """The gateway with every policy that there is."""
    consumers = credentials.consumers()
    for consumer in consumers:
        consumer["organization"] = "springfield"
        for key in consumer["keys"]:
            key["scopes"] = ["read"]
    # Rings as long as the numbers: an hour's sliding window of a million would grow for an hour, as it should.
    limits = [
        {"limits": ["60000/minute"], "by": "credential"},
        {"name": "hourly", "limits": ["100000000/hour"], "by": "consumer", "algorithm": "fixed-window"},
        {"name": "address", "limits": ["100000000/minute"], "by": "ip", "algorithm": "token-bucket"},
    ]
    guarded = {"auth": {"any_of": ["api-key"]}, "acl": {"allow": [GROUP]}, "scopes": {"require": ["read"]}}
    everything = {
        **guarded,
        "rate-limiting": limits,
        "request-transformer": {"add": {"headers": {"X-School": "springfield"}, "query": {"via": "gateway"}}},
        "upstream-credential": {"basic": {"username": "gateway", "password": "not-a-secret"}},
    }
    plain = {**guarded, "rate-limiting": limits}
    stub_routes: list[dict[str, Any]] = [
        {"name": "api", "paths": ["/api", "/echo", "/events", "/ws"], "policies": everything},
        {"name": "courses", "paths": ["/api/courses"], "policies": {**plain, "proxy-cache": {"ttl": "2s"}}},
        {
            "name": "schools",
            "paths": ["/echo/schools/{org}"],
            "policies": {**plain, "organization": {"match": "path.org"}},
        },
        {
            "name": "limited",
            "paths": ["/echo/limited"],
            "policies": {**guarded, "rate-limiting": {"limits": ["20/minute"], "by": "credential"}},
        },
        {
            "name": "ping",
            "paths": ["= /ping"],
            "policies": {"auth": "none", "request-termination": {"status": 200, "body": "pong"}},
        },
    ]
    return {
        "guesses": {"failures": "1000000/minute"},
        "policies": {
            "correlation-id": {},
            "cors": {"origins": [ORIGIN], "methods": ["GET", "POST"]},
            "ip-restriction": {"allow": ["127.0.0.0/8"]},
            "request-size-limiting": {"max": "4MiB"},
        },
        "services": [
            {
                "name": "content",
                "url": f"http://127.0.0.1:{upstream}",
                "routes": [{"name": "content-read", "paths": ["/content/v1/read"], "policies": everything}],
            },
            {"name": "lms", "url": f"http://127.0.0.1:{stub}", "routes": stub_routes},
        ],
        "organizations": [{"name": "springfield"}],
        "consumers": consumers,
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is driven: mixed requests and plain ones a second, and what saturation was."""

    saturation: float
    cpu_us: float
    busy: float
    mixed: float
    mixed_busy: float
    bulk: float


@dataclass(frozen=True, slots=True)
class Minute:
    """One row of the table."""

    at: float
    served: float
    p99_ms: float
    busy: float
    rss: int
    descriptors: int
    objects: int
    blocks: int
    faults: int


class Soak:
    """One run against a gateway; `minutes`, `samples` and `faults` fill on the way."""

    def __init__(self, there: Gateway, credentials: Credentials, cores: Cores, mixed: float) -> None:
        self._there = there
        self._credentials = credentials
        self._core = cores.others
        self._mixed = mixed
        self.samples: list[Sample] = []
        self.minutes: list[Minute] = []
        self.types: list[Mapping[str, int]] = []
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    # ── how much ─────────────────────────────────────────────────────────────────────────────

    def plan(self, seconds: float) -> Plan:
        """Measure saturation and what the mix takes of it.  Raises BenchError."""
        there = self._there
        for _ in range(2):  # the first use of every key is not measured
            began, before = time.monotonic(), cpu_of(there.program.tree)
            done = wrk(there.port, self._credentials.tokens, seconds, self._core)
            took, spent = time.monotonic() - began, cpu_of(there.program.tree) - before
            there.trim_log()
        if done["bad_status"]:
            raise BenchError(f"{done['bad_status']:.0f} plain requests were refused")
        cpu = spent.user + spent.system
        began, before = time.monotonic(), cpu_of(there.program.tree)
        self._end(self._mix(seconds), {})
        spent = cpu_of(there.program.tree) - before
        mixed_busy = (spent.user + spent.system) / (time.monotonic() - began)
        busy, cpu_us = cpu / took, cpu * 1e6 / done["requests"]
        bulk = max(1.0, (SHARE * busy - mixed_busy) / cpu_us * 1e6)
        return Plan(done["requests"] / done["seconds"], cpu_us, busy, self._mixed, mixed_busy, bulk)

    # ── the run ──────────────────────────────────────────────────────────────────────────────

    def run(self, plan: Plan, seconds: float) -> None:
        """Drive the load for so long, a row of the table a minute.  Raises BenchError."""
        minute = min(_MINUTE, seconds / 2)
        mixed = self._mix(seconds)
        try:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > minute / 2:
                self._minute(plan, min(minute, left), every=min(5.0, minute / 4))
            self._end(mixed, self.done)
        finally:
            if mixed.poll() is None:
                mixed.kill()
                mixed.wait()

    def _minute(self, plan: Plan, seconds: float, every: float) -> None:
        there, began, faults = self._there, time.monotonic(), self.faults.total()
        before = cpu_of(there.program.tree)
        bulk = self._start(
            "bench.flood", "--path", PATH, "--phase", f"{plan.bulk:.0f}:{seconds:.2f}", "--connections", "64"
        )
        try:
            while bulk.poll() is None:
                self.samples.append(there.sample())
                there.trim_log()
                time.sleep(every)
            said, _ = bulk.communicate(timeout=60)
        finally:
            if bulk.poll() is None:
                bulk.kill()
                bulk.wait()
        if bulk.returncode:
            raise BenchError("the plain traffic failed")
        spent = cpu_of(there.program.tree) - before
        busy = (spent.user + spent.system) / (time.monotonic() - began)
        told = json.loads(said)
        (phase,) = told["phases"]
        for status, times in {**phase["others"], "503": round(phase["refused_a_second"] * seconds)}.items():
            self.faults[f"plain: {status}"] += times
        for why, times in {**told["broken"], "no answer": told["unanswered"]}.items():
            self.faults[f"plain: {why}"] += times
        self.faults += Counter()  # forget what came not once
        inside, last = there.inside(), there.sample()
        self.types.append(inside["types"])
        at = last.at - self.samples[0].at
        row = Minute(
            at, phase["served_a_second"], phase["served_p99_ms"], busy, last.rss, last.descriptors, inside["objects"],
            inside["blocks"], self.faults.total() - faults,
        )  # fmt: skip
        self.minutes.append(row)
        print(
            f"{at / 60:6.1f} min  {row.served:8,.0f}/s  p99 {row.p99_ms:7.2f} ms  core {busy:4.0%}  "
            f"{row.rss / 2**20:7.1f} MiB  {row.descriptors:5} descriptors  {row.faults} faults",
            flush=True,
        )

    def settle(self, wanted: int) -> int:
        """Wait until no more client connections than these are open; returns descriptors beside the upstreams'."""
        until = time.monotonic() + _SETTLING
        while self._there.connections("downstream") > wanted and time.monotonic() < until:
            time.sleep(0.2)
        return self._there.sample().descriptors - self._there.connections("upstream")

    # ── generators ───────────────────────────────────────────────────────────────────────────

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        whole = [sys.executable, "-m", module, "--port", str(self._there.port), *arguments]
        whole += ["--keys", str(self._credentials.tokens)]
        return subprocess.Popen(pinned(whole, self._core), cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def _mix(self, seconds: float) -> subprocess.Popen[str]:
        # A key of its own: its small budget does not fail the others' requests.
        limited = self._credentials.keys[-1].token
        arguments = ["--rate", f"{self._mixed:g}", "--seconds", f"{seconds:.2f}", "--limited", limited]
        return self._start("bench.mix", *arguments, "--outsider", self._credentials.outsider.token)

    def _end(self, mixed: subprocess.Popen[str], done: Counter[str] | dict[str, int]) -> None:
        said, _ = mixed.communicate(timeout=120)
        self._there.trim_log()
        if mixed.returncode:
            raise BenchError("the mixed traffic failed")
        told = json.loads(said)
        for kind, times in told["done"].items():
            done[kind] = done.get(kind, 0) + times
        for fault, times in told["faults"].items():
            self.faults[fault] += times
        if told["skipped"]:
            self.faults["mixed requests that found too many others on their way"] += told["skipped"]


def checks(samples: Sequence[Sample], faults: int, kinds: int, before: int, after: int) -> list[Check]:
    """What is promised of a run; `before` and `after` are descriptors beside the upstreams', with no client there."""
    memory = growth([(sample.at, sample.rss) for sample in samples], WARM_UP, WINDOW)
    held = growth([(sample.at, sample.descriptors) for sample in samples], WARM_UP, WINDOW)
    return [
        Check("unexpected answers, broken connections, silences", faults, 0),
        Check("kinds of traffic that never went well", len(KINDS) - kinds, 0),
        Check("growth of resident memory", None if memory is None else 100 * memory, 100 * MEMORY, " %"),
        Check("growth of descriptors", None if held is None else 100 * held, 100 * DESCRIPTORS, " %"),
        Check("descriptors left over after the traffic", after - before, _SPARE),
    ]


def _say(soak: Soak, plan: Plan) -> None:
    header = ["minute", "plain/s", "p99 ms", "core %", "MiB", "descriptors", "objects", "blocks", "faults"]
    rows = [
        [one.at / 60, one.served, one.p99_ms, 100 * one.busy, one.rss / 2**20, one.descriptors, one.objects, one.blocks,
         one.faults]
        for one in soak.minutes
    ]  # fmt: skip
    print()
    print(f"saturation {plan.saturation:,.0f}/s at {plan.cpu_us:.1f} µs; driven: {plan.bulk:,.0f} plain and", end=" ")
    print(f"{plan.mixed:,.0f} mixed requests a second ({plan.mixed_busy:.0%} of a core)")
    print(table(header, rows))
    for fault, times in soak.faults.most_common(20):
        print(f"fault {times:6} × {fault}")
    if len(soak.types) > 1:
        first, last = soak.types[0], soak.types[-1]
        more = sorted(((last[name] - first.get(name, 0), name) for name in last), reverse=True)[:5]
        print("objects that became more: " + ", ".join(f"{name} {times:+,}" for times, name in more if times > 0))


def run(options: argparse.Namespace) -> int:
    """The whole soak; returns the exit status.  Raises BenchError."""
    raise_descriptors()
    cores = Cores.choose()
    with tempfile.TemporaryDirectory(prefix="postern-soak-") as name:
        folder = Path(name)
        credentials = Credentials.make(folder)
        stub = free_port()
        arguments = [sys.executable, "-m", "upstream_stub", "--port", str(stub)]
        lms = Program.start(arguments, core=cores.others, folder=ROOT, output=folder / "lms.log", environment={})
        try:
            lms.wait_for(stub)
            with (
                nginx(folder / "upstream", cores.others) as upstream,
                gateway(folder / "gateway", config(upstream, stub, credentials), cores.proxy) as there,
            ):
                soak = Soak(there, credentials, cores, options.mixed)
                plan = soak.plan(min(10.0, options.seconds / 5))
                before = soak.settle(0)
                soak.run(plan, options.seconds)
                after = soak.settle(0)
        finally:
            lms.stop()
    _say(soak, plan)
    facts = {
        "machine": machine.describe(),
        "plan": asdict(plan),
        "minutes": [asdict(one) for one in soak.minutes],
        "done": soak.done,
        "faults": soak.faults,
    }
    return conclude(checks(soak.samples, soak.faults.total(), len(soak.done), before, after), options.output, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.soak", description="Mixed traffic for a long time.")
    parser.add_argument("--minutes", type=float, default=30, help="how long [%(default)s]")
    parser.add_argument("--seconds", type=float, help="the same in seconds")
    parser.add_argument("--mixed", type=float, default=100, help="mixed requests a second [%(default)s]")
    parser.add_argument("--output", type=Path, help="write everything as JSON to this file")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or options.minutes * 60
    try:
        return run(options)
    except BenchError as error:
        print(f"the run broke: {error}", file=sys.stderr)
        return EXIT_BROKE


if __name__ == "__main__":
    sys.exit(main())
