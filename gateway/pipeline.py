"""The only loop over policies (laws 2 and 3).

A request that needs no I/O is decided in one call of `run`, in plain calls.  When a policy answers with a `Pending`,
so does `run`; when that is delivered, what has already passed is rechecked (it may have been revoked meanwhile) and
the loop goes on at the next policy.  What lasts (a WebSocket, a stream) is rechecked, too.  An exception out of a
policy is logged and becomes a 500: a fault never lets a request through.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

from gateway.core.answers import INTERNAL_ERROR
from gateway.core.decision import ALLOW, Decision, Deny, Pending, Reply

if TYPE_CHECKING:
    from gateway.core.context import Context
    from gateway.snapshot import Route

_log = logging.getLogger("postern.pipeline")

#: What foreign code may break with.  A cancellation, an exit or a panic of a library in Rust, none of them an
#: `Exception`, may end no more than its own request.
BROKEN: Final = BaseException

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
                return _go_on(context, route, route.checks.index(check), decision)
    except BROKEN:  # a policy is foreign code: whatever breaks in it is a 500
        return _fault(context, route)
    return ALLOW


def _go_on(context: Context, route: Route, at: int, decision: Answered) -> Decision | Pending[Decision]:
    """Go on from what policy number `at` answered."""
    checks = route.checks
    while True:
        if isinstance(decision, (Deny, Reply)):
            context.decided_by = route.policies[at].name
            return decision
        if isinstance(decision, Pending):
            return _wait(context, route, at, decision)
        if not isinstance(decision, Decision):
            return _wait(context, route, at, _in_task(decision))
        at += 1
        if at == len(checks):
            return ALLOW
        decision = checks[at](context)


def recheck(context: Context, route: Route, passed: int = -1) -> Decision | Pending[Decision]:
    """Judge again, after time has gone by, by the first `passed` policies of the route (-1: by all of them).

    Returns `ALLOW`, what ends the request (`context.decided_by` names whose), or a `Pending` of one of these.
    Raises whatever a policy breaks with.
    """
    return _again(context, route, 0, len(route.policies) if passed < 0 else passed)


def _again(context: Context, route: Route, at: int, passed: int) -> Decision | Pending[Decision]:
    while at < passed:
        policy = route.policies[at]
        at += 1
        again = policy.recheck(context)
        if again is ALLOW:
            continue
        if isinstance(again, Pending):
            return _again_later(context, route, at, passed, again)
        if _ends(context, policy.name, again):
            return again
    return ALLOW


def _again_later(
    context: Context, route: Route, following: int, passed: int, again: Pending[Decision]
) -> Pending[Decision]:
    def judged(decision: Any) -> Decision | Pending[Decision]:
        if _ends(context, route.policies[following - 1].name, decision):
            return cast(Decision, decision)
        return _again(context, route, following, passed)

    return _chain(context, route, again, judged)


def _ends(context: Context, name: str, decision: Any) -> bool:
    """Does this, what the policy `name` answered to a recheck, end the request?"""
    if isinstance(decision, (Deny, Reply)):
        context.decided_by = name
        return True
    if not isinstance(decision, Decision):
        raise TypeError(f"{name}: a recheck answers a decision, or a Pending of one")
    return False


def _wait(context: Context, route: Route, at: int, inner: Pending[Decision]) -> Pending[Decision]:
    """Go on once policy number `at` has delivered what it answers, and what had passed before has passed again."""

    def delivered(decision: Any) -> Decision | Pending[Decision]:
        def judged(again: Any) -> Decision | Pending[Decision]:
            return _go_on(context, route, at, decision) if again is ALLOW else cast(Decision, again)

        again = recheck(context, route, at)
        return _chain(context, route, again, judged) if isinstance(again, Pending) else judged(again)

    return _chain(context, route, inner, delivered)


def _chain(
    context: Context,
    route: Route,
    inner: Pending[Decision],
    then: Callable[[Any], Decision | Pending[Decision]],
) -> Pending[Decision]:
    """What `then` makes of what `inner` delivers; a fault on the way is a refusal."""
    waiting: list[Pending[Decision]] = [inner]
    outer: Pending[Decision] = Pending(on_cancel=lambda: waiting[0].cancel())  # noqa: PLW0108 - whichever waits then

    def failed(error: BaseException) -> None:
        outer.resolve(_fault(context, route, error))

    def resumed(decision: Any) -> None:  # what a policy delivers is judged in `then`, where a fault is caught
        try:
            result = then(decision)
        except BROKEN as error:  # as in `run`
            failed(error)
            return
        if isinstance(result, Pending):
            waiting[0] = result
            result.then(outer.resolve, outer.fail)
        else:
            outer.resolve(result)

    inner.then(resumed, failed)
    return outer


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
