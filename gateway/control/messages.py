"""What the processes of a node say to each other, as plain data (`channel.py` carries it).

Law: nothing here is an instance of a compiled class, and what holds a secret does not show it in its `repr`.  The link
is ordered both ways: an answer that was sent before an invalidation arrives before it.

The course of a worker: `Configure` → `Ready` → (`Configure` again, where another configuration has been committed
meanwhile) → `Serve` → … → `Drain` → `Drained`, and the end of the link is its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: One change of the store: what `core.ports.WorkerLink.invalidate` is told.
Change = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Package:
    """A configuration: its hash, and what `config/package.py` made of it."""

    hash: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is told at its birth: who it is, and how it speaks.

    `slot` of `slots`; `core` is the processor that it keeps to, None for any; `log_format`, `log_level` and
    `secret_prefix` as `telemetry.events.configure` takes them.  With it come descriptors, by name: `link`, the slot's
    sockets as `listen.0` …; `hub` (`counters/hub.py`), and `access`, `access_lock` and `events_lock`
    (`telemetry/turns.py`) where there are such.
    """

    slot: int
    slots: int
    core: int | None = None
    log_format: str = "auto"
    log_level: str = "info"
    secret_prefix: str = "pnsec_"


# ── control → worker ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Configure:
    """Build this, and say `Ready`; nothing serves yet."""

    package: Package


@dataclass(frozen=True, slots=True)
class Serve:
    """Begin to accept connections."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Build this beside what is in force, and say `Prepared`; `number` tells one reload from another."""

    number: int
    package: Package


@dataclass(frozen=True, slots=True)
class Forget:
    """Let go of what this reload prepared, or will have prepared: it will not be committed."""

    number: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Put in force what was prepared, forget what it declares otherwise (`core.ports.Redeclared`), say `Committed`."""

    number: int
    usernames: frozenset[str]
    organizations: frozenset[str]
    everything: bool


@dataclass(frozen=True, slots=True)
class Invalidate:
    """Forget what these changes of the store concern, and say `Ack`."""

    epoch: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """The judgement that `Ask` number so-and-so asked for (`credentials/wire.py`)."""

    number: int
    judgement: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Feed:
    """How many seconds ago the change feed was last heard to its end."""

    age: float


@dataclass(frozen=True, slots=True)
class ReportNow:
    """Report at once: somebody is waiting to read it."""

    number: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept no more, finish what is in flight within so many seconds, say `Drained` and end."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain no longer: cut what is left, say `Drained` and end."""


# ── worker → control ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ready:
    """This configuration is built and can be served."""

    pid: int
    hash: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot serve, and ends: `config` says that it is the configuration's fault."""

    problems: tuple[str, ...]
    config: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `Prepare` asked for is built, or why it cannot be."""

    number: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """It is in force, and nothing of what it declares otherwise is remembered."""

    number: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything up to this epoch is forgotten: no request is admitted on the old state any more."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Who is this?  A token, shown by a client at an address."""

    number: int
    token: bytes = field(repr=False)
    client: str


@dataclass(frozen=True, slots=True)
class CancelAsk:
    """Nobody waits for that answer any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the worker counted since its last report, and how it is (`telemetry.deltas.Report`).

    `number` is that of the `ReportNow` it answers, 0 for a report of its own accord.
    """

    number: int
    content: Any


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing is in flight any more; `clean` says that nothing had to be cut."""

    clean: bool


# ── both ways ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Dropped:
    """All that is stored of a resource is to be dropped, by every other worker too (`core.ports.ResponseCache`)."""

    resource: str


# ── control → nursery ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a worker.  `names` are those of the descriptors that come with the message, in their order."""

    number: int
    names: tuple[str, ...]
    settings: Settings


# ── nursery → control ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class NurseryReady:
    """Everything is imported: forking is quick from now on."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The worker that `Spawn` asked for; its pidfd comes with the message where the system has such a thing."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True)
class NotSpawned:
    """The system gave no process."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A worker has ended and been reaped: its exit status, or the negative number of the signal that ended it."""

    pid: int
    status: int
