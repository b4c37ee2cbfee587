"""One contestant started, proven to do its work, and measured."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.contestant import PATH, Contestant, Launch, Site
from bench.memory import total
from bench.processes import BenchError, Program, cpu_of, pinned

CONNECTIONS = 32
_ATTEMPTS = 3
_STALL = 1.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the proxy on one core, upstream and load on another; None: not pinned."""

    proxy: int | None
    others: int | None

    @classmethod
    def choose(cls) -> Cores:
        """The first core for the proxy and the second for the rest; nothing pinned on a single core."""
        there = sorted(os.sched_getaffinity(0))
        return cls(there[0], there[1]) if len(there) > 1 else cls(None, None)


@dataclass(frozen=True, slots=True)
class Round:
    """One closed-loop measurement: CPU in microseconds a request, latency in milliseconds."""

    requests: int
    seconds: float
    cpu_us: float
    user_us: float
    system_us: float
    busy: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass
class Running:
    """A started contestant and what was measured of it."""

    contestant: Contestant
    launch: Launch
    program: Program
    ready_seconds: float
    beside: list[Program] = field(default_factory=list)
    idle_bytes: int = 0
    loaded_bytes: int = 0
    rounds: list[Round] = field(default_factory=list)
    open_loop: list[dict[str, float]] = field(default_factory=list)

    def stop(self) -> None:
        """End it, then what it needed."""
        for program in (self.program, *self.beside):
            program.stop()


def start(contestant: Contestant, site: Site, cores: Cores) -> Running:
    """Start it and prove that it does its work.  Raises Unavailable, or BenchError where it does not."""
    launch = contestant.prepare(site)
    folder = site.folder
    started: list[Program] = []
    try:
        for number, (arguments, port) in enumerate(launch.beside):
            output = folder / f"beside-{number}.log"
            started.append(Program.start(arguments, core=cores.others, folder=folder, output=output, environment={}))
            started[-1].wait_for(port)
        program = Program.start(
            launch.arguments,
            core=cores.proxy,
            folder=folder,
            output=folder / "output.log",
            environment=launch.environment,
        )
        started.append(program)
        ready = program.wait_for(launch.port)
        _prove(contestant, launch.port, site)
        _visit(contestant, launch.port, site)
    except BaseException:
        for one in reversed(started):
            one.stop()
        raise
    return Running(contestant, launch, program, ready, started[:-1], total(program.tree).proportional)


