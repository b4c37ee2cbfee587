"""`make bench-reloads`: reloads, bad files and restarts under load, without a failed request.

Each reload changes what `/version` answers: it is over when the status page shows one hash for all workers, another
than before, and then every new connection must see the new answer.  A bad file must change neither that answer nor the
hash.  A graceful restart (SIGUSR2) is over when every worker is another process.  At last two gateways stand behind a
load balancer that asks both whether they are ready, and are ended (SIGTERM) and started in turn.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from bench import machine
from bench.accounted import Clients, Ledger, Load, in_background
from bench.client import request
from bench.contestant import PATH
from bench.measure import Cores
from bench.processes import BenchError
from bench.stage import Credentials, Gateway, gateway, nginx
from bench.verdict import EXIT_BROKE, Check, conclude
from bench.workers import config

RELOADS, BAD, RESTARTS, ROLLING = 100, 20, 20, 5
WORKERS = 2
#: New connections that must all see what was reloaded.
_LOOKS = 16
#: How often the load balancer asks whether a gateway is ready, and how old an answer may be that it relies on; how long
#: a gateway that ends still serves.
_PROBE, _FRESH = 0.05, 0.5
_DELAY = "2s"


def versioned(settings: dict[str, Any], version: int) -> dict[str, Any]:
    """The configuration with a route that answers its version."""
    said = {"auth": "none", "request-termination": {"status": 200, "body": f"version {version}"}}
    services = [dict(one) for one in settings["services"]]
    services[0]["routes"] = [*services[0]["routes"], {"name": "version", "paths": ["= /version"], "policies": said}]
    return {**settings, "services": services}


class Reloading:
    """A running gateway whose file is rewritten."""

    def __init__(self, there: Gateway, settings: dict[str, Any]) -> None:
        self.there = there
        self._settings = settings
        self._path = there.log.parent / "config.yaml"
        whole = yaml.safe_load(self._path.read_text())
        self._own = {name: value for name, value in whole.items() if name not in settings}
        self.version = 0
        self.wrong = 0

    def _hash(self) -> str:
        """The one hash of all workers, empty while they differ."""
        found = {one.config_hash for one in self.there.workers()}
        return found.pop() if len(found) == 1 else ""

    def _write(self, text: str) -> None:
        made = self._path.with_suffix(".new")
        made.write_text(text)
        made.replace(self._path)
        os.kill(self.there.program.process.pid, signal.SIGHUP)

    def _text(self) -> str:
        return yaml.safe_dump({**self._own, **versioned(self._settings, self.version)}, sort_keys=False, width=1000)

    def reload(self) -> float:
        """Put the next version in force; returns after how many seconds all workers had it.  Raises BenchError."""
        before = self._hash()
        self.version += 1
        self._write(self._text())
        took = self.there.wait_for(lambda: self._hash() not in ("", before), f"version {self.version}")
        self._look()
        return took

    def bad(self, spoilt: tuple[str, str]) -> None:
        """Write a file in which one text stands for another, so that it is refused, and see that nothing changes.
        Raises BenchError."""
        before, good = self._hash(), ("postern_config_last_reload_success", ())
        text = self._text()
        if spoilt[0] not in text:
            raise BenchError(f"there is no {spoilt[0]} to be spoilt")
        self._write(text.replace(*spoilt, 1))
        self.there.wait_for(lambda: self.there.metrics()[good] == 0, "its refusal")
        self._same(before)
        self._write(text)
        self.there.wait_for(lambda: self.there.metrics()[good] == 1, "the good file")
        self._same(before)

    def _same(self, before: str) -> None:
        if self._hash() != before:
            raise BenchError("a bad file changed the configuration")
        self._look()

    def restart(self) -> float:
        """Replace every worker; returns after how many seconds the last one was.  Raises BenchError."""
        old = {one.pid for one in self.there.workers()}
        os.kill(self.there.program.process.pid, signal.SIGUSR2)

        def replaced() -> bool:
            now = {one.pid for one in self.there.workers()}
            return len(now) == len(old) and not now & old

        took = self.there.wait_for(replaced, "new workers")
        self._look()
        return took

    def _look(self) -> None:
        """Ask for the version on new connections, however the kernel spreads them over the workers."""
        for _ in range(_LOOKS):
            self.wrong += ask(self.there.port, "/version") != f"version {self.version}"


def ask(port: int, path: str) -> str:
    """The body of one GET on a connection of its own.  Raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


