"""Verifying keys in a worker: the remembered path in plain calls, everything else asked of the control process.

Laws:

* A remembered token costs one keyed digest and one look-up, as in `verify`; it never waits for anybody.
* A worker concludes nothing by itself.  What it remembers it was told, and forgets when it is told of a change, when
  nobody has told it anything for too long, and for good when the control process is gone: then every answer is 500.
  So is the answer to who would have to wait for a control process that says nothing at all.
* What is told comes in order.  The control process forgets before it tells of a change, so an answer that arrives
  before the change is forgotten with all others, and one that arrives after it was found after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol

from gateway.core.answers import MALFORMED_TOKEN, VERIFY_FAILED
from gateway.core.decision import Deny, Pending
from gateway.core.errors import StoreError
from gateway.core.identity import Consumer, Identity
from gateway.core.ports import KeyRecord
from gateway.credentials.declared import Declared, DeclaredConsumer, DeclaredOrganization
from gateway.credentials.memory import Entry, Memory, Tally
from gateway.credentials.wire import Judgement

if TYPE_CHECKING:
    from gateway.core.ports import Clock

Outcome = Identity | Deny

_MALFORMED = Deny(MALFORMED_TOKEN)
_UNVERIFIED = Deny(VERIFY_FAILED)
_NANOSECONDS = 1_000_000_000
#: So many looks, four a second, without a word from the control process: nobody waits for it any longer.  Looks and not
#: seconds, because who slept cannot say who else did.
_SILENCE: Final = 20


class Link(Protocol):
    """The way to the control process (`questions.Questions`)."""

    def ask(self, token: bytes, client: str) -> Pending[Judgement]:
        """Have a token judged for a client's address; fails with `StoreError` when that cannot be had."""
        ...

    def give_up(self) -> None:
        """Fail all that has been asked and not answered yet."""
        ...


class _Waiting:
    """Who waits for the control process's judgement of a token; `digest` names the token."""

    __slots__ = ("digest", "outcome", "verifier")

    def __init__(self, verifier: DelegatedVerifier, digest: bytes, outcome: Pending[Outcome]) -> None:
        self.verifier = verifier
        self.digest = digest
        self.outcome = outcome

    def told(self, judgement: Judgement) -> None:
        self.outcome.resolve(self.verifier.learn(self.digest, judgement))

    def failed(self, error: BaseException) -> None:
        if isinstance(error, StoreError):
            self.outcome.resolve(_UNVERIFIED)
        else:
            self.outcome.fail(error)


