"""Verifying keys: the remembered path in plain calls, the cold one shared, bounded and limited (`jobs.py`).

Laws:

* A remembered token costs one keyed digest and one look-up; it never waits for anybody.
* Unknown, wrong and foreign keys take the same way and get the same answer, each at the cost of the dearest hash
  there is.  What a key's status is, is told only to who has proven its secret.
* A look-up that an invalidation overtook is made again before anything is concluded or remembered.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from gateway.core.answers import DEPRECATED_KEY, EXPIRED_KEY, MALFORMED_TOKEN, REVOKED_KEY, VERIFY_FAILED
from gateway.core.decision import Deny, Pending
from gateway.core.errors import StoreError
from gateway.core.identity import Consumer, Identity, Status
from gateway.core.ports import KeyRecord
from gateway.core.units import Rate
from gateway.credentials.declared import (
    Declaration,
    Declared,
    DeclaredConsumer,
    DeclaredOrganization,
    changes_between,
)
from gateway.credentials.guesses import Guesses, network
from gateway.credentials.hashing import Hasher, cost_of, dummy_hash, wait
from gateway.credentials.jobs import Job, Jobs, Outcome, overloaded
from gateway.credentials.memory import FOREVER, Entry, Memory, Tally
from gateway.credentials.mint import NewKey, mint_key
from gateway.credentials.parse import Prefixes, parse_token

if TYPE_CHECKING:
    from gateway.core.ports import Clock, CredentialStore
    from gateway.credentials.secrets import SecretKey

_log = logging.getLogger("postern.credentials")

_MALFORMED = Deny(MALFORMED_TOKEN)
_UNVERIFIED = Deny(VERIFY_FAILED)
_REVOKED = Deny(REVOKED_KEY)
_EXPIRED = Deny(EXPIRED_KEY)
_DEPRECATED = Deny(DEPRECATED_KEY)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of verification: `credentials:` and `guesses:` of the file."""

    prefixes: Prefixes
    bcrypt_rounds: int
    failures: Rate


