"""Access tokens of the gateway's own, one a grant: fetched when needed, held, renewed, given up.

Laws:

* A held token is one comparison and one return (law 2).  While it holds, nobody waits: not for its renewal, which
  begins when four fifths of its life are over, and not for an issuer that is down.
* One fetch a grant at a time, whoever and however many wait for it; every waiter is answered once.
* A token is given up before it ends: a tenth of its life earlier, at the most a minute.
* After a failure nobody asks the issuer for 0.5 s, then twice as long each time, up to 30 s; requests that need a
  token are refused at once meanwhile.
* A token that the upstream refuses is dropped, but not sooner than 5 s after the last one was, then twice as long
  each time (up to 5 min, until one lives its life), and not while the issuer is failing: neither a broken upstream
  nor a client that provokes its 401 makes us hammer an issuer, or lose the only token there is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.core.decision import Pending
from gateway.core.errors import IssuerError
from gateway.core.ports import ClientCredentialsGrant
from gateway.issuers.token_response import IssuedToken

if TYPE_CHECKING:
    from gateway.core.ports import Clock

Fetch = Callable[[ClientCredentialsGrant], Awaitable[IssuedToken]]

_SECOND: Final = 1_000_000_000
_LONGEST_MARGIN: Final = 60.0
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
_FIRST_PATIENCE: Final = 5 * _SECOND
_LONGEST_PATIENCE: Final = 300 * _SECOND

_log = logging.getLogger("postern.issuers")


class HeldToken:
    """The `TokenSource` of one grant.  Made anywhere, used on the loop's thread.  Times are monotonic nanoseconds."""

    __slots__ = ("__weakref__", "_dropped", "_failures", "_fetch", "_grant", "_keep_until", "_name", "_now",
                 "_patience", "_renew_at", "_retry_after", "_retry_at", "_task", "_tasks", "_token", "_until",
                 "_waiters")  # fmt: skip

    def __init__(
        self,
        grant: ClientCredentialsGrant,
        now: Callable[[], int],
        fetch: Fetch,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        """`tasks` is where a running fetch is entered, so that it can be ended."""
        self._grant = grant
        self._now = now
        self._fetch = fetch
        self._tasks = tasks
        self._name = _shown(grant.token_url)
        self._token = b""
        self._renew_at = 0
        self._until = 0
        self._retry_at = 0
        self._failures = 0
        self._dropped = False
        self._keep_until = 0
        self._patience = _FIRST_PATIENCE
        self._task: asyncio.Task[None] | None = None
        self._waiters: list[Pending[bytes]] = []

    def token(self) -> bytes | Pending[bytes]:
        """See `TokenSource`."""
        now = self._now()
        if self._token and now < self._renew_at:
            return self._token
        may_ask = self._task is None and now >= self._retry_at
        if self._token and now < self._until:
            if may_ask:
                self._start()
            return self._token
        self._token = b""
        if may_ask:
            self._start()
        elif self._task is None:
            raise IssuerError("no access token can be had", -(-(self._retry_at - now) // _SECOND))
        # Who has stopped waiting is not taken off: there is one list a fetch, and its delivery passes them over.
        pending: Pending[bytes] = Pending()
        self._waiters.append(pending)
        return pending

    def rejected(self, token: bytes) -> None:
        """See `TokenSource`."""
        now = self._now()
        # A plain comparison: what is compared is what we wrote ourselves, no guess of anybody's.
        if not self._token or token != self._token or now < self._keep_until or self._failures:
            return
        _log.warning("the upstream refuses the access token of %s; the next request fetches another", self._name)
        self._keep_until = now + self._patience
        self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        self._token, self._dropped = b"", True

    # ── a fetch ─────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(self._now()), name="access token")
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)

    async def _run(self, began: int) -> None:
        try:
            issued = await self._fetch(self._grant)
        except asyncio.CancelledError:
            self._end(IssuerError("the gateway is stopping"))
            raise
        except IssuerError as error:
            self._end(self._failed(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours is a failure like any other, and is told in full
            _log.error("fetching an access token of %s broke", self._name, exc_info=error)
            self._end(self._failed(IssuerError("the gateway broke")))
        else:
            self._hold(issued, began)
            self._end(issued.token)

    def _hold(self, issued: IssuedToken, began: int) -> None:
        if self._failures:
            _log.info("%s gives access tokens again", self._name)
        if not self._dropped:
            self._patience = _FIRST_PATIENCE
        self._failures, self._dropped = 0, False
        self._retry_at = 0
        margin = min(_LONGEST_MARGIN, issued.lifetime / 10)
        self._token = issued.token
        self._renew_at = began + int(issued.lifetime * 0.8 * _SECOND)
        self._until = began + int((issued.lifetime - margin) * _SECOND)

    def _failed(self, error: IssuerError) -> IssuerError:
        """Note a failure; what those who wait are told."""
        self._failures += 1
        # The first exponent at which the delay is the longest anyway.
        delay = min(_FIRST_DELAY * 2 ** min(self._failures - 1, 6), _LONGEST_DELAY)
        if error.retry_after > 1:
            delay = max(delay, min(error.retry_after, _LONGEST_DELAY))
        self._retry_at = self._now() + int(delay * _SECOND)
        _log.warning("no access token of %s: %s; asked again after %g s at the earliest", self._name, error, delay)
        return IssuerError(str(error), max(1, -(-int(delay * _SECOND) // _SECOND)))

    def _end(self, outcome: bytes | IssuerError) -> None:
        """Answer everybody who waits, whatever a receiver makes of it."""
        self._task = None
        waiters, self._waiters = self._waiters, []
        for pending in waiters:
            try:
                if isinstance(outcome, bytes):
                    pending.resolve(outcome)
                else:
                    pending.fail(outcome)
            except Exception as error:  # noqa: BLE001 - one receiver's fault must not cost the others their answer
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a request failed when its access token had come", "exception": error}
                )


class HeldTokens:
    """The `AccessTokens` of a gateway: equal grants share a token for as long as anybody holds their source.

    A reload builds its policies while the old ones stand, so what has not changed keeps its token, and a changed
    secret is another grant, whose predecessor goes with the configuration that named it.
    """

    def __init__(self, clock: Clock, fetch: Fetch) -> None:
        self._now = clock.monotonic_ns
        self._fetch = fetch
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._sources: weakref.WeakValueDictionary[ClientCredentialsGrant, HeldToken] = weakref.WeakValueDictionary()

    def source(self, grant: ClientCredentialsGrant) -> HeldToken:
        """See `AccessTokens`; may be called in any thread."""
        with self._lock:
            found = self._sources.get(grant)
            if found is None:
                found = self._sources[grant] = HeldToken(grant, self._now, self._fetch, self._tasks)
            return found

    async def close(self) -> None:
        """End what is being fetched; who waits for it is refused."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _shown(url: str) -> str:
    """An endpoint as logs name it: without its query, which may hold anything."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
