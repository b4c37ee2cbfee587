"""bcrypt off the event loop: a small bounded pool of threads that never slow the loop.

Law: the loop's thread only queues and delivers.  Threads lower their own priority, take jobs in order of
arrival, and hand results back with `call_soon_threadsafe`.  A queued job that nobody waits for is dropped;
one that runs is finished.  More than `limit` jobs are refused with `OverloadError`.

bcrypt reads 72 bytes and refuses more: a longer secret is wrong, and costs as much as any other wrong one.  So
does the wrong secret of a key whose own hash is cheap: by its time nobody can tell that the key exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.core.decision import Pending
from gateway.core.errors import OverloadError

T = TypeVar("T")

#: What bcrypt reads of a secret, in bytes.
SECRET_LIMIT = 72

#: Distinct jobs that may wait at once.
JOB_LIMIT = 4096

_BCRYPT_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_NICE = 10


def dummy_hash(rounds: int) -> str:
    """A hash of `rounds` that no secret has: random where a digest would stand, so making it costs nothing."""
    salt = "".join(secrets.choice(_BCRYPT_ALPHABET) for _ in range(21)) + secrets.choice(".Oeu")
    digest = "".join(secrets.choice(_BCRYPT_ALPHABET) for _ in range(31))
    return f"$2b${rounds:02d}${salt}{digest}"


def cost_of(hashed: str) -> int:
    """The cost of a bcrypt hash, 0 for what is none."""
    parts = hashed.split("$")
    return int(parts[2]) if len(parts) == 4 and parts[2].isdecimal() else 0


def _check(secret: bytes, hashed: str, cost: int) -> bool:
    import bcrypt

    read = secret[:SECRET_LIMIT]
    if bcrypt.checkpw(read, hashed.encode("utf-8")) and read == secret:
        return True
    # Costs double, so one wrong check of each lower one adds up to the wanted cost.
    for lower in range(cost_of(hashed), cost):
        bcrypt.checkpw(read, dummy_hash(lower).encode("ascii"))
    return False


def _hash(secret: bytes, rounds: int) -> str:
    import bcrypt

    return bcrypt.hashpw(secret, bcrypt.gensalt(rounds)).decode("ascii")


def default_threads() -> int:
    """One thread on one or two cores, half of the cores up to four on more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores // 2))


def _lower_priority() -> None:
    if sys.platform == "linux":
        # A sandbox may forbid it; hashing then merely competes with the loop on equal terms.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class Hasher:
    """The pool.  Every method is called on the loop's thread.

    `loop` gets the results, `threads` is the size of the pool (None: by the cores), `limit` the most jobs
    that may be queued or running.  Threads start with the first job.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, threads: int | None = None, limit: int = JOB_LIMIT) -> None:
        self.limit = limit
        self._loop = loop
        self._size = threads or default_threads()
        self._threads: list[threading.Thread] = []
        self._ready = threading.Condition()
        self._queue: OrderedDict[Pending[Any], Callable[[], Any]] = OrderedDict()
        self._closed = False
        self._depth = 0

    @property
    def depth(self) -> int:
        """Jobs queued or running, for `postern_bcrypt_queue`."""
        return self._depth

    def check(self, secret: bytes, hashed: str, cost: int = 0) -> Pending[bool]:
        """Whether a bcrypt hash is this secret's; if not, to find that out costs 2**cost at least.

        Raises `OverloadError` past the limit; the `Pending` fails with ValueError when the hash is malformed.
        """
        return self._submit(lambda: _check(secret, hashed, cost))

    def hash(self, secret: bytes, rounds: int) -> Pending[str]:
        """The bcrypt hash of a secret of at most 72 bytes, with a cost of 2**rounds.  Raises `OverloadError`."""
        if len(secret) > SECRET_LIMIT:
            raise ValueError(f"a secret may have at most {SECRET_LIMIT} bytes")
        return self._submit(lambda: _hash(secret, rounds))

    def drop(self, job: Pending[Any]) -> bool:
        """Take a job back that nobody waits for; False when it runs already and will be finished."""
        with self._ready:
            if self._queue.pop(job, None) is None:
                return False
        self._depth -= 1
        return True

    def close(self) -> None:
        """End the threads after the jobs that they are at; queued jobs are forgotten."""
        with self._ready:
            self._closed = True
            self._queue.clear()
            self._ready.notify_all()

    def _submit(self, work: Callable[[], T]) -> Pending[T]:
        if self._depth >= self.limit:
            raise OverloadError("too many secrets wait to be verified")
        job: Pending[T] = Pending(on_cancel=lambda: self._forget(job))
        if len(self._threads) < self._size:
            thread = threading.Thread(target=self._run, name=f"bcrypt-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._depth += 1
        with self._ready:
            self._queue[job] = work
            self._ready.notify()
        return job

    def _forget(self, job: Pending[Any]) -> None:
        self.drop(job)

    def _run(self) -> None:
        _lower_priority()
        while True:
            with self._ready:
                while not self._queue and not self._closed:
                    self._ready.wait()
                if self._closed:
                    return
                job, work = self._queue.popitem(last=False)
            result: Any = None
            error: Exception | None = None
            try:
                result = work()
            except Exception as raised:  # noqa: BLE001  # handed to whoever waits
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._deliver, job, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody is left to hear of it

    def _deliver(self, job: Pending[Any], result: Any, error: Exception | None) -> None:
        self._depth -= 1
        if error is not None:
            job.fail(error)
        else:
            job.resolve(result)


async def wait(pending: Pending[T]) -> T:
    """Await a `Pending` from a coroutine; cancelling the coroutine does not cancel the job."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def take(value: T) -> None:
        if not future.done():
            future.set_result(value)

    def fault(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    pending.then(take, fault)
    return await future