class Balancer:
    """A load balancer that knows which gateways are ready, and gives each new connection to one of them."""

    def __init__(self, gateways: Sequence[Gateway]) -> None:
        self.gateways = list(gateways)
        self._ready: list[int] = [one.port for one in gateways]
        self._number = 0
        self._asked = 0.0
        self._stopping = threading.Event()

    def port(self) -> int:
        """Where the next connection goes."""
        if time.monotonic() - self._asked > _FRESH:
            self._ask()  # the machine stood still: what is known may be over
        self._number += 1
        ready = self._ready
        return ready[self._number % len(ready)]

    def _probe(self) -> None:
        while not self._stopping.wait(_PROBE):
            self._ask()

    def _ask(self) -> None:
        asked = time.monotonic()
        ready: list[int] = []
        for one in self.gateways:
            try:
                if one.fetch("/status/ready")[0] == 200:
                    ready.append(one.port)
            except OSError:
                continue  # it is not there
        if asked > self._asked:
            self._ready, self._asked = ready or self._ready, asked

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Ask all of them, again and again."""
        thread = threading.Thread(target=self._probe, name="balancer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()


#: What makes a file one that is refused: a setting that there is not, no YAML, a policy that there is not.
SPOILT: tuple[tuple[str, str], ...] = (("url:", "urll:"), ("services:", "services: ["), ("auth:", "outh:"))


def rolling(folder: Path, settings: dict[str, Any], clients: Clients, requests: Sequence[bytes], times: int) -> Ledger:
    """End and start two gateways in turn behind a load balancer.  Raises BenchError."""
    settings = {**settings, "drain": {"delay": _DELAY}}
    with ExitStack() as stack:

        def started(number: int) -> Gateway:
            there = stack.enter_context(gateway(folder / f"rolling-{number}", settings, None))
            there.wait_until_ready()
            return there

        balancer = Balancer([started(0), started(1)])
        with balancer.probing(), in_background(Load(balancer.port, requests, clients)) as ledger:
            for number in range(times):
                time.sleep(1)
                leaving = balancer.gateways[0]
                began = time.monotonic()
                status = leaving.end()
                print(f"restart {number + 1}: ended with {status} after {time.monotonic() - began:.1f} s", flush=True)
                if status:
                    raise BenchError(f"a gateway ended with {status}: {leaving.program.complaint()}")
                balancer.gateways = [*balancer.gateways[1:], started(number + 2)]
            time.sleep(1)
        for one in balancer.gateways:
            one.kill()
    return ledger


def trial(subject: Reloading, options: argparse.Namespace) -> dict[str, list[float]]:
    """Reload, spoil and restart so often; returns how long each took.  Raises BenchError."""
    took: dict[str, list[float]] = {"reload": [], "restart": []}
    for number in range(options.reloads):
        took["reload"].append(subject.reload())
        if number % 10 == 9:
            print(f"reload {number + 1}: {took['reload'][-1]:.2f} s", flush=True)
    for number in range(options.bad):
        subject.bad(SPOILT[number % len(SPOILT)])
    print(f"{options.bad} bad files changed nothing", flush=True)
    for number in range(options.restarts):
        took["restart"].append(subject.restart())
        print(f"graceful restart {number + 1}: {took['restart'][-1]:.2f} s", flush=True)
    return took


def failures_of(ledger: Ledger, what: str) -> Check:
    """Nothing may fail."""
    for one in ledger.failures:
        print(f"failed: {one}")
    print(f"{what}: {ledger.answered:,} requests answered on {ledger.connections:,} connections, the longest "
          f"took {ledger.longest:.2f} s; {ledger.replaced} idle connections had been closed")  # fmt: skip
    return Check(f"failed requests, {what}", len(ledger.failures), 0)


def run(options: argparse.Namespace) -> int:
    """Run the trials; returns the exit status.  Raises BenchError."""
    cores = Cores.choose()
    clients = Clients(options.kept, options.fresh, options.pausing)
    checks: list[Check] = []
    facts: dict[str, Any] = {"machine": machine.describe()}
    with tempfile.TemporaryDirectory(prefix="postern-reloads-") as name:
        folder = Path(name)
        credentials = Credentials.make(folder)
        requests = [request("GET", PATH, f"Authorization: Bearer {key.token}") for key in credentials.keys]
        with nginx(folder / "upstream", cores.others) as upstream:
            settings = config(upstream, options.workers, credentials)
            with gateway(folder / "gateway", versioned(settings, 0), None) as there:
                there.wait_until_ready()
                subject = Reloading(there, settings)
                with in_background(Load(lambda: there.port, requests, clients)) as ledger:
                    took = trial(subject, options)
                    time.sleep(1)
                if there.end():
                    raise BenchError(f"the gateway did not end well: {there.program.complaint()}")
            checks.append(failures_of(ledger, "reloads and graceful restarts"))
            checks.append(Check("answers of another version than the one in force", subject.wrong, 0))
            facts |= {"took": took, "failures": [asdict(one) for one in ledger.failures]}
            if options.rolling:
                ledger = rolling(folder, settings, clients, requests, options.rolling)
                checks.append(failures_of(ledger, "restarts behind a load balancer"))
                facts["rolling_failures"] = [asdict(one) for one in ledger.failures]
    return conclude(checks, options.output, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.reloads", description="Reload and restart under load.")
    parser.add_argument("--reloads", type=int, default=RELOADS, help="how many reloads [%(default)s]")
    parser.add_argument("--bad", type=int, default=BAD, help="how many bad files [%(default)s]")
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="how many graceful restarts [%(default)s]")
    parser.add_argument("--rolling", type=int, default=ROLLING, help="how many behind a balancer [%(default)s]")
    parser.add_argument("--workers", type=int, default=WORKERS, help="how many workers there are [%(default)s]")
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