class DelegatedVerifier:
    """The `Authenticator` of a worker.  All methods are called on the loop's thread.

    `link` leads to the control process; `max_staleness` is how long, in seconds, what is remembered is believed while
    nobody tells of changes; `memory` bounds what is remembered.  `tally.hit` counts what was answered from memory here;
    the rest is counted where it is judged.
    """

    def __init__(self, link: Link, clock: Clock, max_staleness: float, memory: Memory | None = None) -> None:
        self.tally = Tally()
        self.memory = memory or Memory()
        self._link = link
        self._monotonic_ns = clock.monotonic_ns
        self._max_staleness = max_staleness
        self._keyed = blake2b(digest_size=16, key=os.urandom(32))
        self._proven = self.memory.proven
        self._consumers: dict[str, Consumer] = {}
        self._heard = clock.monotonic_ns()
        #: Looks since the control process was last heard.
        self._silent = 0
        self._lost = False

    # ── the port ────────────────────────────────────────────────────────────────────────────────

    def verify_key(self, token: bytes, client: str, now: float) -> Outcome | Pending[Outcome]:
        """Verify a whole token for a client's address at `now`, Unix seconds.

        Returns the identity, a refusal, or a `Pending` of one of them.
        """
        keyed = self._keyed.copy()
        keyed.update(token)
        digest = keyed.digest()
        entry = self._proven.get(digest)
        if entry is not None:
            answer = entry.answer
            if answer is not None and now < entry.expires_at:
                self._proven.move_to_end(digest)
                self.tally.hit += 1
                return answer
        return self._have_judged(token, digest, client)

    def consumer(self, username: str) -> Consumer | None:
        """A declared consumer by name, of those that the worker was told of."""
        return self._consumers.get(username)

    def still_valid(self, identity: Identity, now: float) -> bool:
        """False once the identity's credential, consumer or groups may have changed since it was verified."""
        credential = identity.credential
        if credential is None:
            return self._consumers.get(identity.consumer.username) == identity.consumer
        entry = self.memory.entry_of(credential.id)
        return entry is not None and entry.answer is identity and now < entry.expires_at

    # ── what changes ────────────────────────────────────────────────────────────────────────────

    def configure(
        self,
        max_staleness: float,
        consumers: Iterable[DeclaredConsumer],
        organizations: Iterable[DeclaredOrganization],
    ) -> None:
        """Take what a configuration says: the setting, and the consumers that stand in for who shows no credential."""
        self._max_staleness = max_staleness
        self._consumers = Declared.build(consumers, organizations).consumers

    def forget(self, kind: str, name: str) -> None:
        """Note a change in the store: `kind` is "key" or "consumer" with an id, "organization" with a name.

        From the return of this call on, no request is admitted on the old state.
        """
        if kind == "key":
            self.memory.forget_key(name)
        elif kind == "consumer":
            self.memory.forget_consumer(name)
        elif kind == "organization":
            self.memory.forget_where(lambda record: _organization_of(record) == name)
        else:
            self.forget_all()

    def forget_declared(self, usernames: frozenset[str], organizations: frozenset[str]) -> None:
        """Note that a configuration says something else than before of these consumers and organizations."""
        if usernames or organizations:
            self.memory.forget_where(
                lambda record: record.consumer.username in usernames or _organization_of(record) in organizations
            )

    def forget_all(self) -> None:
        """Note that anything may have changed."""
        self.memory.clear()

    # ── who tells of changes ────────────────────────────────────────────────────────────────────

    def heard(self, age: float) -> None:
        """Note that the control process lives, and heard the change feed to its end `age` seconds ago."""
        self._heard = self._monotonic_ns() - int(age * _NANOSECONDS)
        self._silent = 0

    def check_staleness(self) -> None:
        """Forget everything if it is too long ago that changes were heard of, and let nobody wait for who is silent.

        To be called four times a second.
        """
        self._silent += 1
        if self._silent > _SILENCE:
            self._link.give_up()
        if self._monotonic_ns() - self._heard > self._max_staleness * _NANOSECONDS:
            self.forget_all()

    def lose(self) -> None:
        """The control process is gone: nothing is believed or learnt any more."""
        self._lost = True
        self.forget_all()

    # ── asking ──────────────────────────────────────────────────────────────────────────────────

    def _have_judged(self, token: bytes, digest: bytes, client: str) -> Outcome | Pending[Outcome]:
        if self.memory.is_wrong(digest):
            return _MALFORMED
        if self._lost or self._silent > _SILENCE:
            return _UNVERIFIED
        question = self._link.ask(token, client)
        outcome: Pending[Outcome] = Pending(on_cancel=question.cancel)
        waiting = _Waiting(self, digest, outcome)
        question.then(waiting.told, waiting.failed)
        return outcome

    def learn(self, digest: bytes, judgement: Judgement) -> Outcome:
        """Take the judgement of a token, and remember it as far as it allows; the answer to the token."""
        outcome, record = judgement.outcome, judgement.record
        if self._lost:
            return _UNVERIFIED
        if not judgement.remember:
            return outcome
        if record is None:
            self.memory.remember_wrong(digest)
            return outcome
        entry = self._proven.get(digest)
        if entry is not None:
            answer = entry.answer
            if isinstance(answer, Identity) and entry.expires_at == judgement.until and entry.record == record:
                return answer  # several asked at once: who asked first goes on to hold the same identity
        self.memory.remember(digest, Entry(outcome, judgement.until, record))
        return outcome


def _organization_of(record: KeyRecord) -> str | None:
    organization = record.consumer.organization
    return None if organization is None else organization.name
