"""What a contestant is: a name, what it does, and how it is started for a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.keys import Key

#: The route that is measured; every contestant forwards it unchanged.
PATH = "/content/v1/read/do_31309374"

#: The limits of each key: high enough that nothing is refused, low enough to be counted for real.
PER_MINUTE = 100_000
PER_HOUR = 1_000_000

#: What Kong-like gateways tell the upstream, and what a client may never bring itself.
IDENTITY_HEADERS = (
    "X-Consumer-ID",
    "X-Consumer-Username",
    "X-Consumer-Custom-ID",
    "X-Consumer-Groups",
    "X-Credential-Identifier",
    "X-Anonymous-Consumer",
    "X-Organization-ID",
    "X-Authenticated-Scope",
    "X-Authenticated-UserId",
)


class Unavailable(Exception):
    """This peer is not here; the text says why and goes into the report."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a contestant runs: an empty folder of its own, the upstream's port, and the keys."""

    folder: Path
    upstream: int
    keys: Sequence[Key]
    outsider: Key


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line, the port that it will serve, and the files that grow while it does; `beside` are what it needs,
    `(command line, port)` each: started before it on another core, and not counted as its own."""

    arguments: Sequence[str]
    port: int
    version: str
    logs: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[tuple[Sequence[str], int], ...] = ()


@dataclass(frozen=True, slots=True)
class Contestant:
    """One line of the table.

    `prepare` writes its configuration into the site's folder and says how to start it; it raises `Unavailable`.
    `guards` says that it must refuse a request without a key (401) and one of the wrong group (403), and
    `limits` that its answers carry rate-limit headers.
    """

    name: str
    title: str
    work: str
    prepare: Callable[[Site], Launch]
    guards: bool = False
    limits: bool = False
