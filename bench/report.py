"""From rounds to results: medians, ratios, the targets, and the table in Markdown.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.measure import Running

SUBJECT = "postern-policies"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table; medians over rounds.  CPU in microseconds a request."""

    name: str
    title: str
    work: str
    version: str
    cpu_us: float
    cpu_us_least: float
    cpu_us_most: float
    user_us: float
    system_us: float
    busy: float
    rate: float
    p50_ms: float
    p99_ms: float
    idle_mib: float
    loaded_mib: float
    ready_seconds: float
    rounds: int
    half_rate: float | None = None
    half_p50_ms: float | None = None
    half_p99_ms: float | None = None
    generator_late_p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One promise and what was measured; `met` is None where the peer is missing."""

    text: str
    limit: float
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether it holds."""
        return None if self.measured is None else self.measured <= self.limit


@dataclass
class Report:
    """Everything of a run."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    results: list[Result]
    missing: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values for the JSON file."""
        return {
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "results": [asdict(result) for result in self.results],
            "missing": self.missing,
            "targets": [{**asdict(target), "met": target.met} for target in targets(self.results)],
        }


def summarise(running: Running) -> Result:
    """The medians of a contestant's rounds."""
    rounds, opened = running.rounds, running.open_loop
    cpu = [one.cpu_us for one in rounds]

    def half(name: str) -> float | None:
        return median(one[name] for one in opened) / 1000 if opened else None

    return Result(
        running.contestant.name,
        running.contestant.title,
        running.contestant.work,
        running.launch.version,
        median(cpu),
        min(cpu),
        max(cpu),
        median(one.user_us for one in rounds),
        median(one.system_us for one in rounds),
        median(one.busy for one in rounds),
        median(one.rate for one in rounds),
        median(one.p50_ms for one in rounds),
        median(one.p99_ms for one in rounds),
        running.idle_bytes / 2**20,
        running.loaded_bytes / 2**20,
        running.ready_seconds,
        len(rounds),
        median(one["rate"] for one in opened) if opened else None,
        half("p50_us"),
        half("p99_us"),
        half("generator_late_p99_us"),
    )


def targets(results: Sequence[Result]) -> list[Target]:
    """The promises: Postern with everything on, and plain, against its peers in the same run."""
    by_name = {result.name: result for result in results}
    subject = by_name.get(SUBJECT)

    def ratio(peer: str, ours: str = SUBJECT) -> float | None:
        mine, other = by_name.get(ours), by_name.get(peer)
        return mine.cpu_us / other.cpu_us if mine and other and other.cpu_us else None

    envoy = by_name.get("envoy-policies")
    waiting = (
        subject.half_p99_ms / envoy.half_p99_ms
        if subject and envoy and subject.half_p99_ms is not None and envoy.half_p99_ms
        else None
    )
    return [
        Target("CPU a request against Envoy with the same policies", 0.65, ratio("envoy-policies")),
        Target("CPU a request against nginx + Lua", 1.25, ratio("nginx-lua")),
        Target("CPU a request against Traefik", 0.35, ratio("traefik-policies")),
        Target("CPU a request, plain, against Envoy plain", 0.6, ratio("envoy-plain", "postern-plain")),
        Target("p99 at half of its own saturation against Envoy's", 1.0, waiting),
        Target("CPU a request of 2 workers against 1, plain", 1.1, ratio("postern-plain", "postern-plain-2")),
        Target("CPU a request of 2 workers against 1, with rate limits", 1.25, ratio(SUBJECT, "postern-policies-2")),
        Target("CPU a request with counts in Redis against in memory", 1.4, ratio(SUBJECT, "postern-redis")),
    ]


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _ratio(result: Result, other: Result | None) -> str:
    return "–" if other is None or not other.cpu_us else f"{result.cpu_us / other.cpu_us:.2f}"


def markdown(report: Report) -> str:
    """The table, the targets, what is missing, and where it ran."""
    by_name = {result.name: result for result in report.results}
    peers = {"nginx": "nginx-plain", "nginx + Lua": "nginx-lua", "Envoy + filters": "envoy-policies"}
    peers["Traefik + middlewares"] = "traefik-policies"
    columns = ["", "CPU µs a request", "user + system", "requests/s", "p50 ms", "p99 ms", "p99 ms at half load"]
    columns += ["MiB idle", "MiB loaded", *(f"CPU ÷ {title}" for title in peers)]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    for result in report.results:
        half = _number(result.half_p99_ms, 2)
        if result.half_rate is not None:
            half += f" at {result.half_rate:,.0f}/s"
        cells = [
            f"**{result.title}** {result.version}" if result.name == SUBJECT else f"{result.title} {result.version}",
            f"{_number(result.cpu_us)} ({_number(result.cpu_us_least)}–{_number(result.cpu_us_most)})",
            f"{_number(result.user_us)} + {_number(result.system_us)}",
            _number(result.rate, 0),
            _number(result.p50_ms, 2),
            _number(result.p99_ms, 2),
            half,
            _number(result.idle_mib, 0),
            _number(result.loaded_mib, 0),
            *(_ratio(result, by_name.get(name)) for name in peers.values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| target | at most | measured | |", "|---|--:|--:|---|"]
    words = {True: "met", False: "**missed**", None: "not measured"}
    for target in targets(report.results):
        lines.append(
            f"| {target.text} | {target.limit:.2f} × | {_number(target.measured, 2)} × | {words[target.met]} |"
        )
    lines += ["", "What each one did:", ""]
    lines += [f"- **{result.title}**: {result.work}." for result in report.results]
    lines += [f"- *{name}* is missing: {why}" for name, why in report.missing.items()]
    lines += ["", "Where and how: " + "; ".join(f"{name} {value}" for name, value in report.machine.items()) + "."]
    lines += ["Settings: " + "; ".join(f"{name} {value}" for name, value in report.settings.items()) + "."]
    return "\n".join(lines) + "\n"
