"""A store, a hasher and a clock in memory, so that the verifier is tested without threads, databases and waiting."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.core.decision import Deny, Pending
from gateway.core.errors import OverloadError, StoreError
from gateway.core.identity import Consumer, Credential, Identity
from gateway.core.ports import KeyRecord
from gateway.core.units import parse_rate
from gateway.credentials.hashing import Hasher, cost_of
from gateway.credentials.memory import Memory
from gateway.credentials.parse import Prefixes
from gateway.credentials.secrets import SecretKey
from gateway.credentials.verify import Rules, Verifier

NOW = 1_700_000_000.0
ADDRESS = "192.0.2.7"
SECRET_KEY = SecretKey("a secret of more than 32 characters")


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic_ns(self) -> int:
        return int(self.seconds * 1e9)

    def time(self) -> float:
        return NOW + self.seconds


class FakeHasher(Hasher):
    """Hashes at once, or when it is told to; a hash is "H" and the secret."""

    def __init__(self, *, held: bool = False, limit: int = 4096) -> None:
        self.limit = limit
        self.held = held
        self.running = False
        self.checks: list[bytes] = []
        self.costs: list[int] = []
        self.waiting: dict[Pending[bool], bool] = {}

    @property
    def depth(self) -> int:
        return len(self.waiting)

    def check(self, secret: bytes, hashed: str, cost: int = 0) -> Pending[bool]:
        if len(self.waiting) >= self.limit:
            raise OverloadError("full")
        self.checks.append(secret)
        self.costs.append(max(cost, cost_of(hashed)))
        job: Pending[bool] = Pending()
        self.waiting[job] = hashed == hash_of(secret)
        if not self.held:
            asyncio.get_running_loop().call_soon(self.finish)
        return job

    def hash(self, secret: bytes, rounds: int) -> Pending[str]:
        job: Pending[str] = Pending()
        job.resolve(hash_of(secret))
        return job

    def drop(self, job: Pending[Any]) -> bool:
        if self.running:
            return False
        return self.waiting.pop(job, None) is not None

    def finish(self) -> None:
        """Finish the oldest job, if one is left."""
        if self.waiting:
            job = next(iter(self.waiting))
            job.resolve(self.waiting.pop(job))


class FakeStore:
    """Keys by public part; it can be held up, and it can break."""

    def __init__(self, *records: KeyRecord) -> None:
        self.rows = {record.credential.identifier: record for record in records}
        self.lookups: list[str] = []
        self.broken = False
        self.gate: asyncio.Event | None = None

    async def find_key(self, public: str) -> KeyRecord | None:
        self.lookups.append(public)
        found = self.rows.get(public)
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise StoreError("the disk is gone")
        return found


def hash_of(secret: bytes) -> str:
    return "H" + secret.decode("latin-1")


def make_record(name: str = "one", username: str = "mobile_app", **fields: Any) -> KeyRecord:
    """The key `pnpub_NAME.pnsec_NAME` of a consumer."""
    consumer = fields.pop("consumer", None) or Consumer(f"id-{username}", username, groups=("contentUser",))
    credential = Credential(
        id=f"key-{name}",
        kind="key",
        identifier=f"pnpub_{name}",
        consumer_id=consumer.id,
        secret_hash=fields.pop("secret_hash", hash_of(f"pnsec_{name}".encode())),
        **fields,
    )
    return KeyRecord(credential, consumer)


def token_of(name: str = "one", secret: str | None = None) -> bytes:
    return f"pnpub_{name}.pnsec_{secret or name}".encode()


class Bench:
    """A verifier over fakes."""

    def __init__(
        self, *records: KeyRecord, held: bool = False, limit: int = 4096, memory: Memory | None = None
    ) -> None:
        self.store = FakeStore(*records)
        self.hasher = FakeHasher(held=held, limit=limit)
        self.clock = FakeClock()
        rules = Rules(Prefixes(), 4, parse_rate("20/minute"))
        self.verifier = Verifier(self.store, self.hasher, self.clock, SECRET_KEY, rules, memory)

    def ask(self, token: bytes, client: str = ADDRESS) -> Identity | Deny | Pending[Identity | Deny]:
        """Ask without waiting."""
        return self.verifier.verify_key(token, client, self.clock.time())

    async def answer(self, token: bytes, client: str = ADDRESS) -> Identity | Deny:
        """Ask and wait."""
        return await settled(self.ask(token, client))

    async def text(self, token: bytes, client: str = ADDRESS) -> str:
        """Ask and wait: the consumer's name, or the refusal's text."""
        return text_of(await self.answer(token, client))


def text_of(outcome: object) -> str:
    if isinstance(outcome, Deny):
        return outcome.answer.text
    assert isinstance(outcome, Identity)
    return outcome.consumer.username


async def settled(outcome: Identity | Deny | Pending[Identity | Deny]) -> Identity | Deny:
    if not isinstance(outcome, Pending):
        return outcome
    future: asyncio.Future[Identity | Deny] = asyncio.get_running_loop().create_future()
    outcome.then(future.set_result, future.set_exception)
    return await asyncio.wait_for(future, 30)


async def turns(count: int = 10) -> None:
    """Let the loop run on."""
    for _ in range(count):
        await asyncio.sleep(0)
