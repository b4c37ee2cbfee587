"""What the load tools stand on: an nginx upstream and `postern run`, configured, started, watched and ended.

Law: the gateway is the installed command with its access log on, as in production; a setting that this version
does not know yet is left out and named, so that every tool runs against every version.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from bench import peer_nginx
from bench.contestant import Unavailable
from bench.keys import Key, make_keys, make_outsider
from bench.peer_postern import declared
from bench.processes import BenchError, Program, descriptors_of, free_port, memory_of

ROOT = Path(__file__).parent.parent

#: How many keys the load tools use: enough to be many, few enough to be hashed at once.
KEYS = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway at one instant: bytes, descriptors, and what the collector and the allocator count (0: not asked)."""

    at: float
    rss: int
    descriptors: int
    objects: int = 0
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that serves, and the configuration that it serves with."""

    pid: int
    config_hash: str


@dataclass
class Gateway:
    """A running gateway: its ports, its access log, and where it reports what it holds."""

    program: Program
    port: int
    status: int
    log: Path
    report: Path
    left_out: list[str] = field(default_factory=list)
    #: True once it was asked to end.
    ended: bool = False

    def end(self, patience: float = 60) -> int:
        """Ask it to end, as an init system does, and wait; returns its exit status.  Raises BenchError."""
        self.ended = True
        self.program.process.terminate()
        try:
            return self.program.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise BenchError(f"the gateway does not end: {self.program.complaint()}") from None

    def kill(self) -> None:
        """End it at once; nobody wants anything of it any more."""
        self.ended = True
        self.program.process.kill()

    def fetch(self, path: str) -> tuple[int, str]:
        """`(status, body)` of a page of the status listener.  Raises OSError while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def workers(self) -> list[Worker]:
        """The processes that serve, as the gateway tells.  Raises OSError."""
        told = json.loads(self.fetch("/status")[1])["workers"]
        return [Worker(one["pid"], one["config_hash"]) for one in told]

    def wait_until_ready(self, patience: float = 60) -> None:
        """Wait until it says that it is ready.  Raises BenchError."""
        self.wait_for(lambda: self.fetch("/status/ready")[0] == 200, "to be ready", patience)

    def wait_for(self, condition: Callable[[], bool], what: str, patience: float = 60) -> float:
        """Wait until something holds (while it does not answer, nothing does); returns after how many seconds.
        Raises BenchError."""
        began = time.monotonic()
        while time.monotonic() - began < patience:
            with contextlib.suppress(OSError):
                if condition():
                    return time.monotonic() - began
            if self.program.process.poll() is not None:
                break
            time.sleep(0.02)
        raise BenchError(f"the gateway was waited for {what}, it said: {self.program.complaint()}")

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """`/metrics` as `{(name, labels in order): value}`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def connections(self, side: str) -> int:
        """How many connections of a side it has, idle or not."""
        found = self.metrics()
        return int(sum(v for (name, of), v in found.items() if name == "postern_connections" and ("side", side) in of))

    def sample(self) -> Sample:
        """What it holds now, as the kernel says."""
        processes = self.program.tree
        return Sample(time.monotonic(), memory_of(processes), descriptors_of(processes))

    def inside(self, patience: float = 10) -> dict[str, Any]:
        """What it says that it holds (`bench.watched`): `objects`, `blocks`, `types`.  Raises BenchError."""
        before = self.report.stat().st_mtime_ns if self.report.exists() else 0
        os.kill(self.program.process.pid, signal.SIGUSR1)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if self.report.exists() and self.report.stat().st_mtime_ns != before:
                found: dict[str, Any] = yaml.safe_load(self.report.read_text())
                return found
            time.sleep(0.02)
        raise BenchError(f"the gateway does not report: {self.program.complaint()}")

    def trim_log(self) -> None:
        """Empty the access log, so that a long run does not fill the disk."""
        if self.log.exists():
            os.truncate(self.log, 0)


def known(model: type[BaseModel], wanted: Mapping[str, Any], left_out: list[str]) -> dict[str, Any]:
    """The settings that this version's model has; the names of the others are appended to `left_out`."""
    left_out += [name for name in wanted if name not in model.model_fields]
    return {name: value for name, value in wanted.items() if name in model.model_fields}


@dataclass(frozen=True, slots=True)
class Credentials:
    """The keys of a run, one whose consumer no route admits, and the file of tokens that generators read."""

    keys: Sequence[Key]
    outsider: Key
    tokens: Path

    @classmethod
    def make(cls, folder: Path) -> Credentials:
        """Fresh ones; the tokens are written into the folder."""
        keys, outsider = make_keys()[:KEYS], make_outsider()
        tokens = folder / "tokens.txt"
        tokens.write_text("".join(f"{key.token}\n" for key in keys))
        return cls(keys, outsider, tokens)

    def consumers(self) -> list[dict[str, Any]]:
        """As `config.yaml` declares them."""
        return declared([*self.keys, self.outsider])


@contextmanager
def nginx(folder: Path, core: int | None) -> Iterator[int]:
    """The upstream of `bench`; yields its port.  Raises BenchError."""
    folder.mkdir()
    try:
        launch = peer_nginx.upstream(folder)
    except Unavailable as error:
        raise BenchError(f"no upstream: {error}") from None
    output = folder / "output.log"
    program = Program.start(launch.arguments, core=core, folder=folder, output=output, environment={})
    try:
        program.wait_for(launch.port)
        yield launch.port
    finally:
        program.stop()


@contextmanager
def gateway(
    folder: Path, config: Mapping[str, Any], core: int | None, *, left_out: Sequence[str] = ()
) -> Iterator[Gateway]:
    """`postern run` with a configuration (its listeners and store are added).  Raises BenchError."""
    folder.mkdir()
    port, status = free_port(), free_port()
    listen = {"proxy": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{free_port()}", "status": f"127.0.0.1:{status}"}
    whole = {
        "version": 1,
        "listen": listen,
        "store": f"sqlite:///{folder}/data/postern.db",
        "credentials": {"bcrypt_rounds": 4},
        **config,
    }
    path, log, report = folder / "config.yaml", folder / "access.log", folder / "report.json"
    path.write_text(yaml.safe_dump(whole, sort_keys=False, width=1000))
    arguments = [sys.executable, "-m", "bench.watched", str(report), "run", "--config", str(path)]
    arguments += ["--access-log", str(log), "--log-format", "json", "--log-level", "error"]
    program = Program.start(arguments, core=core, folder=ROOT, output=folder / "output.log", environment={})
    try:
        program.wait_for(port)
        there = Gateway(program, port, status, log, report, list(left_out))
        yield there
        if program.process.poll() is not None and not there.ended:
            raise BenchError(f"the gateway died: {program.complaint()}")
    finally:
        program.stop()
