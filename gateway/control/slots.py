"""The life of one worker as the control process sees it: pure, no process, no socket, no clock of its own.

```
 SPAWNING ──spawned──► CONFIGURING ──Ready(committed)──► SERVING ──drain──► DRAINING
    │                   │      ▲ Ready(another one)         │                  │
    │                   └──────┘ configured again           │                  │
    └───────────────────┴──────── the end of the link ──────┴──────────────────┴──► GONE
```

A slot is a place in the node, with its listening sockets; workers come and go in it, and in a graceful restart there
are two for a while: the one that drains and the one that serves.

What a worker was asked and has not done yet are its duties, each with a moment by which it has to be done.  Whoever is
late is ended, and whoever waits for a duty waits until it is done or the worker is gone: there is no third way, so
nothing waits for ever, and nothing goes on with a worker that has not followed.  A worker that is not SERVING
or DRAINING remembers nothing and admits nobody, so it owes nothing but to get there.
"""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """See the module."""

    SPAWNING = "spawning"
    CONFIGURING = "configuring"
    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"


class Duty(enum.Enum):
    """What a worker can owe, and what is said of it when it is late."""

    START = "did not become ready"
    SPEAK = "is silent"
    ACKNOWLEDGE = "did not acknowledge a revocation"
    PREPARE = "did not prepare a configuration"
    COMMIT = "missed a commit"
    DRAIN = "did not end its drain"


#: Seconds of the fair clock (`patience.AwakeClock`) within which a duty has to be done.
LIMITS: Final = {
    Duty.START: 60.0,
    Duty.SPEAK: 10.0,
    Duty.ACKNOWLEDGE: 0.5,
    Duty.PREPARE: 60.0,
    Duty.COMMIT: 2.0,
}
#: Seconds beyond the drain's own time that its end may take: streams are closed, lines are written.
AFTER_DRAIN: Final = 5.0


class ProtocolError(Exception):
    """A worker said something out of its turn: a defect, and it is ended for it."""


class Life:
    """What is known of one worker."""

    def __init__(self, now: float) -> None:
        """Just asked for; `now` is the fair clock's."""
        self.state = State.SPAWNING
        #: The configuration that it serves by, "" before it does.
        self.hash = ""
        #: The configuration that it has built and not been told to serve by.
        self.built = ""
        #: The reload whose configuration it has prepared and not committed, 0 for none.
        self.prepared = 0
        #: The reload that it is to prepare, and what it is to commit, with its hash.
        self._asked = 0
        self._committing = (0, "")
        #: Once its drain is over: was it a clean one?
        self.clean: bool | None = None
        self._duties: dict[Duty, float] = {Duty.START: now + LIMITS[Duty.START]}
        #: Epochs that it was told of and has not acknowledged, with the moments by which it has to.
        self._epochs: dict[int, float] = {}

    # ── what happens to it ───────────────────────────────────────────────────────────────────

    @property
    def admits(self) -> bool:
        """May it let requests in, so that revocations and configurations concern it?"""
        return self.state in (State.SERVING, State.DRAINING)

    def spawned(self) -> None:
        """Its process is there, and it has been told what to build."""
        self._expect(State.SPAWNING)
        self.state = State.CONFIGURING

    def ready(self, config_hash: str, now: float) -> None:
        """It has built this; more time for it, whether it is to serve by it or by another one."""
        self._expect(State.CONFIGURING)
        self.built = config_hash
        self._duties[Duty.START] = now + LIMITS[Duty.START]

    def served(self, now: float) -> None:
        """It was told to accept connections, by what it has built."""
        self._expect(State.CONFIGURING)
        self.state = State.SERVING
        self.hash = self.built
        del self._duties[Duty.START]
        self._duties[Duty.SPEAK] = now + LIMITS[Duty.SPEAK]

    def heard(self, now: float) -> None:
        """It said anything at all."""
        if Duty.SPEAK in self._duties:
            self._duties[Duty.SPEAK] = now + LIMITS[Duty.SPEAK]

    def draining(self, seconds: float, now: float) -> None:
        """It was told to drain, for so many seconds at the most."""
        self._expect(State.SERVING, State.DRAINING)
        self.state = State.DRAINING
        self._duties[Duty.DRAIN] = now + seconds + AFTER_DRAIN

    def drained(self, clean: bool) -> None:
        """Its drain is over; it is about to end."""
        self._expect(State.DRAINING)
        self.clean = clean

    def gone(self) -> None:
        """It has ended: it owes nothing any more."""
        self.state = State.GONE
        self._duties.clear()
        self._epochs.clear()

    # ── configurations ───────────────────────────────────────────────────────────────────────

    def preparing(self, number: int, now: float) -> None:
        """It was told to prepare a configuration, in the reload of this number."""
        self.prepared, self._asked = 0, number
        self._duties[Duty.PREPARE] = now + LIMITS[Duty.PREPARE]

    def has_prepared(self, number: int, good: bool) -> None:
        """It has, or cannot (`good` is False).  Of a reload that was given up it means nothing any more."""
        if number != self._asked:
            return
        self._duties.pop(Duty.PREPARE, None)
        self.prepared = number if good else 0

    def forgets(self) -> None:
        """It was told that what it prepares or has prepared will not be committed."""
        self._duties.pop(Duty.PREPARE, None)
        self.prepared = self._asked = 0

    def committing(self, config_hash: str, now: float) -> None:
        """It was told to put in force what it has prepared."""
        self._committing = self.prepared, config_hash
        self._duties[Duty.COMMIT] = now + LIMITS[Duty.COMMIT]

    def committed(self, number: int) -> None:
        """It has."""
        asked, config_hash = self._committing
        if self._duties.pop(Duty.COMMIT, None) is None or number != asked:
            raise ProtocolError("committed what it was not asked for")
        self.hash, self.prepared = config_hash, 0

    # ── revocations ──────────────────────────────────────────────────────────────────────────

    def told(self, epoch: int, now: float) -> None:
        """It was told of an epoch."""
        self._epochs[epoch] = now + LIMITS[Duty.ACKNOWLEDGE]

    def acknowledged(self, epoch: int) -> None:
        """It has forgotten all that was told up to this epoch."""
        for each in [told for told in self._epochs if told <= epoch]:
            del self._epochs[each]

    # ── duties ───────────────────────────────────────────────────────────────────────────────

    def owes(self, duty: Duty) -> bool:
        """Is this still to be done?"""
        if duty is Duty.ACKNOWLEDGE:
            return bool(self._epochs)
        return duty in self._duties

    def owes_epoch(self, epoch: int) -> bool:
        """Is this epoch, or one before it, still to be acknowledged?"""
        return any(told <= epoch for told in self._epochs)

    @property
    def pressed(self) -> bool:
        """Does it owe something within seconds, so that its duties are to be looked at often?"""
        return bool(self._epochs) or Duty.COMMIT in self._duties

    def late(self, now: float) -> Duty | None:
        """The duty that is past its time, if any."""
        for duty, until in self._duties.items():
            if until <= now:
                return duty
        for until in self._epochs.values():
            if until <= now:
                return Duty.ACKNOWLEDGE
        return None

    def _expect(self, *states: State) -> None:
        if self.state not in states:
            raise ProtocolError(f"out of turn: it is {self.state.value}")
