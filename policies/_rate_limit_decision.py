"""What follows from counting: the decision of `rate-limiting`, and the headers over all windows counted so far.

Apart from the settings, so that it can be compiled: this runs once a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gateway.core.answers import OVERLOADED, RATE_LIMITED
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny, Pending, Step
from gateway.core.errors import CountersError
from gateway.core.ports import Demand, Verdict, WindowState
from policies._rate_limit_claims import Plan
from policies._rate_limit_headers import Fields, joined, seconds_up
from policies._rate_limit_plan import Ruleset

Take = Callable[[Sequence[Demand], int], Verdict | Pending[Verdict]]


def decide(rules: Ruleset, take: Take, context: Context) -> Decision | Pending[Decision]:
    """Count the request by the caller's plan, or refuse it; `take` is the counters'."""
    identity = context.identity
    plan: Plan = rules.nobody if identity is None else identity.derived.get(rules) or rules.plan(identity)
    demands = plan.demands or plan.demands_of(context)
    try:
        verdict = take(demands, context.arrived)
    except CountersError:
        return _fault(plan)
    if isinstance(verdict, Pending):
        decision = _Counting(context, plan)
        decision.wait_for(verdict)
        return decision
    return _conclude(context, plan, verdict)


def _conclude(context: Context, plan: Plan, verdict: Verdict) -> Decision:
    """The decision, and the headers over all windows counted so far, those of the rules by address included."""
    states, fields = verdict.states, plan.fields
    lines = context.answer_lines
    position = -1
    if context.counted is not None:
        earlier: tuple[int, Fields, Sequence[WindowState]] = context.counted
        position, fields, states = earlier[0], joined(earlier[1], fields), (*earlier[2], *states)
    if fields.names:
        block = fields.counted(states) if verdict.admitted else fields.refused(states)
        if position < 0:
            position = len(lines)
            lines.append(block)
        else:
            lines[position] = block
        context.replaced += (fields.names,)
    context.counted = (position, fields, states)
    return ALLOW if verdict.admitted else _refuse(plan, verdict.states, states)


def _refuse(plan: Plan, own: Sequence[WindowState], every: Sequence[WindowState]) -> Deny:
    """429: come back when the last exhausted window of all frees; the names are those of the rules that refused."""
    wait = seconds_up(max(reset for left, reset in every if left == 0))
    names = dict.fromkeys(window.name for window, state in zip(plan.fields.windows, own, strict=True) if state[0] == 0)
    violated = list(names)
    return Deny(
        RATE_LIMITED,
        headers=((b"Retry-After", b"%d" % wait),),
        members={"violated-policies": violated},
        facts={"exhausted": violated, "retry_after": wait},
    )


def _fault(plan: Plan) -> Decision:
    """What a rule of the plan wants while the counters cannot be asked; nothing is claimed in headers."""
    if plan.on_fault == "allow":
        return ALLOW
    return Deny(OVERLOADED, headers=((b"Retry-After", b"1"),), reason="counters_unavailable")


class _Counting(Step[Decision]):
    """The decision that follows from a verdict yet to come."""

    __slots__ = ("_context", "_plan")

    def __init__(self, context: Context, plan: Plan) -> None:
        super().__init__()
        self._context = context
        self._plan = plan

    def on_value(self, value: Any) -> None:
        """The counters have answered."""
        self.resolve(_conclude(self._context, self._plan, value))

    def on_error(self, error: BaseException) -> None:
        """The counters could not be asked, or are broken."""
        if isinstance(error, CountersError):
            self.resolve(_fault(self._plan))
        else:
            self.fail(error)
