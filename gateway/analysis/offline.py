"""The configuration's own `tests:`, run without a socket, a store, or anything sent (contract §5, `postern check`).

The configuration is compiled as it would be to serve, over ports that live here: every declared consumer has one
key that works, nothing is remembered from one test to the next, and time stands still.  So a test says the same
today and tomorrow, alone and among others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.analysis.judge import UNDECIDED, Carrier, Judgement, Request, judge
from gateway.build import Ports, build
from gateway.config.loader import Loaded
from gateway.config.model import Config
from gateway.config.policies import effective
from gateway.config.services import RequestTest
from gateway.core.answers import INVALID_KEY
from gateway.core.decision import Deny
from gateway.core.identity import Consumer, Credential, Identity, declared_id
from gateway.core.ports import ClientCredentialsGrant, Demand, TokenSource, Verdict
from gateway.counters.memory import MemoryCounters
from gateway.credentials.declared import Declared

if TYPE_CHECKING:
    from gateway.core.policy import Policy

_PIPELINE_LOG = logging.getLogger("postern.pipeline")

#: When every test happens: 2026-01-01T00:00:00Z, and well after the monotonic clock's zero.
_NOW = 1_767_225_600.0
_NOW_NS = 10**18


@dataclass(frozen=True, slots=True)
class TestResult:
    """What came of one test.

    `got_status` is 0 where no decision came about; `message` says what was expected and what came instead, "" where
    the test holds.
    """

    #: The name is no invitation to pytest.
    __test__ = False

    test: RequestTest
    passed: bool
    got_status: int
    got_route: str | None
    message: str


class StillClock:
    """The clock of tests."""

    def monotonic_ns(self) -> int:
        """The same moment, in nanoseconds."""
        return _NOW_NS

    def time(self) -> float:
        """The same moment, in Unix seconds."""
        return _NOW


class NoStats:
    """Counts nothing."""

    def observe(self, method: str, status: int, seconds: float, upstream_seconds: float | None) -> None:
        """A request that nobody sent."""

    def denied(self, policy: str, reason: str) -> None:
        """A refusal that nobody got."""


class FreshCounters:
    """Counters that can start anew."""

    def __init__(self) -> None:
        self._counters = MemoryCounters()

    def take(self, demands: Sequence[Demand], now_ns: int) -> Verdict:
        """Count in memory."""
        return self._counters.take(demands, now_ns)

    def reset(self) -> None:
        """Nobody has called yet."""
        self._counters = MemoryCounters()


class Roll:
    """An `Authenticator` that knows one working key of every declared consumer, and no other.

    The key may write, and grants every scope that a declared key of its consumer grants: a test says what a
    consumer may reach, not what one of its keys may.
    """

    def __init__(self, config: Config) -> None:
        declared = Declared.build(config.consumers, config.organizations)
        self._consumers: Mapping[str, Consumer] = declared.consumers
        self._tokens: dict[str, bytes] = {}
        self._identities: dict[bytes, Identity] = {}
        prefixes = config.credentials
        for number, settings in enumerate(config.consumers):
            public = f"{prefixes.public_prefix}offline{number}"
            token = f"{public}.{prefixes.secret_prefix}offline".encode("ascii")
            consumer = declared.consumers[settings.username]
            scopes = tuple(dict.fromkeys(scope for key in settings.keys for scope in key.scopes))
            credential = Credential(declared_id("key", public), "key", public, consumer.id, scopes=scopes)
            self._tokens[settings.username] = token
            self._identities[token] = Identity(consumer, credential, scopes)

    def token(self, username: str) -> bytes | None:
        """The key of a declared consumer; None for anybody else (`anonymous`)."""
        return self._tokens.get(username)

    def verify_key(self, token: bytes, client: str, now: float) -> Identity | Deny:
        """Who holds a key."""
        identity = self._identities.get(token)
        return identity if identity is not None else Deny(INVALID_KEY)

    def consumer(self, username: str) -> Consumer | None:
        """A declared consumer by name."""
        return self._consumers.get(username)

    def still_valid(self, identity: Identity, now: float) -> bool:
        """Nothing changes here."""
        return True


class MadeUpTokens:
    """`AccessTokens` without an issuer: nobody is asked, and every grant has a token at once."""

    def source(self, grant: ClientCredentialsGrant) -> TokenSource:
        """Itself."""
        return self

    def token(self) -> bytes:
        """A token that no request will carry."""
        return b"offline"

    def rejected(self, token: bytes) -> None:
        """No upstream is asked either."""


class Rehearsal:
    """A configuration, compiled to be asked what it would do."""

    def __init__(self, loaded: Loaded, registry: Mapping[str, type[Policy]] | None = None) -> None:
        """Compile; raises `ConfigError` for what only compiling finds.  `registry` is what may be named (default:
        every installed policy)."""
        self._roll = Roll(loaded.config)
        self._counters = FreshCounters()
        stats = NoStats()
        tokens = MadeUpTokens()
        ports = Ports(StillClock(), self._counters, self._roll, lambda service, route: stats, tokens)
        self.snapshot = build(loaded, ports, registry)
        self._carriers = carriers(loaded.config)

    async def judge(self, method: str, target: str, consumer: str) -> Judgement:
        """What a request of a declared consumer (or of `anonymous`) would get, if it were the first of all."""
        self._counters.reset()
        request = Request(method, target, arrived=_NOW_NS, now=_NOW)
        return await judge(self.snapshot, request, self._roll.token(consumer), self._carriers.__getitem__)


def carriers(config: Config) -> dict[str, Carrier]:
    """Where each route takes a key: the first carrier that its `auth` names; Bearer where it names none."""
    found: dict[str, Carrier] = {}
    for service in config.services:
        for route in service.routes:
            entries = effective(config.levels(service, route)).get("auth")
            settings = entries[-1].config if entries else None
            kinds = getattr(settings, "carriers", ()) or ("bearer",)
            names = getattr(settings, "key_names", ()) or ("apikey",)
            found[route.name] = Carrier(kinds[0], names[0])
    return found


def run_tests(loaded: Loaded) -> list[TestResult]:
    """Run the `tests:` of a configuration, in the order of the file; raises `ConfigError` as compiling does."""
    rehearsal = Rehearsal(loaded)
    return asyncio.run(_run(rehearsal, loaded.config.tests))


async def _run(rehearsal: Rehearsal, tests: Sequence[RequestTest]) -> list[TestResult]:
    results: list[TestResult] = []
    for test in tests:
        with _faults() as faults:
            judgement = await rehearsal.judge(test.method, test.target, test.as_)
        results.append(_compare(test, judgement, faults))
    return results


def _compare(test: RequestTest, judgement: Judgement, faults: Sequence[str]) -> TestResult:
    expected, status, route = test.expect, judgement.status, judgement.route
    passed = status == expected.status and (expected.route is None or route == expected.route)
    message = ""
    if not passed:
        wanted = f"{expected.status} from {expected.route}" if expected.route is not None else f"{expected.status}"
        got = f"{status} from {route}" if route is not None else f"{status}"
        got = f"no decision on {route}" if status == UNDECIDED else got
        why = ": ".join(filter(None, (judgement.decided_by, *(faults or (judgement.text,)))))
        message = f"expected {wanted}, got {got}" + (f" ({why})" if why else "")
    return TestResult(test, passed, status, route, message)


@contextmanager
def _faults() -> Iterator[list[str]]:
    """What broke in policies meanwhile, for the message of the test and not for the log."""
    faults: list[str] = []

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            faults.append(record.getMessage() if error is None else f"{type(error).__name__}: {error}")

    handler, propagate = Gather(), _PIPELINE_LOG.propagate
    _PIPELINE_LOG.addHandler(handler)
    _PIPELINE_LOG.propagate = False
    try:
        yield faults
    finally:
        _PIPELINE_LOG.removeHandler(handler)
        _PIPELINE_LOG.propagate = propagate
