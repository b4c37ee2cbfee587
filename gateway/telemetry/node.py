"""`/metrics` of a node with several processes: what its workers report is added up, and asked for when somebody looks.

What decides is `deltas.Accumulator`; this is the shell that the supervisor's news come to, and that looks at processes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from gateway.telemetry.deltas import Accumulator, Report
from gateway.telemetry.metrics import Metrics, Reading
from gateway.telemetry.states import TargetStatus
from gateway.telemetry.usage import usage_of

#: Why a worker is replaced: it ended by itself or was killed, it did not say or do what it had to in time, or a
#: graceful restart wants it so.
RESTARTS = ("crashed", "silent", "restarted")


class NodeMetrics:
    """The control process's `status.Readings`.  Workers are told apart by a number that is never given twice."""

    def __init__(
        self,
        metrics: Metrics,
        ask: Callable[[], Awaitable[object]],
        helpers: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        """`metrics` are the control process's own.

        `ask` returns once all workers have reported that answer soon (`reported` has been called by then), and raises
        nothing; `helpers` are the pids of processes that do not report: the nursery's.
        """
        self._accumulator = Accumulator(metrics)
        self._ask = ask
        self._helpers = helpers
        self._restarts = dict.fromkeys(RESTARTS, 0)
        metrics.gauge("postern_worker_restarts_total", ("reason",), lambda: self._restarts)

    # ── what the supervisor tells ────────────────────────────────────────────────────────────

    def reported(self, worker: int, report: Report) -> None:
        """A worker has reported (`deltas.Reporter`)."""
        self._accumulator.absorb(worker, report)

    def gone(self, worker: int, reason: str) -> None:
        """A worker has ended; `reason` is one of `RESTARTS` where another one takes its place."""
        self._accumulator.gone(worker)
        if reason in self._restarts:
            self._restarts[reason] += 1

    # ── what the status listener asks ────────────────────────────────────────────────────────

    async def fresh(self) -> None:
        """Have the workers report."""
        await self._ask()

    def read(self) -> Reading:
        """The node's reading; one process's CPU, memory and descriptors are all processes'."""
        usages = {pid: usage for pid in self._helpers() if (usage := usage_of(pid)) is not None}
        self._accumulator.helped(usages)
        return self._accumulator.read()

    def targets(self) -> list[TargetStatus]:
        """The targets of all services, as all living workers hold them to be."""
        return self._accumulator.targets()

    def connections(self, worker: int) -> int:
        """How many clients a worker had when it last told."""
        return self._accumulator.connections(worker)