def _ask(port: int, token: str | None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", PATH, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, {}, str(error).encode()
    finally:
        connection.close()


def _prove(contestant: Contestant, port: int, site: Site) -> None:
    """Ask as a client, without a key, with a wrong one, and from the wrong group."""
    token = site.keys[0].token
    until = time.monotonic() + 10
    status, headers, body = _ask(port, token)
    while status != 200 and time.monotonic() < until:
        # A port may be open before routes and upstreams are ready.
        time.sleep(0.1)
        status, headers, body = _ask(port, token)
    if status != 200 or b"api.content.read" not in body:
        raise BenchError(f"{contestant.name}: a good request is answered {status} {body[:300]!r}")
    if contestant.limits and not any("ratelimit" in name for name in headers):
        raise BenchError(f"{contestant.name}: no rate-limit headers in {headers}")
    if contestant.guards:
        wrong = f"{site.keys[0].public}.{site.keys[1].secret}"
        for sent, wanted in ((None, 401), (wrong, 401), (site.outsider.token, 403)):
            status, _, body = _ask(port, sent)
            if status != wanted:
                raise BenchError(f"{contestant.name}: {wanted} was due, it answered {status} {body[:300]!r}")


def _visit(contestant: Contestant, port: int, site: Site) -> None:
    """Use every key once, so that no measurement pays for what is done at a key's first use."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for key in site.keys:
            connection.request("GET", PATH, headers={"Authorization": f"Bearer {key.token}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise BenchError(f"{contestant.name}: the key {key.public} is answered {answer.status}")
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{contestant.name}: a connection broke: {error!r}") from None
    finally:
        connection.close()


def wrk(
    port: int, keys: Path, seconds: float, core: int | None, connections: int = CONNECTIONS, lines: Sequence[str] = ()
) -> dict[str, float]:
    """The closed loop: as many requests as go, each key of a file in turn; `lines` are further header lines.

    Returns `requests`, `seconds`, `p50_ms`, `p99_ms`, `bad_status` (answers that were not 2xx or 3xx) and `broken`
    (connections).  Raises BenchError.
    """
    script = Path(__file__).parent / "wrk.lua"
    whole = max(1, round(seconds))
    arguments = ["wrk", "-t1", f"-c{connections}", f"-d{whole}s", "--latency", "-s", str(script)]
    for line in lines:
        arguments += ["-H", line]
    said = subprocess.run(
        pinned([*arguments, f"http://127.0.0.1:{port}{PATH}", "--", str(keys)], core),
        capture_output=True,
        text=True,
        check=False,
        timeout=whole + 30,
    )
    for line in said.stdout.splitlines():
        if line.startswith("RESULT "):
            result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
            return result
    raise BenchError(f"wrk failed: {said.stderr or said.stdout}")


def _good(name: str, bad: float, what: str) -> None:
    if bad:
        raise BenchError(f"{name}: {bad:.0f} {what}")


def warm_up(running: Running, keys: Path, seconds: float, cores: Cores) -> None:
    """Load without measuring, so that connections, caches and code paths are warm."""
    wrk(running.launch.port, keys, seconds, cores.others)
    clear_logs(running)


def measure(running: Running, keys: Path, seconds: float, cores: Cores) -> Round:
    """One closed-loop round at saturation, kept in `running.rounds`.

    A round in which the whole machine stood still (a suspended virtual machine) says nothing and is repeated.
    """
    for _ in range(_ATTEMPTS):
        done = _closed_loop(running, keys, seconds, cores)
        if done.seconds <= max(1, round(seconds)) + _STALL:
            break
        print(f"{running.contestant.name}: the machine stood still for a while; the round is repeated", flush=True)
    running.rounds.append(done)
    running.loaded_bytes = max(running.loaded_bytes, total(running.program.tree).proportional)
    return done


def _closed_loop(running: Running, keys: Path, seconds: float, cores: Cores) -> Round:
    before = cpu_of(running.program.tree)
    began = time.monotonic()
    result = wrk(running.launch.port, keys, seconds, cores.others)
    took = time.monotonic() - began
    spent = cpu_of(running.program.tree) - before
    _good(running.contestant.name, result["bad_status"], "answers were not 2xx")
    _good(running.contestant.name, result["broken"], "connections broke")
    if running.program.process.poll() is not None:
        raise BenchError(f"{running.contestant.name} died: {running.program.complaint()}")
    requests = int(result["requests"])
    scale = 1e6 / max(requests, 1)
    clear_logs(running)
    return Round(
        requests,
        result["seconds"],
        (spent.user + spent.system) * scale,
        spent.user * scale,
        spent.system * scale,
        (spent.user + spent.system) / took,
        result["p50_ms"],
        result["p99_ms"],
    )


def measure_open_loop(running: Running, keys: Path, rate: float, seconds: float, cores: Cores) -> dict[str, float]:
    """One open-loop round at a rate, kept in `running.open_loop`."""
    arguments = [sys.executable, "-m", "bench.open_loop", "--port", str(running.launch.port), "--rate", f"{rate:.0f}"]
    arguments += ["--keys", str(keys), "--path", PATH, "--seconds", str(seconds)]
    said = subprocess.run(
        pinned(arguments, cores.others),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
    )
    if said.returncode:
        raise BenchError(f"the open-loop generator failed: {said.stderr[-1000:]}")
    result: dict[str, float] = json.loads(said.stdout)
    _good(running.contestant.name, result["refused"], "answers were not 200")
    _good(running.contestant.name, result["broken"], "connections broke")
    running.open_loop.append(result)
    clear_logs(running)
    return result


def clear_logs(running: Running) -> None:
    """Empty the files that it appends to, so that a run does not fill the disk."""
    for path in running.launch.logs:
        if path.exists():
            os.truncate(path, 0)
