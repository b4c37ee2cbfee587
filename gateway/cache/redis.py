"""Responses in Redis, shared by every gateway that names it: aiocache's RedisCache.

Laws: a fault is a miss.  Whatever Redis or the way to it does, a request goes on to its upstream; the fault is logged
(at most one line in ten seconds), and for a second nobody asks again.  And what was dropped stays dropped: each
resource has a token that is stored in front of its values; dropping deletes the token, and a value without its
resource's token is none.  A drop that Redis has not confirmed yet holds in this process until it has.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from aiocache import RedisCache
from aiocache.serializers import NullSerializer

from gateway.cache.common import Common
from gateway.core.decision import Pending

_log = logging.getLogger("postern.cache")

#: Seconds that an operation may take; then it is a fault.
TIMEOUT: Final = 0.5
#: Seconds after a fault in which Redis is not asked.
PAUSE: Final = 1.0
#: Seconds between two lines about faults.
_QUIET: Final = 10.0
#: Commands under way at once; a connection each.
_AT_ONCE: Final = 32
#: Commands that may wait for one of these; beyond, nothing is found and nothing is stored.
_WAITING: Final = 1024
#: Drops that Redis has not confirmed; beyond, the oldest is given up (and logged).
_OWED: Final = 10_000
#: Seconds that a resource's token lives.  No value outlives it.
LONGEST: Final = 7 * 86400
_TOKEN: Final = 16


class RedisResponses(Common):
    """`ResponseCache` in the Redis of a URL `redis://[[user]:password@]host[:port][/db]` (`rediss:` for TLS)."""

    def __init__(self, url: str, largest: int, room: int, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(largest, room)
        parts = urlsplit(url)
        extra = {"username": unquote(parts.username)} if parts.username else {}
        self._cache: Final = RedisCache(
            serializer=NullSerializer(encoding=None),
            namespace="postern:cache",
            timeout=TIMEOUT,
            endpoint=parts.hostname or "127.0.0.1",
            port=parts.port or 6379,
            db=int(parts.path.strip("/") or 0),
            password=unquote(parts.password) if parts.password else None,
            create_connection_timeout=TIMEOUT,
            ssl=parts.scheme == "rediss",
            connection_pool_kwargs=extra,
        )
        self._clock = clock
        self._resting_until = 0.0
        self._quiet_until = 0.0
        self._unsaid = 0
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        #: Who waits for the same answer, by key.
        self._asking: dict[str, list[Pending[bytes | None]]] = {}
        #: Resources whose drop is not confirmed, in their order.
        self._owed: dict[str, int] = {}
        self._paying = False
        self._reminder: asyncio.TimerHandle | None = None

    # ── the port ─────────────────────────────────────────────────────────────────────────────

    def find(self, resource: str, key: str) -> bytes | Pending[bytes | None] | None:
        """What was stored of this resource under this key, or None; who asks the same at once shares an answer."""
        if resource in self._owed or not self._may_ask():
            return None
        pending: Pending[bytes | None] = Pending()
        waiting = self._asking.get(key)
        if waiting is not None:
            waiting.append(pending)
            return pending
        self._asking[key] = [pending]
        self._spawn(self._find(resource, key))
        return pending

    def keep(self, resource: str, key: str, value: bytes, seconds: float, moment: int) -> Pending[None] | None:
        """Store a value, unless its resource was dropped since `moment`."""
        if not self._may_ask():
            return None
        pending: Pending[None] = Pending()
        self._spawn(self._keep(resource, key, value, seconds, moment, pending))
        return pending

    def forget(self, resource: str) -> None:
        """Forget all of a resource: in this process at once, elsewhere as soon as Redis has heard of it."""
        self._note_drop(resource)
        self._owed.pop(resource, None)
        self._owed[resource] = self.moment(resource)
        if len(self._owed) > _OWED:
            del self._owed[next(iter(self._owed))]
            self._fault("too many drops are not confirmed; the oldest is given up")
        self._pay_later()

    async def close(self) -> None:
        """Close every connection; what is under way gets a moment to be written or dropped."""
        self._pay_later()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=TIMEOUT)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._reminder is not None:
            self._reminder.cancel()
        # aiocache's own `close` calls what redis has renamed.
        await self._cache.client.aclose()

    # ── asking Redis ─────────────────────────────────────────────────────────────────────────

    def _may_ask(self) -> bool:
        return self._clock() >= self._resting_until and len(self._tasks) < _WAITING

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self, resource: str, key: str) -> None:
        value: bytes | None = None
        try:
            async with self._slots:
                value, token = await self._cache.multi_get([f"v:{key}", f"r:{resource}"])
            if value is not None:
                value = value[_TOKEN:] if token is not None and value[:_TOKEN] == token else None
            self._pay_later()
        except Exception as error:  # noqa: BLE001 - law of this module: whatever breaks here is a miss
            value = None
            self._fault(error)
        finally:
            for pending in self._asking.pop(key):
                pending.resolve(None if resource in self._owed else value)

    async def _keep(
        self, resource: str, key: str, value: bytes, seconds: float, moment: int, done: Pending[None]
    ) -> None:
        try:
            async with self._slots:
                token = await self._token(resource)
                if token is not None and moment == self.moment(resource) and resource not in self._owed:
                    await self._cache.set(f"v:{key}", token + value, ttl=float(min(max(seconds, 0.001), LONGEST)))
        except Exception as error:  # noqa: BLE001 - as above: it is not stored
            self._fault(error)
        finally:
            done.resolve(None)

    async def _token(self, resource: str) -> bytes | None:
        """The token of a resource, a new one if it has none; None if somebody drops it at this very moment."""
        name = f"r:{resource}"
        token: bytes | None = await self._cache.get(name)
        if token is None:
            token = secrets.token_hex(_TOKEN // 2).encode()
            try:
                await self._cache.add(name, token, ttl=LONGEST)
            except ValueError:  # aiocache's word for: another gateway was quicker
                token = await self._cache.get(name)
        return token

    def _pay_later(self) -> None:
        """Pay what is owed, now or, while Redis is not asked, when it is again: other gateways go by it, too."""
        if not self._owed or self._paying:
            return
        if self._may_ask():
            self._paying = True
            self._spawn(self._pay())
        elif self._reminder is None:
            self._reminder = asyncio.get_running_loop().call_later(PAUSE, self._reminded)

    def _reminded(self) -> None:
        self._reminder = None
        self._pay_later()

    async def _pay(self) -> None:
        """Have Redis drop what it has not dropped yet."""
        try:
            while self._owed:
                resource, moment = next(iter(self._owed.items()))
                async with self._slots:
                    await self._cache.delete(f"r:{resource}")
                if self._owed.get(resource) == moment:
                    del self._owed[resource]
        except Exception as error:  # noqa: BLE001 - as above: it stays owed
            self._fault(error)
        finally:
            self._paying = False
        self._pay_later()

    def _fault(self, error: Exception | str) -> None:
        now = self._clock()
        if not isinstance(error, str):
            self._resting_until = now + PAUSE
        if now < self._quiet_until:
            self._unsaid += 1
            return
        self._quiet_until = now + _QUIET
        said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        _log.warning("the cache cannot be used, upstreams are asked (%d more such faults): %s", self._unsaid, said)
        self._unsaid = 0
