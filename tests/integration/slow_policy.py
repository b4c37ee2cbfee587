"""A policy that answers when a test says so."""

from __future__ import annotations

from typing import Any, ClassVar

from gateway.config.types import Settings
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Pending
from gateway.core.policy import Environment, Policy


class SlowPolicy(Policy):
    """Every check is a `Pending` that waits in `waiting`."""

    name: ClassVar[str] = "slow"
    phase = 1000
    VERDICT: ClassVar[Decision] = ALLOW
    waiting: ClassVar[list[Pending[Decision]]] = []

    class Config(Settings):
        """Nothing to set."""

    def __init__(self, config: Any, environment: Environment) -> None:
        pass

    def check(self, context: Context) -> Pending[Decision]:
        pending: Pending[Decision] = Pending()
        self.waiting.append(pending)
        return pending
