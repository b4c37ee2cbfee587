"""Trials of a revocation: keys that are used without pause on kept connections to every worker, and then revoked.

Law: what counts is the moment at which the revocation was answered, by the clock that all of this process shares.  A
request that is sent after it and admitted is a violation, whatever else happened meanwhile; a connection that breaks is
none, and is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import Connection, request
from gateway.cli.control import Control

#: How long anything may take that must come, in seconds.
_PATIENCE = 60.0


def workers_of(status: int) -> list[int]:
    """The process ids of the workers, as `/status` tells them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{status}/status", timeout=_PATIENCE) as answer:
        return [int(worker["pid"]) for worker in json.loads(answer.read())["workers"]]


def holder_of(port: int, client: int, processes: Sequence[int]) -> int | None:
    """Which of these processes holds the connection to `port` of this machine from its port `client`, if one does."""
    wanted = f":{port:04X}", f":{client:04X}"
    inode = ""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if (columns[1][-5:], columns[2][-5:]) == wanted:
            inode = columns[9]
    for process in processes:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                # A descriptor may be closed, and a process end, while we look.
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) == f"socket:[{inode}]":
                        return process
    return None


@dataclass
class Findings:
    """What was seen: requests answered, those admitted though they were sent after the revocation's answer, how long
    each revocation took in seconds, and connections that ended and were replaced."""

    trials: int = 0
    answered: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    replaced: int = 0


