"""What is counted, and what is known of it at one moment (contract §8).

Recording is plain arithmetic on our own objects, because it happens for every request.  A `Reading` is plain data taken
on the event loop in one go: `exposition.py` renders it in whatever thread, `deltas.py` sends it from a worker to
the control process.

Law kept here: every label value is bounded.  Routes and services are named by the configuration, methods
come from a fixed set (all else is `other`), policies and reasons are the code's own words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.telemetry.usage import Usage

Labels = tuple[str, ...]

#: What a gauge's source returns: a number, or numbers by the values of one label or of two.
Pulled = float | Mapping[str, float] | Mapping[tuple[str, str], float]

#: Upper bounds of the histograms' buckets, in seconds; one more bucket holds what took longer.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

#: Methods that are labels of their own; every other one is counted as `other`.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})

#: How many buckets a histogram has.
BUCKETS = len(BOUNDS) + 1
_NO_COUNTS = (0,) * BUCKETS


class Kind(StrEnum):
    """The types of Prometheus' data model that we use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Join(StrEnum):
    """How a gauge of the node is made of those of its processes; counters and histograms add up."""

    SUM = "sum"
    LEAST = "least"
    GREATEST = "greatest"
    #: The control process alone knows it.
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family: its full name as samples carry it, its type, its label names, what it tells, and how the
    processes of a node tell it together."""

    name: str
    kind: Kind
    labels: Labels
    help: str
    join: Join = Join.SUM


#: Every family of ours, in the order in which they are exposed; `docs/METRICS.md` is this table.
FAMILIES = (
    Family(
        "postern_http_requests_total",
        Kind.COUNTER,
        ("service", "route", "method", "code"),
        "Requests answered, by route, method and status; requests that no route matched have empty names.",
    ),
    Family(
        "postern_request_duration_seconds",
        Kind.HISTOGRAM,
        ("service", "route"),
        "Time from the arrival of a request's head to the end of its answer.",
    ),
    Family(
        "postern_upstream_duration_seconds",
        Kind.HISTOGRAM,
        ("service", "route"),
        "Time that the upstream took, for requests that reached it.",
    ),
    Family(
        "postern_denied_total",
        Kind.COUNTER,
        ("route", "policy", "reason"),
        "Requests that a policy refused, by policy and reason.",
    ),
    Family(
        "postern_credential_cache_total",
        Kind.COUNTER,
        ("result",),
        "Credential look-ups, by what the cache of verified credentials said.",
    ),
    Family(
        "postern_cache_total",
        Kind.COUNTER,
        ("route", "result"),
        "Answers of routes with `proxy-cache`, by what the cache of responses did.",
    ),
    Family("postern_bcrypt_queue", Kind.GAUGE, (), "Secrets that wait to be verified by bcrypt."),
    Family(
        "postern_connections",
        Kind.GAUGE,
        ("side", "state"),
        "Open connections, by side (downstream, upstream) and state (active, idle, greeting: still in a handshake).",
    ),
    Family(
        "postern_upstream_target_healthy",
        Kind.GAUGE,
        ("service", "target"),
        "1 while a service's target takes requests, 0 while it is held to be down by any worker.",
        Join.LEAST,
    ),
    Family(
        "postern_config_last_reload_success",
        Kind.GAUGE,
        (),
        "1 if the last configuration was taken over, 0 if it was refused and the previous one still holds.",
        Join.LEAST,
    ),
    Family(
        "postern_config_hash_info",
        Kind.INFO,
        ("hash",),
        "Always 1; the label is the hash of the configuration in force.",
        Join.CONTROL,
    ),
    Family(
        "postern_revocation_lag_seconds",
        Kind.GAUGE,
        (),
        "How long after its commit the latest change of a credential took effect here.",
        Join.GREATEST,
    ),
    Family("postern_store_up", Kind.GAUGE, (), "1 while the identity store answers, 0 while it does not.", Join.LEAST),
    Family(
        "postern_counters_up",
        Kind.GAUGE,
        (),
        "1 while the rate-limit counters answer, 0 while they do not (to any worker).",
        Join.LEAST,
    ),
    Family("postern_workers", Kind.GAUGE, (), "Worker processes that serve.", Join.CONTROL),
    Family(
        "postern_worker_restarts_total",
        Kind.COUNTER,
        ("reason",),
        "Workers that were replaced by a fresh one, by reason.",
    ),
)

#: The families by their names.
BY_NAME = {family.name: family for family in FAMILIES}


class RouteStats:
    """The counts of one route.  The object stays the same for as long as the process lives, over every reload."""

    __slots__ = (
        "_denied",
        "_durations",
        "_requests",
        "_seconds",
        "_upstream_durations",
        "_upstream_seconds",
        "route",
        "service",
    )

    def __init__(self, service: str, route: str) -> None:
        self.service = service
        self.route = route
        self._requests: dict[tuple[str, int], int] = {}
        self._denied: dict[tuple[str, str], int] = {}
        self._durations = list(_NO_COUNTS)
        self._upstream_durations = list(_NO_COUNTS)
        self._seconds = 0.0
        self._upstream_seconds = 0.0

    def observe(self, method: str, status: int, seconds: float, upstream_seconds: float | None) -> None:
        """Count one answered request: its whole duration, and the upstream's (None: it was not asked), in seconds."""
        try:
            self._requests[method, status] += 1
        except KeyError:
            self._count_first(method, status)
        self._durations[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds
        if upstream_seconds is not None:
            self._upstream_durations[bisect_left(BOUNDS, upstream_seconds)] += 1
            self._upstream_seconds += upstream_seconds

    def denied(self, policy: str, reason: str) -> None:
        """Count one refusal by a policy: its name, and the reason of its answer."""
        key = policy, reason
        self._denied[key] = self._denied.get(key, 0) + 1

    def _count_first(self, method: str, status: int) -> None:
        key = method if method in METHODS else "other", status
        self._requests[key] = self._requests.get(key, 0) + 1

    def read_into(self, reading: Reading) -> None:
        """Add what was counted so far to a reading; a route that was never asked for adds nothing."""
        names = self.service, self.route
        requests = reading.values["postern_http_requests_total"]
        for (method, status), count in self._requests.items():
            requests[*names, method, str(status)] = count
        denied = reading.values["postern_denied_total"]
        for key, count in self._denied.items():
            # Routes of two services may share a name; this family does not tell them apart.
            labels = (self.route, *key)
            denied[labels] = denied.get(labels, 0) + count
        if self._requests:
            reading.histograms["postern_request_duration_seconds"][names] = self._durations.copy(), self._seconds
        if any(self._upstream_durations):
            reading.histograms["postern_upstream_duration_seconds"][names] = (
                self._upstream_durations.copy(),
                self._upstream_seconds,
            )

    def take_into(self, reading: Reading) -> None:
        """Add what was counted so far to a reading, and begin at zero again."""
        if not (self._requests or self._denied):
            return
        self.read_into(reading)
        self._requests, self._denied = {}, {}
        self._durations, self._seconds = list(_NO_COUNTS), 0.0
        self._upstream_durations, self._upstream_seconds = list(_NO_COUNTS), 0.0


class Reading:
    """Everything at one moment, as plain data: values and histograms by family and label values.

    A histogram is its counts, one a bucket of its own (not summed up), and the sum of the seconds.  `others` is what
    the node's processes use beside this one (None: there are none).
    """

    __slots__ = ("histograms", "others", "values")

    def __init__(self) -> None:
        self.values: dict[str, dict[Labels, float]] = {
            family.name: {} for family in FAMILIES if family.kind is not Kind.HISTOGRAM
        }
        self.histograms: dict[str, dict[Labels, tuple[list[int], float]]] = {
            family.name: {} for family in FAMILIES if family.kind is Kind.HISTOGRAM
        }
        self.others: Usage | None = None

    @property
    def size(self) -> int:
        """About how many lines rendering will write."""
        lines = sum(len(samples) for samples in self.values.values())
        return lines + sum(len(samples) * (BUCKETS + 2) for samples in self.histograms.values())


class Metrics:
    """All counts of one process; they belong to the event loop's thread."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteStats] = {}
        self._sources: dict[str, Callable[[], Pulled]] = {}
        self._values: dict[str, dict[Labels, float]] = {}

    def route(self, service: str, route: str) -> RouteStats:
        """The counts of a route by its names; `("", "")` is for requests that matched none."""
        names = service, route
        stats = self._routes.get(names)
        if stats is None:
            stats = self._routes[names] = RouteStats(service, route)
        return stats

    def gauge(self, name: str, labels: Labels, source: Callable[[], Pulled]) -> None:
        """Have a family's values asked for at each scrape, in a plain call on the event loop.

        `labels` are the family's label names.  Without any, `source` returns a number; with one, a mapping of
        its values to numbers; with two, a mapping of pairs.  A second source of a family replaces the first.
        """
        family = _family(name)
        if family.kind is Kind.HISTOGRAM or labels != family.labels:
            raise ValueError(f"{name} cannot be pulled with the labels {labels!r}")
        self._sources[name] = source

    def set(self, name: str, value: float, labels: Labels = ()) -> None:
        """Set one value of a gauge that nobody pulls."""
        family = _family(name)
        if family.kind is not Kind.GAUGE or len(labels) != len(family.labels):
            raise ValueError(f"{name} cannot be set with the labels {labels!r}")
        self._values.setdefault(name, {})[labels] = value

    def config_loaded(self, config_hash: str) -> None:
        """A configuration of this hash is in force from now on."""
        self._values["postern_config_last_reload_success"] = {(): 1.0}
        self._values["postern_config_hash_info"] = {(config_hash,): 1.0}

    def config_refused(self) -> None:
        """A new configuration was bad; the previous one still holds."""
        self._values["postern_config_last_reload_success"] = {(): 0.0}

    async def fresh(self) -> None:
        """Return when `read` tells what is: here it always does (`status.Readings`)."""

    def read(self) -> Reading:
        """Take a reading, on the event loop."""
        reading = Reading()
        for stats in self._routes.values():
            stats.read_into(reading)
        self._pull(reading, gauges=True)
        return reading

    def take(self, *, gauges: bool) -> Reading:
        """What the routes have counted since they were last taken, and the totals of the counters that are pulled;
        gauges where they are wanted.  For who sends it on: nothing is told twice."""
        reading = Reading()
        for stats in self._routes.values():
            stats.take_into(reading)
        self._pull(reading, gauges)
        return reading

    def pulls(self, name: str) -> bool:
        """Whether a family's values are asked for: then `take` tells their totals, too."""
        return name in self._sources

    def _pull(self, reading: Reading, gauges: bool) -> None:
        if gauges:
            for name, values in self._values.items():
                reading.values[name].update(values)
        for name, source in self._sources.items():
            if gauges or BY_NAME[name].kind is Kind.COUNTER:
                reading.values[name].update(_pulled(source()))


def _pulled(value: Pulled) -> dict[Labels, float]:
    if isinstance(value, Mapping):
        return {(labels,) if isinstance(labels, str) else labels: number for labels, number in value.items()}
    return {(): value}


def _family(name: str) -> Family:
    family = BY_NAME.get(name)
    if family is None:
        raise ValueError(f"there is no metric family {name}")
    return family