class Verifier:
    """The `Authenticator` of API keys.  All methods are called on the loop's thread, save `declaration`.

    `store` is asked for keys, `hasher` spends the bcrypt, `clock` times guesses and expiry, `secret_key` names
    legacy keys, `memory` bounds what is remembered.
    """

    def __init__(
        self,
        store: CredentialStore,
        hasher: Hasher,
        clock: Clock,
        secret_key: SecretKey,
        rules: Rules,
        memory: Memory | None = None,
    ) -> None:
        self.tally = Tally()
        self.memory = memory or Memory()
        self.store_up = True
        self._store = store
        self._hasher = hasher
        self._time = clock.time
        self._legacy_digest = secret_key.legacy_digest
        self._keyed = blake2b(digest_size=16, key=os.urandom(32))
        self._proven = self.memory.proven
        self._guesses = Guesses(rules.failures)
        self._jobs = Jobs(self._guesses, hasher, clock.monotonic_ns, self._judge)
        self._rules = rules
        self._declared = Declared()
        self._cost = 0
        self._raise_cost(rules.bcrypt_rounds)

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
        return self._verify_cold(token, digest, entry, client)

    def consumer(self, username: str) -> Consumer | None:
        """A declared consumer by name."""
        return self._declared.consumers.get(username)

    def still_valid(self, identity: Identity, now: float) -> bool:
        """False once the identity's credential, consumer or groups may have changed since it was verified."""
        credential = identity.credential
        if credential is None:
            return self._declared.consumers.get(identity.consumer.username) == identity.consumer
        entry = self.memory.entry_of(credential.id)
        return entry is not None and entry.answer is identity and now < entry.expires_at

    def remembered(self, token: bytes) -> Entry | None:
        """What is remembered of a proven token: its key, the answer to it, and until when that holds."""
        keyed = self._keyed.copy()
        keyed.update(token)
        return self._proven.get(keyed.digest())

    async def make_key(self) -> NewKey:
        """A new key under the rules in force, with its hash.  Raises `OverloadError`."""
        made = mint_key(self._rules.prefixes)
        return replace(made, secret_hash=await wait(self._hasher.hash(made.secret, self._rules.bcrypt_rounds)))

    # ── what changes ────────────────────────────────────────────────────────────────────────────

    @property
    def declared(self) -> Declared:
        """What the file in force declares."""
        return self._declared

    @property
    def rules(self) -> Rules:
        """The settings in force."""
        return self._rules

    def configure(self, rules: Rules) -> None:
        """Take the settings of a reloaded file; what is remembered and counted stands where they allow it."""
        if rules.prefixes != self._rules.prefixes:
            self.forget_all()
        self._raise_cost(rules.bcrypt_rounds)
        self._guesses.configure(rules.failures)
        self._rules = rules

    def declare(self, consumers: Iterable[DeclaredConsumer], organizations: Iterable[DeclaredOrganization]) -> None:
        """Take what a loaded file declares; only what differs from before is asked for again."""
        self.adopt(self.declaration(consumers, organizations))

    def declaration(
        self, consumers: Iterable[DeclaredConsumer], organizations: Iterable[DeclaredOrganization]
    ) -> Declaration:
        """What a file declares, compared with what holds, for `adopt`; changes nothing, and may run in a thread."""
        declared = Declared.build(consumers, organizations)
        cost = max((cost_of(record.credential.secret_hash) for record in declared.records()), default=0)
        return Declaration(declared, *changes_between(self._declared, declared), cost)

    def adopt(self, declaration: Declaration) -> None:
        """Take a declaration that was compared with what holds."""
        usernames, names = declaration.usernames, declaration.organizations
        self._declared = declaration.declared
        self._raise_cost(declaration.cost)
        if usernames or names:
            self._forget_where(
                lambda record: record.consumer.username in usernames or _organization_of(record) in names
            )

    def forget(self, kind: str, name: str) -> None:
        """Note a change in the store: `kind` is "key" or "consumer" with an id, "organization" with a name.

        From the return of this call on, no request is admitted on the old state.
        """
        if kind == "key":
            self._jobs.mark(lambda record: record.credential.id == name)
            self.memory.forget_key(name)
        elif kind == "consumer":
            self._jobs.mark(lambda record: name in (record.credential.consumer_id, record.consumer.id))
            self.memory.forget_consumer(name)
        elif kind == "organization":
            self._forget_where(lambda record: _organization_of(record) == name)
        else:
            self.forget_all()

    def forget_all(self) -> None:
        """Note that anything may have changed."""
        self._forget_where(lambda record: True)

    def _forget_where(self, affected: Callable[[KeyRecord], bool]) -> None:
        self._jobs.mark(affected)
        self.memory.forget_where(affected)

    # ── the cold path ───────────────────────────────────────────────────────────────────────────

    def _verify_cold(self, token: bytes, digest: bytes, entry: Entry | None, client: str) -> Outcome | Pending[Outcome]:
        address = network(client)
        if entry is None:
            refusal = self._jobs.refusal(address)
            if refusal is not None:
                return refusal
            if self.memory.is_wrong(digest):
                self.tally.wrong += 1
                return self._jobs.count_failure(address)
        job = self._jobs.get(digest)
        if job is not None:
            self.tally.shared += 1
            return self._jobs.join(job, address)
        job = self._job(token, digest)
        if job is None:
            return _MALFORMED
        if len(self._jobs) >= self._hasher.limit:
            return overloaded()
        self.tally.miss += 1
        return self._jobs.open(job, address, guess=entry is None)

    def _job(self, token: bytes, digest: bytes) -> Job | None:
        """What is to be looked up for a token, None when it has no key's shape and is no imported key."""
        if self._declared.legacy:
            name = self._legacy_digest(token)
            record = self._declared.legacy.get(name)
            if record is not None:
                return Job(digest, record.credential.identifier, token, name)
        parsed = parse_token(token, self._rules.prefixes)
        if parsed is None:
            return None
        # A key that cannot be ours takes the same way, so that it takes the same time.
        return Job(digest, parsed.public if parsed.ours else "", parsed.secret, None)

    async def _judge(self, job: Job) -> Outcome | None:
        """The answer to a token, remembered; None when it is wrong."""
        while True:
            job.stale, job.record = False, None
            try:
                row = await self._store.find_key(job.public)
            except StoreError as error:
                self._note_store(error)
                return _UNVERIFIED
            self._note_store(None)
            if not job.waiters:
                return _UNVERIFIED
            declared = self._declared
            named = declared.keys.get(job.public) if job.legacy is None else declared.legacy.get(job.legacy)
            record = job.record = declared.compose(named, row)
            if not await self._prove(job, record) or record is None:
                self.memory.drop(job.digest)
                if not job.stale:
                    self.memory.remember_wrong(job.digest)
                return None
            if not job.stale:
                answer, until = self._conclude(record)
                self.memory.remember(job.digest, Entry(answer, until, record))
                return answer

    async def _prove(self, job: Job, record: KeyRecord | None) -> bool:
        """Whether the token's secret is the record's, by a proof that is remembered or by spending a hash."""
        hashed = "" if record is None else record.credential.secret_hash
        entry = self._proven.get(job.digest)
        if entry is not None:
            job.proven = entry.record.credential.secret_hash
        if hashed and job.proven == hashed:
            return True
        if record is not None and job.legacy is not None and not hashed:
            return True  # declared by its keyed digest alone, and it has that digest
        self._raise_cost(cost_of(hashed))
        job.hashing = self._hasher.check(job.secret, hashed or self._dummy, self._cost)
        matches = await wait(job.hashing)
        job.hashing = None
        if not matches or not hashed:
            return False
        job.proven = hashed
        return True

    def _raise_cost(self, cost: int) -> None:
        """Make whatever is wrong cost as much as a hash of this cost."""
        if cost > self._cost:
            self._cost = cost
            self._dummy = dummy_hash(cost)

    def _conclude(self, record: KeyRecord) -> tuple[Outcome, float]:
        """What a proven secret is worth now, and until when: revoked before expired before deprecated."""
        credential = record.credential
        expires_at = FOREVER if credential.expires_at is None else credential.expires_at
        if credential.status is Status.REVOKED:
            return _REVOKED, FOREVER
        if expires_at <= self._time():
            return _EXPIRED, FOREVER
        if credential.status is Status.DEPRECATED:
            return _DEPRECATED, expires_at
        return Identity(record.consumer, credential, credential.scopes), expires_at

    def _note_store(self, error: StoreError | None) -> None:
        if error is not None and self.store_up:
            _log.error("the identity store cannot be asked: %s", error)
        elif error is None and not self.store_up:
            _log.info("the identity store answers again")
        self.store_up = error is None


def _organization_of(record: KeyRecord) -> str | None:
    organization = record.consumer.organization
    return None if organization is None else organization.name
