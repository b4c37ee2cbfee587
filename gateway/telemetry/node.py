"""`/metrics` of a node with several processes: asks the workers when somebody looks, and adds up what they tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from gateway.telemetry.deltas import Accumulator
from gateway.telemetry.metrics import Reading
from gateway.telemetry.usage import usage_of


class NodeMetrics:
    """The `status.Readings` of the control process."""

    def __init__(
        self,
        accumulator: Accumulator,
        ask: Callable[[], Awaitable[object]],
        helpers: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        """`ask` returns once all workers have reported that answer soon (their reports are absorbed by then), and
        raises nothing; `helpers` are the pids of processes that do not report: the nursery's."""
        self._accumulator = accumulator
        self._ask = ask
        self._helpers = helpers

    async def fresh(self) -> None:
        """Have the workers report."""
        await self._ask()

    def read(self) -> Reading:
        """The node's reading; one process's CPU, memory and descriptors are all processes'."""
        usages = {pid: usage for pid in self._helpers() if (usage := usage_of(pid)) is not None}
        self._accumulator.helped(usages)
        return self._accumulator.read()
