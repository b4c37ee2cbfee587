"""What the verifier remembers: proven tokens, and wrong ones, never a secret itself.

Law: a token is remembered as a keyed 16-byte digest under a key that lives only in this process.  Proven and
wrong tokens are kept apart and each is bounded, so a flood of wrong keys evicts no good one.

A proof (this token has that bcrypt hash) is true for ever; what was concluded from it (who it is, whether it is
revoked) is true until something changes.  So an invalidation clears the conclusion and keeps the proof: the next
use asks the store again but spends no hash.  What one key or one consumer has is found without looking at the rest,
since changes come many at a time and nobody is served meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from gateway.core.decision import Deny
from gateway.core.identity import Identity
from gateway.core.ports import KeyRecord

FOREVER = float("inf")


class Entry:
    """A proven token: the key it belongs to, and the answer to it, None once it must be asked for again.

    The answer holds until `expires_at`, Unix seconds.
    """

    __slots__ = ("answer", "expires_at", "record")

    def __init__(self, answer: Identity | Deny, expires_at: float, record: KeyRecord) -> None:
        self.answer: Identity | Deny | None = answer
        self.expires_at = expires_at
        self.record = record


class Tally:
    """How tokens were answered, for `postern_credential_cache_total`: from memory, by work, known wrong, by joining."""

    __slots__ = ("hit", "miss", "shared", "wrong")

    def __init__(self) -> None:
        self.hit = 0
        self.miss = 0
        self.wrong = 0
        self.shared = 0

    def counts(self) -> dict[str, float]:
        """How often tokens were answered in each way, by its name."""
        return {"hit": self.hit, "miss": self.miss, "wrong": self.wrong, "shared": self.shared}


class Memory:
    """`proven` maps digests to entries, the least recently used first; `good` and `bad` bound both kinds of token."""

    def __init__(self, good: int = 100_000, bad: int = 16_384) -> None:
        self.proven: OrderedDict[bytes, Entry] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._by_key: dict[str, bytes] = {}
        self._by_consumer: dict[str, list[bytes]] = {}
        self._good, self._bad = good, bad

    def entry_of(self, key_id: str) -> Entry | None:
        """The entry of a key by its id."""
        digest = self._by_key.get(key_id)
        return None if digest is None else self.proven.get(digest)

    def remember(self, digest: bytes, entry: Entry) -> None:
        """Remember a proven token; past the bound the one used longest ago goes."""
        before = self.proven.get(digest)
        owners = _owners(entry.record)
        if before is None or _owners(before.record) != owners:
            if before is not None:
                self._disown(digest, before)
            for owner in owners:
                self._by_consumer.setdefault(owner, []).append(digest)
        self.proven[digest] = entry
        self.proven.move_to_end(digest)
        self._by_key[entry.record.credential.id] = digest
        if len(self.proven) > self._good:
            self.drop(next(iter(self.proven)))

    def drop(self, digest: bytes) -> None:
        """Forget a token altogether, its proof included."""
        entry = self.proven.pop(digest, None)
        if entry is None:
            return
        self._disown(digest, entry)
        if self._by_key.get(entry.record.credential.id) == digest:
            del self._by_key[entry.record.credential.id]

    def _disown(self, digest: bytes, entry: Entry) -> None:
        for owner in _owners(entry.record):
            digests = self._by_consumer[owner]
            digests.remove(digest)
            if not digests:
                del self._by_consumer[owner]

    def remember_wrong(self, digest: bytes) -> None:
        """Remember that a token is wrong; past the bound the one seen longest ago goes."""
        self._wrong[digest] = None
        if len(self._wrong) > self._bad:
            self._wrong.popitem(last=False)

    def is_wrong(self, digest: bytes) -> bool:
        """Whether the token was found wrong, and nothing has changed since."""
        if digest not in self._wrong:
            return False
        self._wrong.move_to_end(digest)
        return True

    @property
    def sizes(self) -> tuple[int, int]:
        """How many proven and how many wrong tokens are remembered."""
        return len(self.proven), len(self._wrong)

    def forget_key(self, key_id: str) -> None:
        """Clear what was concluded about one key, and all that was found wrong."""
        self._wrong.clear()
        entry = self.entry_of(key_id)
        if entry is not None:
            entry.answer = None

    def forget_consumer(self, consumer_id: str) -> None:
        """Clear what was concluded about a consumer's keys, and all that was found wrong."""
        self._wrong.clear()
        for digest in self._by_consumer.get(consumer_id, ()):
            self.proven[digest].answer = None

    def forget_where(self, affected: Callable[[KeyRecord], bool]) -> None:
        """Clear what was concluded about all keys that `affected` picks, and all that was found wrong."""
        self._wrong.clear()
        for entry in self.proven.values():
            if affected(entry.record):
                entry.answer = None

    def clear(self) -> None:
        """Forget everything, proofs included."""
        self.proven.clear()
        self._by_key.clear()
        self._by_consumer.clear()
        self._wrong.clear()


def _owners(record: KeyRecord) -> tuple[str, ...]:
    """The ids by which a change of the key's consumer is told: the stored one's, and the one's in force."""
    stored, consumer = record.credential.consumer_id, record.consumer.id
    return (stored,) if stored == consumer else (stored, consumer)
