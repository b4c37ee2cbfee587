"""Load in which each request is accounted for: answered as it should be, or a failure with its connection and times.

Three kinds of clients, since they notice different things: `kept` ask again on their connection as soon as they are
answered, `fresh` connect for each request, `pausing` let their connection idle between requests.  Law: no retries, no
excuses.  A kept connection that was closed before it is used again is replaced, as every client does; a request that
was sent and not answered is a failure, also where its connection ended while it was on its way.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvloop

from bench.client import Answer, Connection

#: Seconds after which a request counts as not answered.
PATIENCE = 30.0
#: The longest pause of a pausing client, and what the others wait between two requests, in seconds.
LONGEST_PAUSE = 2.5
BREATH = 0.002


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered as it should be; times are of the monotonic clock, in seconds.

    `port` is the client's (0: it never had a connection), `opened` when it connected, `sent` when the request went out.
    """

    why: str
    port: int
    opened: float
    sent: float
    ended: float


@dataclass
class Ledger:
    """What came of all requests."""

    answered: int = 0
    connections: int = 0
    #: Kept connections that had been closed before they were used again.
    replaced: int = 0
    longest: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Connections that were refused."""
        return sum(1 for one in self.failures if one.why == "refused")

    def reasons(self) -> Counter[str]:
        """How often requests failed for each reason."""
        return Counter(one.why for one in self.failures)


@dataclass(frozen=True, slots=True)
class Clients:
    """How many of each kind there are."""

    kept: int = 8
    fresh: int = 4
    pausing: int = 8


def status_200(answer: Answer) -> str:
    """What is wrong with an answer; empty where nothing is."""
    return "" if answer.status == 200 else f"status {answer.status}"


class Load:
    """Clients that ask until they are stopped; `ledger` holds what came of it."""

    def __init__(
        self,
        port: Callable[[], int],
        requests: Sequence[bytes],
        clients: Clients,
        judge: Callable[[Answer], str] = status_200,
    ) -> None:
        """`port` gives the port of each new connection, `requests` are sent in turn, `judge` says what is wrong with an
        answer."""
        self._port = port
        self._requests = requests
        self._clients = clients
        self._judge = judge
        self._number = 0
        self._stopping = False
        self.ledger = Ledger()

    async def run(self) -> None:
        """Ask until `stop`; ends when each client has its last answer."""
        clients = self._clients
        async with asyncio.TaskGroup() as group:
            for _ in range(clients.kept):
                group.create_task(self._ask_on(fresh=False, pause=0))
            for _ in range(clients.fresh):
                group.create_task(self._ask_on(fresh=True, pause=0))
            for _ in range(clients.pausing):
                group.create_task(self._ask_on(fresh=False, pause=LONGEST_PAUSE))

    def stop(self) -> None:
        """Ask no more; may be called from any thread."""
        self._stopping = True

    async def _ask_on(self, *, fresh: bool, pause: float) -> None:
        connection: Connection | None = None
        opened = 0.0
        ledger = self.ledger
        while not self._stopping:
            if connection is not None and not connection.usable:
                ledger.replaced += 1
                connection.close()
                connection = None
            if connection is None:
                opened = time.monotonic()
                connection = await self._open()
                if connection is None:
                    await asyncio.sleep(0.01)
                    continue
            if not await self._ask(connection, opened) or fresh:
                connection.close()
                connection = None
            await asyncio.sleep(random.uniform(0, pause) if pause else BREATH)
        if connection is not None:
            connection.close()

    async def _open(self) -> Connection | None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                connection = await Connection.open(self._port())
        except (OSError, TimeoutError) as error:
            why = "refused" if isinstance(error, ConnectionRefusedError) else f"not connected: {type(error).__name__}"
            self.ledger.failures.append(Failure(why, 0, began, began, time.monotonic()))
            return None
        self.ledger.connections += 1
        return connection

    async def _ask(self, connection: Connection, opened: float) -> bool:
        """One request; False where its connection cannot be used again."""
        ledger = self.ledger
        self._number += 1
        sockname = connection.writer.get_extra_info("sockname")
        sent = time.monotonic()
        why = ""
        answer: Answer | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await connection.ask(self._requests[self._number % len(self._requests)])
        except TimeoutError:
            why = "not answered"
        except asyncio.IncompleteReadError as error:
            why = "cut" if error.partial else "closed"
        except OSError as error:
            why = type(error).__name__
        ended = time.monotonic()
        if answer is not None:
            why = self._judge(answer)
        if why:
            ledger.failures.append(Failure(why, sockname[1] if sockname else 0, opened, sent, ended))
        else:
            ledger.answered += 1
            ledger.longest = max(ledger.longest, ended - sent)
        return answer is not None and answer.headers.get("connection", "").lower() != "close"


@contextmanager
def in_background(load: Load) -> Iterator[Ledger]:
    """Run a load in a thread of its own; its clients have their last answers when this ends."""
    broken: list[BaseException] = []

    def work() -> None:
        try:
            uvloop.run(load.run())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            broken.append(error)

    thread = threading.Thread(target=work, name="load", daemon=True)
    thread.start()
    try:
        yield load.ledger
    finally:
        load.stop()
        thread.join()
    if broken:
        raise broken[0]