class Caller:
    """One kept connection on which a token is used again and again; `worker` is the process that holds it.

    `pause` seconds are between an answer and the next request; `seen` judges each answer, and one that may not be is
    the last.
    """

    def __init__(
        self, connection: Connection, worker: int, pause: float, seen: Callable[[Caller, str, float, int], bool]
    ) -> None:
        self.connection = connection
        self.worker = worker
        self.token = ""
        self.broken = False
        #: The last answer: whose token, when the request was sent, the status.
        self.last = ("", 0.0, 0)
        self._pause = pause
        self._seen = seen
        self._answered = asyncio.Event()
        self._task = asyncio.create_task(self._call())

    async def _call(self) -> None:
        # A worker may end: what counts is what it has answered.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                token = self.token
                sent = time.monotonic()
                answer = await self.connection.ask(request("GET", "/trial", f"Authorization: Bearer {token}"))
                self.last = token, sent, answer.status
                if not self._seen(self, *self.last):
                    break
                self._answered.set()
                if self._pause:
                    await asyncio.sleep(self._pause)
        self.broken = True
        self._answered.set()

    async def until(self, condition: Callable[[str, float, int], bool]) -> bool:
        """Wait for an answer like this; False when the connection broke first.  Raises TimeoutError."""
        async with asyncio.timeout(_PATIENCE):
            while not self.broken and not condition(*self.last):
                self._answered.clear()
                await self._answered.wait()
        return not self.broken

    async def end(self) -> None:
        """Hang up."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.connection.writer.close()


class Trials:
    """Callers on every worker, and keys to be made and revoked over the control socket.

    `port` and `status` are the proxy's and the status listener's, `consumer` holds the keys, `workers` is how many
    there should be.  Every one has at least `each` connections; `pause` seconds are between two requests on one.
    """

    def __init__(
        self, port: int, status: int, control: Path, consumer: str, workers: int, pause: float = 0.0, each: int = 2
    ) -> None:
        self.findings = Findings()
        self.callers: list[Caller] = []
        self._port = port
        self._status = status
        self._control = Control(control)
        self._consumer = consumer
        self._workers = workers
        self._pause = pause
        self._each = each
        self._over: dict[str, float] = {}

    # ── keys ────────────────────────────────────────────────────────────────────────────────────

    async def make(self) -> tuple[str, str]:
        """`(id, token)` of a fresh key."""
        made = await asyncio.to_thread(self._control.create_key, self._consumer, {"name": "trial"})
        return str(made["id"]), str(made["key"])

    async def revoke(self, key_id: str, token: str) -> None:
        """Revoke a key; when this returns it is over."""

        def call() -> None:
            began = time.monotonic()
            self._control.revoke_key(key_id)
            ended = time.monotonic()
            self.over(token, ended)
            self.findings.seconds.append(ended - began)

        await asyncio.to_thread(call)

    def over(self, token: str, moment: float) -> None:
        """No request that is sent after this moment, by the monotonic clock, may be admitted with a token."""
        self._over[token] = moment

    def allowed(self, token: str) -> None:
        """A token may be admitted again."""
        self._over.pop(token, None)

    # ── callers ─────────────────────────────────────────────────────────────────────────────────

    async def workers(self) -> list[int]:
        """Their process ids, once all that should be there serve.  Raises TimeoutError."""
        async with asyncio.timeout(_PATIENCE):
            while len(found := await asyncio.to_thread(workers_of, self._status)) < self._workers:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.05)
        return found

    async def spread(self, token: str) -> None:
        """Replace callers whose connection broke, and see that every worker has its share."""
        for caller in [caller for caller in self.callers if caller.broken]:
            await self._drop(caller)
        async with asyncio.timeout(_PATIENCE):
            while True:
                workers = await self.workers()
                held = [caller.worker for caller in self.callers]
                if all(held.count(worker) >= self._each for worker in workers):
                    return
                opened = await self._open(token, workers)
                if opened is not None and held.count(opened.worker) >= self._each:
                    await self._drop(opened)

    async def _open(self, token: str, workers: Sequence[int]) -> Caller | None:
        """A caller on some worker, None where its connection broke at once."""
        try:
            connection = Connection(*await asyncio.open_connection("127.0.0.1", self._port))
            # Whoever answers holds it: before that it may still wait to be accepted.
            await connection.ask(request("GET", "/trial"))
        except (OSError, asyncio.IncompleteReadError):
            self.findings.replaced += 1
            return None
        client: int = connection.writer.get_extra_info("sockname")[1]
        worker = await asyncio.to_thread(holder_of, self._port, client, workers)
        if worker is None:
            connection.writer.close()
            return None
        caller = Caller(connection, worker, self._pause, self._judge)
        caller.token = token
        self.callers.append(caller)
        return caller

    async def _drop(self, caller: Caller) -> None:
        self.findings.replaced += caller.broken
        self.callers.remove(caller)
        await caller.end()

    def _judge(self, caller: Caller, token: str, sent: float, status: int) -> bool:
        """Note an answer; False where it is none that may be."""
        self.findings.answered += 1
        over = self._over.get(token)
        if over is not None and sent > over and status < 400:
            late = f", sent {(sent - over) * 1000:.3f} ms after the token was over"
        elif status not in (200, 401, 403):
            late = ""
        else:
            return True
        self.findings.violations.append(f"{status} from worker {caller.worker}{late}")
        return False

    # ── a trial ─────────────────────────────────────────────────────────────────────────────────

    async def use(self, *tokens: str) -> None:
        """Have every worker admit these tokens, each on a connection of its own, and go on using them."""
        await self.spread(tokens[0])
        ordered = sorted(self.callers, key=lambda caller: caller.worker)
        for number, caller in enumerate(ordered):
            caller.token = tokens[number % len(tokens)]
        for caller in ordered:
            await caller.until(lambda token, _, status: token in tokens and status == 200)

    async def refused(self, status: int = 401) -> None:
        """See every caller refused after its token was over."""
        for caller in self.callers:
            await caller.until(lambda token, sent, answer: sent > self._over.get(token, sent) and answer == status)

    async def trial(self) -> None:
        """Make a key, use it on every connection, revoke it, and see it refused on every connection."""
        key_id, token = await self.make()
        await self.use(token)
        await self.revoke(key_id, token)
        await self.refused()
        self.findings.trials += 1

    async def run(self, number: int) -> Findings:
        """So many trials, one after another, or as far as all goes well."""
        while self.findings.trials < number and not self.findings.violations:
            await self.trial()
        return self.findings


@contextlib.asynccontextmanager
async def trials(
    port: int, status: int, control: Path, consumer: str, workers: int, pause: float = 0.0
) -> AsyncIterator[Trials]:
    """Trials whose callers hang up in the end."""
    running = Trials(port, status, control, consumer, workers, pause)
    try:
        yield running
    finally:
        for caller in list(running.callers):
            await caller.end()
