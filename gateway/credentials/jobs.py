"""Tokens being verified: one job a token, whoever and however many wait for it.

Laws:

* A job is charged to the address that opened it, and starts only with a reservation there.  When failures and
  guesses in flight fill an address's window, further jobs park until one of them ends: what turns out right makes
  room, and once the window is full of failures all that parks is refused.  So a burst of wrong keys spends no
  more hashes than the limit says, and a burst of good ones is merely verified in turn.
* A job that nobody waits for any more is dropped, unless its hash is running: that is paid for, and counts.
* Every waiter is answered exactly once, and on the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from gateway.core.answers import INVALID_KEY, OVERLOADED, TOO_MANY_FAILURES
from gateway.core.decision import Deny, Pending
from gateway.core.errors import OverloadError
from gateway.core.identity import Identity
from gateway.core.ports import KeyRecord
from gateway.credentials.guesses import Guesses
from gateway.credentials.hashing import Hasher

Outcome = Identity | Deny
_Answers = list[tuple[Pending[Outcome], Outcome | BaseException]]

_INVALID = Deny(INVALID_KEY)
_NANOSECONDS = 1_000_000_000


class Job:
    """One token being verified: its digest, and the public part and secret to look up and to check.

    `legacy` is the digest of an imported key, `lead` the address that is charged, `waiters` map who waits to
    their address.  `record` is what the store said, None before; `stale` says that it has changed since;
    `proven` is the hash that the secret was found to have.
    """

    __slots__ = (
        "digest",
        "hashing",
        "lead",
        "legacy",
        "proven",
        "public",
        "record",
        "reserved",
        "secret",
        "stale",
        "task",
        "waiters",
    )

    def __init__(self, digest: bytes, public: str, secret: bytes, legacy: str | None) -> None:
        self.digest = digest
        self.public = public
        self.secret = secret
        self.legacy = legacy
        self.lead = ""
        self.proven = ""
        self.waiters: dict[Pending[Outcome], str] = {}
        self.reserved = False
        self.stale = False
        self.record: KeyRecord | None = None
        self.hashing: Pending[bool] | None = None
        self.task: asyncio.Task[None] | None = None


class Jobs:
    """The jobs of a verifier.

    `judge` verifies one job: an outcome, None for a wrong token, or an exception.
    """

    def __init__(
        self,
        guesses: Guesses,
        hasher: Hasher,
        monotonic_ns: Callable[[], int],
        judge: Callable[[Job], Awaitable[Outcome | None]],
    ) -> None:
        self._guesses = guesses
        self._hasher = hasher
        self._monotonic_ns = monotonic_ns
        self._judge = judge
        self._jobs: dict[bytes, Job] = {}
        self._parked: dict[str, deque[Job]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, digest: bytes) -> Job | None:
        """The job of a token, if it is being verified."""
        return self._jobs.get(digest)

    def open(self, job: Job, address: str, *, guess: bool) -> Pending[Outcome]:
        """Take a job on.  `guess` says that the token is not known to be genuine, so a reservation is needed."""
        self._jobs[job.digest] = job
        job.lead = address
        pending = self.join(job, address)
        if guess:
            self._admit(job)
        else:
            self._start(job)
        return pending

    def join(self, job: Job, address: str) -> Pending[Outcome]:
        """Wait for a job."""
        pending: Pending[Outcome] = Pending(on_cancel=lambda: self._leave(job, pending))
        job.waiters[pending] = address
        return pending

    def mark(self, affected: Callable[[KeyRecord], bool]) -> None:
        """Make those jobs ask again whose record is affected by a change, or may be."""
        for job in self._jobs.values():
            if job.record is None or affected(job.record):
                job.stale = True

    def refusal(self, address: str) -> Deny | None:
        """The refusal of any further guess from an address, None while it has failures left."""
        blocked = self._guesses.blocked(address, self._monotonic_ns())
        return _too_many(blocked) if blocked else None

    def count_failure(self, address: str) -> Deny:
        """Count a failed authentication, and the answer to it."""
        now = self._monotonic_ns()
        if self._guesses.fail(address, now):
            return _INVALID
        return _too_many(self._guesses.blocked(address, now))

    # ── a job's life ────────────────────────────────────────────────────────────────────────────

    def _admit(self, job: Job) -> None:
        """Start a job if its address has room for another guess, park it otherwise."""
        if self._guesses.reserve(job.lead, self._monotonic_ns()):
            job.reserved = True
            self._start(job)
        else:
            self._parked.setdefault(job.lead, deque()).append(job)

    def _start(self, job: Job) -> None:
        job.task = asyncio.get_running_loop().create_task(self._run(job))

    async def _run(self, job: Job) -> None:
        try:
            outcome = await self._judge(job)
        except OverloadError as error:
            outcome = overloaded(error.retry_after)
        except Exception as error:  # noqa: BLE001  # a fault: handed to everyone who waits
            self._finish(job)
            _deliver([(pending, error) for pending in job.waiters])
            return
        if outcome is not None:
            self._finish(job)
            _deliver([(pending, outcome) for pending in job.waiters])
            return
        self._release(job)
        if not job.waiters:
            self.count_failure(job.lead)
        answers: _Answers = [(pending, self.count_failure(address)) for pending, address in job.waiters.items()]
        self._finish(job)
        _deliver(answers)

    def _leave(self, job: Job, pending: Pending[Outcome]) -> None:
        if job.waiters.pop(pending, None) is None or job.waiters:
            return
        if job.task is None:
            self._unpark(job)
        elif job.hashing is not None and self._hasher.drop(job.hashing):
            job.task.cancel()
        else:
            return  # the judge sees that nobody waits, or its hash is running
        self._finish(job)

    def _unpark(self, job: Job) -> None:
        queue = self._parked.get(job.lead)
        if queue is not None and job in queue:
            queue.remove(job)
            if not queue:
                del self._parked[job.lead]

    def _release(self, job: Job) -> None:
        if job.reserved:
            self._guesses.release(job.lead)
            job.reserved = False

    def _finish(self, job: Job) -> None:
        """Take a job off the books; those that parked behind it may go on."""
        if self._jobs.get(job.digest) is job:
            del self._jobs[job.digest]
        self._release(job)
        self._advance(job.lead)

    def _advance(self, address: str) -> None:
        """Start what is parked under an address as far as there is room; refuse it all once there will be none."""
        refused: _Answers = []
        addresses = [address]
        while addresses:
            for job in self._go_on(addresses.pop(), refused):
                # Others wait for the same token from elsewhere; the first of them is charged now.
                job.lead = next(iter(job.waiters.values()))
                self._admit(job)
                # Nothing may be in flight there that would come back for what has just parked.
                addresses.append(job.lead)
        _deliver(refused)

    def _go_on(self, address: str, refused: _Answers) -> list[Job]:
        """`_advance` for one address: adds the refusals, returns the jobs that others wait for."""
        queue = self._parked.get(address)
        moved: list[Job] = []
        while queue:
            now = self._monotonic_ns()
            blocked = self._guesses.blocked(address, now)
            if blocked:
                job = queue.popleft()
                refused += [(pending, _too_many(blocked)) for pending in _of(job, address)]
                if job.waiters:
                    moved.append(job)
                else:
                    del self._jobs[job.digest]
            elif self._guesses.reserve(address, now):
                job = queue.popleft()
                job.reserved = True
                self._start(job)
            else:
                break
        if queue is not None and not queue:
            del self._parked[address]
        return moved


def _of(job: Job, address: str) -> list[Pending[Outcome]]:
    """Take from a job those who wait at an address."""
    waiting = [pending for pending, where in job.waiters.items() if where == address]
    for pending in waiting:
        del job.waiters[pending]
    return waiting


def overloaded(seconds: int = 1) -> Deny:
    """The refusal of more work than is taken on."""
    return Deny(OVERLOADED, headers=((b"Retry-After", str(seconds).encode()),))


def _too_many(nanoseconds: int) -> Deny:
    seconds = max(1, -(-nanoseconds // _NANOSECONDS))
    return Deny(
        TOO_MANY_FAILURES,
        headers=((b"Retry-After", str(seconds).encode()),),
        members={"violated-policies": ["guesses"]},
    )


def _deliver(answers: _Answers) -> None:
    """Hand out all answers, whatever a receiver makes of its own."""
    for pending, answer in answers:
        try:
            if isinstance(answer, BaseException):
                pending.fail(answer)
            else:
                pending.resolve(answer)
        except Exception as error:  # noqa: BLE001  # one receiver's fault must not cost the others their answer
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request failed when its key had been verified", "exception": error}
            )
