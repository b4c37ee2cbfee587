"""Whether an endpoint takes requests, and how large a share: pure, over nanoseconds of an injected clock (law 1).

Two things are watched, each where it is configured, and an endpoint takes requests while both hold it to be well.
Its answers to requests (passive) drive a circuit breaker:

    CLOSED ──`failures` in a row──► OPEN ──`cooldown`──► HALF_OPEN ──a success──► CLOSED
                                     ▲                      │
                                     └──────a failure───────┘

Half open, one request at a time is let through.  It is told of by `succeeded`, `failed` or `abandoned`; what is never
told of counts as abandoned after `patience`.  What was sent before the circuit last opened is no news any more,
whenever its end comes.  Probes (active) put an endpoint out after `unhealthy` bad answers in a row and back after
`healthy` good ones; until it is proven ill it is held to be well.
Whatever comes back begins with a tenth of its weight and has all of it after `slow_start`.
"""

from __future__ import annotations

from typing import Final

from gateway.snapshot import UNWATCHED, Health

CLOSED: Final = 0
OPEN: Final = 1
HALF_OPEN: Final = 2

#: Shares are told in hundredths of the weight; who comes back begins with so many.
FULL_SHARE: Final = 100
FIRST_SHARE: Final = 10

#: How long a half-open endpoint waits for word of the request that it was given, in nanoseconds, where nothing else is
#: said: longer than the default timeouts of an exchange together.
PATIENCE: Final = 120_000_000_000

#: When something was sent, where nobody says: just now.
JUST_NOW: Final = 1 << 62

#: What `state` says.
HEALTHY: Final = "healthy"
SLOW_START: Final = "slow-start"
EJECTED: Final = "ejected"
HALF_OPENED: Final = "half-open"


class Watch:
    """One endpoint's health; see the module."""

    __slots__ = ("_bad", "_good", "_health", "_opened", "_patience", "_ramp", "_until", "_why", "circuit", "down",
                 "failing", "failures", "ramping")  # fmt: skip

    def __init__(self, health: Health = UNWATCHED, patience: int = PATIENCE) -> None:
        """`patience` in nanoseconds: see the module."""
        self._health = health
        self._patience = patience
        self.circuit = CLOSED
        #: Failures in a row while the circuit is closed.
        self.failures = 0
        #: True while a success would change something.
        self.failing = False
        #: True while the probes hold it to be ill.
        self.down = False
        #: True while its share grows.
        self.ramping = False
        self._ramp = 0
        #: Open: the end of the cooldown.  Half open: how long word of its one request is waited for.
        self._until = 0
        #: When the circuit last opened.
        self._opened = -1
        self._good = 0
        self._bad = 0
        self._why = ""

    def configure(self, health: Health, patience: int = PATIENCE) -> None:
        """Go on under other settings; what is no longer watched counts as well."""
        self._health = health
        self._patience = patience
        if health.passive is None:
            self.circuit, self.failures, self.failing = CLOSED, 0, False
        if health.active is None:
            self.down, self._good, self._bad = False, 0, 0
        if not health.slow_start:
            self.ramping = False

    # ── what the balancer asks ───────────────────────────────────────────────────────────────

    def takes(self, now: int) -> bool:
        """May it be given a request?"""
        return not self.down and (self.circuit == CLOSED or now >= self._until)

    def admitted(self, now: int) -> None:
        """It is given a request; where the circuit is not closed that is the one that decides."""
        if self.circuit != CLOSED:
            self.circuit = HALF_OPEN
            self._until = now + self._patience

    def share(self, now: int) -> int:
        """How much of its weight it gets, in hundredths."""
        if not self.ramping:
            return FULL_SHARE
        elapsed, whole = now - self._ramp, self._health.slow_start
        if elapsed >= whole:
            self.ramping = False
            return FULL_SHARE
        return FIRST_SHARE + (FULL_SHARE - FIRST_SHARE) * max(elapsed, 0) // whole

    def state(self, now: int) -> str:
        """What `/status` says: "healthy", "slow-start", "ejected" or "half-open"."""
        if self.down or (self.circuit == OPEN and now < self._until):
            return EJECTED
        if self.circuit != CLOSED:
            return HALF_OPENED
        return HEALTHY if self.share(now) == FULL_SHARE else SLOW_START

    def reason(self) -> str:
        """Why it is left out; "" while it is not."""
        return self._why if self.down or self.circuit != CLOSED else ""

    # ── what is told ─────────────────────────────────────────────────────────────────────────

    def succeeded(self, now: int, sent: int = JUST_NOW) -> bool:
        """A request that was sent at `sent` was answered well; True if that closed the circuit."""
        if self.circuit == OPEN or sent <= self._opened:
            return False
        if self.circuit == CLOSED:
            self.failures, self.failing = 0, False
            return False
        self.circuit, self.failures, self.failing = CLOSED, 0, False
        self.begin_slowly(now)
        return True

    def failed(self, now: int, why: str, sent: int = JUST_NOW) -> bool:
        """A request that was sent at `sent` failed because of the endpoint; True if that opened a closed circuit."""
        passive = self._health.passive
        if passive is None or self.circuit == OPEN or sent <= self._opened:
            return False
        was_closed = self.circuit == CLOSED
        self.failing = True
        self.failures += 1
        if was_closed and self.failures < passive.failures:
            return False
        self.circuit = OPEN
        self._opened = now
        self._until = now + passive.cooldown
        self._why = why
        return was_closed

    def abandoned(self, now: int, sent: int = JUST_NOW) -> None:
        """The request that was to decide ended with no word of the endpoint (its client left): the next one decides."""
        if self.circuit == HALF_OPEN and sent > self._opened:
            self._until = now

    def probed(self, now: int, why: str) -> bool:
        """A probe ended: `why` says what was wrong, "" that it is well; True if that put it out, or back."""
        active = self._health.active
        if active is None:
            return False
        if why:
            self._good = 0
            self._bad += 1
            if self.down:
                self._why = why
            elif self._bad >= active.unhealthy:
                self.down = True
                self._why = why
                return True
            return False
        self._bad = 0
        self._good += 1
        if not self.down or self._good < active.healthy:
            return False
        self.down = False
        self.begin_slowly(now)
        return True

    def begin_slowly(self, now: int) -> None:
        """From now on its share grows."""
        self._ramp = now
        self.ramping = self._health.slow_start > 0
