"""The only loop over policies (laws 2 and 3).

A request that needs no I/O is decided in one call of `run`, in plain calls.  When a policy answers with a `Pending`,
so does `run`; when that is delivered, what has already passed is rechecked (it may have been revoked meanwhile) and
the loop goes on at the next policy.  What lasts (a WebSocket, a stream) is rechecked, too.  An exception out of a
policy is logged and becomes a 500: a fault never lets a request through.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from gateway.core.answers import INTERNAL_ERROR
from gateway.core.decision import ALLOW, Decision, Deny, Pending, Reply, Step

if TYPE_CHECKING:
    from gateway.core.context import Context
    from gateway.snapshot import Route

_log = logging.getLogger("postern.pipeline")

#: What foreign code may break with.  A cancellation, an exit or a panic of a library in Rust, none of them an
#: `Exception`, may end no more than its own request.
BROKEN: Final = BaseException

#: In place of the number of who is asked again: it is a check's own answer that is waited for.
_CHECKED: Final = -1

Answered = Decision | Pending[Decision] | Awaitable[Decision]


def run(context: Context, route: Route) -> Decision | Pending[Decision]:
    """Judge a request by its route's policies.

    Returns `ALLOW`, the `Deny` or `Reply` that ends it (`context.decided_by` names whose), or a `Pending`
    of one of these.
    """
    try:
        for check in route.checks:
            decision = check(context)
            if decision is not ALLOW:
                at = route.checks.index(check)
                rest = _Rest(context, route, at, at, decision)
                return rest.go_on() or rest
    except BROKEN:  # a policy is foreign code: whatever breaks in it is a 500
        return _fault(context, route)
    return ALLOW


def recheck(context: Context, route: Route) -> Decision | Pending[Decision]:
    """Judge again, after time has gone by, by all policies of the route.

    Returns `ALLOW`, what ends the request (`context.decided_by` names whose), or a `Pending` of one of these.
    Raises whatever a policy breaks with.
    """
    rest = _Rest(context, route, len(route.policies), 0, ALLOW)
    return rest.go_on() or rest


class _Rest(Step[Decision]):
    """What is left to be judged of a request; delivers what ends it, or `ALLOW`.

    First the policies from number `again` to before `at` are asked again, those that have passed and have to be, then
    it goes on from `decision`, what number `at` has answered.
    """

    __slots__ = ("_again", "_at", "_context", "_decision", "_route")

    def __init__(self, context: Context, route: Route, at: int, again: int, decision: Answered) -> None:
        super().__init__()
        self._context = context
        self._route = route
        self._at = at
        self._again = again
        self._decision: Answered = decision

    def go_on(self) -> Decision | None:
        """Ask until it is decided, and return that; None: it waits for somebody."""
        context, route, at = self._context, self._route, self._at
        while self._again < at:
            policy = route.policies[self._again]
            self._again += 1
            again = policy.recheck(context)
            if again is ALLOW:
                continue
            if isinstance(again, Pending):
                self.wait_for(again)
                return None
            if _ends(context, policy.name, again):
                return again
        checks, decision = route.checks, self._decision
        while True:
            if isinstance(decision, (Deny, Reply)):
                context.decided_by = route.policies[at].name
                return decision
            if not isinstance(decision, Decision):
                self._at, self._again = at, _CHECKED
                self.wait_for(decision if isinstance(decision, Pending) else _in_task(decision))
                return None
            at += 1
            if at >= len(checks):
                return ALLOW
            decision = checks[at](context)

    def on_value(self, value: Any) -> None:
        """Somebody has answered: to a check, or to being asked again."""
        try:
            if self._again == _CHECKED:
                self._decision, self._again = value, 0
                outcome = self.go_on()
            elif _ends(self._context, self._route.policies[self._again - 1].name, value):
                outcome = value
            else:
                outcome = self.go_on()
        except BROKEN as error:  # as in `run`
            if self.done:
                raise  # it is who waits for the outcome that broke
            outcome = _fault(self._context, self._route, error)
        if outcome is not None:
            self.resolve(outcome)

    def on_error(self, error: BaseException) -> None:
        """What was waited for broke: that is a refusal."""
        self.resolve(_fault(self._context, self._route, error))


def _ends(context: Context, name: str, decision: Any) -> bool:
    """Does this, what the policy `name` answered to a recheck, end the request?"""
    if isinstance(decision, (Deny, Reply)):
        context.decided_by = name
        return True
    if not isinstance(decision, Decision):
        raise TypeError(f"{name}: a recheck answers a decision, or a Pending of one")
    return False


def _in_task(awaitable: Awaitable[Decision]) -> Pending[Decision]:
    """A policy written as `async def` gets a task of its own."""

    async def body() -> Decision:
        try:
            return await awaitable
        except (SystemExit, KeyboardInterrupt) as error:  # out of a task it would end the gateway
            raise RuntimeError("a policy asked to exit") from error

    task = asyncio.ensure_future(body())

    def cancel() -> None:
        task.cancel()

    pending: Pending[Decision] = Pending(on_cancel=cancel)

    def done(finished: asyncio.Task[Decision]) -> None:
        if finished.cancelled():
            pending.fail(asyncio.CancelledError())
        elif (error := finished.exception()) is not None:
            pending.fail(error)
        else:
            pending.resolve(finished.result())

    task.add_done_callback(done)
    return pending


def _fault(context: Context, route: Route, error: BaseException | None = None) -> Deny:
    _log.error("a policy of route %s broke; request %s is refused", route.name, context.request_id,
               exc_info=error if error is not None else True)  # fmt: skip
    context.decided_by = "fault"
    return Deny(INTERNAL_ERROR)
