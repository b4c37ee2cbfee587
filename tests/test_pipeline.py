"""The loop over policies: its order, its ends, its waits, and that a fault lets nothing through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

import pytest

from gateway import pipeline
from gateway.core.answers import ACL_DENIED, INTERNAL_ERROR, INVALID_KEY
from gateway.core.context import Context
from gateway.core.decision import ABSTAIN, ALLOW, Allow, Decision, Deny, Pending, Reply
from gateway.core.policy import Policy
from gateway.snapshot import Origin, Route, Service, Stats, Target
from tests.policies.helpers import make_context

Answer = Decision | Pending[Decision] | Awaitable[Decision]
DENY = Deny(ACL_DENIED)
REPLY = Reply(200, body=b"pong")


class Scripted(Policy):
    """Answers what it was made with; remembers that it was asked."""

    name: ClassVar[str] = "scripted"
    phase = 1

    def __init__(self, label: str, answer: Callable[[], Answer], again: Callable[[], Answer] = lambda: ALLOW) -> None:
        self.name = label  # type: ignore[misc]  # one class plays several policies
        self._answer = answer
        self._again = again
        self.asked: list[str] = []

    def check(self, context: Context) -> Answer:
        self.asked.append("check")
        return self._answer()

    def recheck(self, context: Context) -> Decision | Pending[Decision]:
        self.asked.append("recheck")
        return cast(Decision, self._again())


def route_of(*policies: Policy) -> Route:
    service = Service("lms", (Target("lms", Origin("127.0.0.1", 9000), b"lms"),))
    checks = tuple(cast(Any, policy.check) for policy in policies)
    return Route("r", service, policies, checks, cast(Stats, None))


def allowing(label: str, again: Callable[[], Answer] = lambda: ALLOW) -> Scripted:
    return Scripted(label, lambda: ALLOW, again)


def broken() -> Decision:
    raise RuntimeError("a policy's own defect")


class Outcome:
    """What becomes of a `Pending`."""

    def __init__(self, decision: Decision | Pending[Decision]) -> None:
        assert isinstance(decision, Pending)
        self.pending = decision
        self._decision: Decision | None = None
        self.error: BaseException | None = None
        decision.then(self._take, self._fail)

    def _take(self, decision: Decision) -> None:
        assert self._decision is None
        self._decision = decision

    @property
    def decision(self) -> Decision | None:
        """What was decided, None so far."""
        return self._decision

    def _fail(self, error: BaseException) -> None:
        self.error = error


# ── at once ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answers", "ended_by"),
    [
        ([], ""),
        ([ALLOW, ALLOW, ALLOW], ""),
        ([Allow({"why": "facts"}), ABSTAIN, ALLOW], ""),
        ([ALLOW, DENY, ALLOW], "p1"),
        ([DENY, REPLY], "p0"),
        ([ALLOW, ALLOW, REPLY], "p2"),
        ([Allow(), DENY], "p1"),
    ],
)
def test_policies_are_asked_in_order_until_one_ends_it(answers: list[Decision], ended_by: str) -> None:
    policies = [Scripted(f"p{at}", lambda answer=answer: answer) for at, answer in enumerate(answers)]  # type: ignore[misc]  # a default binds
    context = make_context()
    decision = pipeline.run(context, route_of(*policies))
    end = int(ended_by[1:]) if ended_by else len(answers)
    assert decision is (answers[end] if ended_by else ALLOW)
    assert context.decided_by == ended_by
    assert [policy.asked for policy in policies] == [["check"]] * min(end + 1, len(answers)) + [[]] * (
        len(answers) - end - 1
    )


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_fault_is_a_500_and_logged(position: int, caplog: pytest.LogCaptureFixture) -> None:
    policies = [allowing("a"), allowing("b")]
    policies.insert(position, Scripted("broken", broken))
    context = make_context()
    with caplog.at_level(logging.ERROR):
        decision = pipeline.run(context, route_of(*policies))
    assert isinstance(decision, Deny)
    assert decision.answer is INTERNAL_ERROR
    assert context.decided_by == "fault"
    assert "a policy's own defect" in caplog.text
    assert not [policy for policy in policies[position + 1 :] if policy.asked]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1), GeneratorExit(), BaseException()], ids=repr)
@pytest.mark.parametrize("waits", [False, True])
def test_what_is_no_ordinary_exception_is_a_500_too(error: BaseException, waits: bool) -> None:
    def leave() -> Decision:
        raise error

    pending: Pending[Decision] = Pending()
    policies = [Scripted("slow", lambda: pending)] * waits + [Scripted("leaves", leave)]
    decision: Decision | Pending[Decision] | None = pipeline.run(make_context(), route_of(*policies))
    if waits:
        outcome = Outcome(cast(Any, decision))
        pending.resolve(ALLOW)
        decision = outcome.decision
    assert isinstance(decision, Deny)
    assert decision.answer is INTERNAL_ERROR


def test_a_fault_after_facts_is_a_500_too() -> None:
    decision = pipeline.run(make_context(), route_of(Scripted("a", Allow), Scripted("broken", broken)))
    assert isinstance(decision, Deny)


@pytest.mark.parametrize("nonsense", [None, True, "allow", 200])
async def test_what_is_no_decision_lets_nothing_through(nonsense: object) -> None:
    result = pipeline.run(make_context(), route_of(Scripted("odd", lambda: cast(Decision, nonsense))))
    if isinstance(result, Pending):
        outcome = Outcome(result)
        await settled(outcome)
        result = cast(Decision, outcome.decision)
    assert isinstance(result, Deny)
    assert result.answer is INTERNAL_ERROR


async def settled(outcome: Outcome) -> None:
    async with asyncio.timeout(30):
        while outcome.decision is None and outcome.error is None:
            await asyncio.sleep(0)


# ── after a wait ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verdict", [ALLOW, DENY, REPLY])
def test_a_pending_is_waited_for_and_the_rest_is_asked(verdict: Decision) -> None:
    pending: Pending[Decision] = Pending()
    first, slow, last = allowing("first"), Scripted("slow", lambda: pending), allowing("last")
    context = make_context()
    outcome = Outcome(pipeline.run(context, route_of(first, slow, last)))
    assert (outcome.decision, last.asked) == (None, [])
    pending.resolve(verdict)
    assert outcome.decision is verdict
    assert first.asked == ["check", "recheck"]
    assert slow.asked == ["check"]
    assert last.asked == (["check"] if verdict is ALLOW else [])
    assert context.decided_by == ("" if verdict is ALLOW else "slow")


def test_what_was_delivered_already_is_taken_at_once() -> None:
    pending: Pending[Decision] = Pending()
    pending.resolve(ALLOW)
    assert Outcome(pipeline.run(make_context(), route_of(Scripted("slow", lambda: pending)))).decision is ALLOW


def test_two_waits_recheck_all_that_passed() -> None:
    waits: list[Pending[Decision]] = [Pending(), Pending()]
    first, one, two = allowing("first"), Scripted("one", lambda: waits[0]), Scripted("two", lambda: waits[1])
    outcome = Outcome(pipeline.run(make_context(), route_of(first, one, two)))
    waits[0].resolve(ALLOW)
    assert (outcome.decision is None, first.asked[1:]) == (True, ["recheck"])
    assert (first.asked, one.asked, two.asked) == (["check", "recheck"], ["check"], ["check"])
    waits[1].resolve(ALLOW)
    assert outcome.decision is ALLOW
    assert (first.asked, one.asked, two.asked) == (["check", "recheck", "recheck"], ["check", "recheck"], ["check"])


@pytest.mark.parametrize("again", [Deny(INVALID_KEY), Reply(200)])
def test_a_recheck_may_end_what_had_passed(again: Decision) -> None:
    pending: Pending[Decision] = Pending()
    last = allowing("last")
    context = make_context()
    route = route_of(allowing("auth", lambda: again), Scripted("slow", lambda: pending), last)
    outcome = Outcome(pipeline.run(context, route))
    pending.resolve(ALLOW)
    assert outcome.decision is again
    assert context.decided_by == "auth"
    assert last.asked == []


def test_a_recheck_ends_what_the_slow_one_would_have_refused() -> None:
    """What was revoked meanwhile is told first: the order of policies holds."""
    pending: Pending[Decision] = Pending()
    revoked = Deny(INVALID_KEY)
    outcome = Outcome(
        pipeline.run(make_context(), route_of(allowing("auth", lambda: revoked), Scripted("slow", lambda: pending)))
    )
    pending.resolve(DENY)
    assert outcome.decision is revoked


@pytest.mark.parametrize("where", ["pending", "recheck", "next"])
def test_a_fault_after_a_wait_is_a_500(where: str, caplog: pytest.LogCaptureFixture) -> None:
    pending: Pending[Decision] = Pending()
    first = allowing("first", broken if where == "recheck" else lambda: ALLOW)
    last = Scripted("last", broken if where == "next" else lambda: ALLOW)
    context = make_context()
    outcome = Outcome(pipeline.run(context, route_of(first, Scripted("slow", lambda: pending), last)))
    with caplog.at_level(logging.ERROR):
        if where == "pending":
            pending.fail(RuntimeError("a policy's own defect"))
        else:
            pending.resolve(ALLOW)
    assert isinstance(outcome.decision, Deny)
    assert outcome.decision.answer is INTERNAL_ERROR
    assert context.decided_by == "fault"
    assert "a policy's own defect" in caplog.text


@pytest.mark.parametrize("verdict", [ALLOW, DENY])
def test_a_recheck_may_have_to_wait(verdict: Decision) -> None:
    slow: Pending[Decision] = Pending()
    again: Pending[Decision] = Pending()
    first, second, last = allowing("auth", lambda: again), allowing("acl"), allowing("last")
    context = make_context()
    outcome = Outcome(pipeline.run(context, route_of(first, second, Scripted("slow", lambda: slow), last)))
    slow.resolve(ALLOW)
    assert (outcome.decision, second.asked, last.asked) == (None, ["check"], [])
    again.resolve(verdict)
    assert outcome.decision is verdict
    assert (second.asked[1:], last.asked) == ((["recheck"], ["check"]) if verdict is ALLOW else ([], []))
    assert context.decided_by == ("" if verdict is ALLOW else "auth")


def test_a_recheck_that_waits_is_cancelled() -> None:
    told: list[str] = []
    slow: Pending[Decision] = Pending(lambda: told.append("slow"))
    again: Pending[Decision] = Pending(lambda: told.append("again"))
    outcome = Outcome(
        pipeline.run(make_context(), route_of(allowing("auth", lambda: again), Scripted("slow", lambda: slow)))
    )
    slow.resolve(ALLOW)
    outcome.pending.cancel()
    assert told == ["again"]


@pytest.mark.parametrize("nonsense", [None, True], ids=repr)
def test_a_recheck_that_answers_nonsense_lets_nothing_through(nonsense: Any) -> None:
    pending: Pending[Decision] = Pending()
    outcome = Outcome(
        pipeline.run(make_context(), route_of(allowing("first", lambda: nonsense), Scripted("slow", lambda: pending)))
    )
    pending.resolve(ALLOW)
    assert isinstance(outcome.decision, Deny)
    assert outcome.decision.answer is INTERNAL_ERROR


@pytest.mark.parametrize("waits_before", [0, 1])
def test_a_cancelled_wait_reaches_who_is_asked_now(waits_before: int) -> None:
    told: list[int] = []
    waits: list[Pending[Decision]] = [Pending(lambda at=at: told.append(at)) for at in range(2)]  # type: ignore[misc]  # a default binds
    last = allowing("last")
    route = route_of(Scripted("one", lambda: waits[0]), Scripted("two", lambda: waits[1]), last)
    outcome = Outcome(pipeline.run(make_context(), route))
    for wait in waits[:waits_before]:
        wait.resolve(ALLOW)
    outcome.pending.cancel()
    assert told == [waits_before]
    waits[waits_before].resolve(ALLOW)
    assert outcome.decision is None
    assert last.asked == []


# ── policies written as `async def` ──────────────────────────────────────────────────────────────


async def test_an_async_policy() -> None:
    async def allow() -> Decision:
        await asyncio.sleep(0)
        return ALLOW

    async def deny() -> Decision:
        return DENY

    first, last = allowing("first"), Scripted("last", deny)
    context = make_context()
    outcome = Outcome(pipeline.run(context, route_of(first, Scripted("slow", allow), last)))
    await settled(outcome)
    assert outcome.decision is DENY
    assert context.decided_by == "last"
    assert first.asked == ["check", "recheck", "recheck"]


@pytest.mark.parametrize("error", [RuntimeError("a policy's own defect"), SystemExit(3)], ids=repr)
async def test_an_async_policy_that_breaks(error: BaseException) -> None:
    async def fail() -> Decision:
        raise error

    outcome = Outcome(pipeline.run(make_context(), route_of(Scripted("slow", fail))))
    await settled(outcome)
    assert isinstance(outcome.decision, Deny)
    assert outcome.decision.answer is INTERNAL_ERROR


async def test_an_async_policy_is_cancelled() -> None:
    ended: list[bool] = []

    async def wait() -> Decision:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)
        return ALLOW

    outcome = Outcome(pipeline.run(make_context(), route_of(Scripted("slow", wait))))
    await asyncio.sleep(0)
    outcome.pending.cancel()
    async with asyncio.timeout(30):
        while not ended:
            await asyncio.sleep(0)
    assert outcome.decision is None
    assert outcome.error is None


async def test_an_async_policy_that_cancels_itself_lets_nothing_through() -> None:
    async def give_up() -> Decision:
        raise asyncio.CancelledError

    outcome = Outcome(pipeline.run(make_context(), route_of(Scripted("slow", give_up))))
    await settled(outcome)
    assert isinstance(outcome.decision, Deny)


async def test_an_async_policy_that_answers_nonsense() -> None:
    async def nothing() -> Decision:
        return cast(Decision, None)

    outcome = Outcome(pipeline.run(make_context(), route_of(Scripted("slow", nothing))))
    await settled(outcome)
    assert isinstance(outcome.decision, Deny)
    assert outcome.decision.answer is INTERNAL_ERROR


async def test_a_pending_that_delivers_nonsense() -> None:
    pending: Pending[Any] = Pending()
    outcome = Outcome(pipeline.run(make_context(), route_of(Scripted("slow", lambda: pending))))
    pending.resolve(None)
    await settled(outcome)
    assert isinstance(outcome.decision, Deny)
