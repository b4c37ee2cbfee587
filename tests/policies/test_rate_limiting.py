"""`rate-limiting`: what an answer says, all or none, counters that fail, and settings that are wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.core.answers import OVERLOADED, RATE_LIMITED
from gateway.core.decision import ALLOW, Decision, Deny, Pending
from gateway.core.errors import CountersError
from gateway.core.ports import Verdict
from policies._rate_limit_headers import Fields, Window, quoted
from policies.rate_limiting import RateLimiting
from tests.policies.helpers import answer_lines, make_context
from tests.policies.rate_limits import CALLER, SECOND, START, Gateway, Recorder


def unexpected(error: BaseException) -> None:
    pytest.fail(repr(error))


# ── headers ───────────────────────────────────────────────────────────────────────────────────────


def test_headers_are_those_of_the_contract() -> None:
    gateway = Gateway(route={"limits": ["600/minute", "5000/hour"]})
    decision, context = gateway.ask()
    assert decision is ALLOW
    assert answer_lines(context) == [
        "RateLimit-Limit: 600",
        "RateLimit-Remaining: 599",
        "RateLimit-Reset: 60",
        'RateLimit-Policy: "minute";q=600;w=60, "hour";q=5000;w=3600',
        'RateLimit: "minute";r=599;t=60',
    ]
    assert frozenset().union(*context.replaced) == {
        b"ratelimit-limit",
        b"ratelimit-remaining",
        b"ratelimit-reset",
        b"ratelimit-policy",
        b"ratelimit",
    }


def test_a_refusal_tells_when_to_come_back() -> None:
    gateway = Gateway(route={"limits": ["2/minute", "2/hour"], "name": "burst"})
    gateway.ask()
    gateway.ask(after=0.25)
    decision, context = gateway.ask(after=10)
    assert isinstance(decision, Deny)
    assert decision.answer is RATE_LIMITED
    assert decision.headers == ((b"Retry-After", b"3590"),)
    assert decision.members == {"violated-policies": ["burst-minute", "burst-hour"]}
    assert answer_lines(context) == [
        "RateLimit-Limit: 2",
        "RateLimit-Remaining: 0",
        "RateLimit-Reset: 3590",
        'RateLimit-Policy: "burst-minute";q=2;w=60, "burst-hour";q=2;w=3600',
        'RateLimit: "burst-hour";r=0;t=3590',
    ]
    assert not gateway.admits(after=3589.74)
    assert gateway.admits(after=0.01)


@pytest.mark.parametrize(
    ("limits", "described"),
    [
        (["3/minute", "9/hour"], '"minute";r=2;t=60'),
        (["9/minute", "3/hour"], '"hour";r=2;t=3600'),
        (["5/hour", "5/minute"], '"minute";r=4;t=60'),  # a tie: the shorter
        (["5/30s", "5/day", "5/second"], '"second";r=4;t=1'),
        (["7/30s"], '"30s";r=6;t=30'),
        (["1/minute", "1/hour"], '"minute";r=0;t=60'),  # nothing left, but admitted: a tie like any other
    ],
)
def test_the_window_with_the_fewest_left_is_described(limits: list[str], described: str) -> None:
    _, context = Gateway(route={"limits": limits}).ask()
    assert answer_lines(context)[-1] == f"RateLimit: {described}"


@pytest.mark.parametrize(
    ("limits", "gaps", "described"),
    [
        (["1/10s", "1/minute"], [0], '"minute";r=0;t=60'),
        (["2/minute", "3/hour"], [0, 0], '"minute";r=0;t=60'),
        (["9/minute", "2/hour"], [0, 0.5], '"hour";r=0;t=3600'),
        (["1/second", "9/minute"], [0.5], '"second";r=0;t=1'),  # rounded up
    ],
)
def test_on_429_the_exhausted_window_that_frees_last(limits: list[str], gaps: list[float], described: str) -> None:
    gateway = Gateway(route={"limits": limits})
    for gap in gaps:
        assert gateway.admits(after=gap)
    decision, context = gateway.ask()
    assert isinstance(decision, Deny)
    lines = answer_lines(context)
    assert lines[-1] == f"RateLimit: {described}"
    wait = described.rpartition("=")[2]
    assert lines[2] == f"RateLimit-Reset: {wait}"
    assert decision.headers == ((b"Retry-After", wait.encode()),)


@pytest.mark.parametrize(
    ("headers", "lines"),
    [
        (["draft-03"], ["RateLimit-Limit: 5", "RateLimit-Remaining: 4", "RateLimit-Reset: 60"]),
        (["draft-10"], ['RateLimit-Policy: "minute";q=5;w=60', 'RateLimit: "minute";r=4;t=60']),
        ([], []),
    ],
)
def test_headers_may_be_narrowed(headers: list[str], lines: list[str]) -> None:
    gateway = Gateway(route={"limits": ["5/minute"], "headers": headers})
    _, context = gateway.ask()
    assert answer_lines(context) == lines
    replaced = {line.partition(":")[0].lower().encode() for line in lines}
    assert frozenset().union(*context.replaced) == replaced


def test_a_hidden_rule_limits_without_being_seen() -> None:
    rules = [{"name": "seen", "limits": ["9/minute"]}, {"name": "hidden", "limits": ["1/minute"], "headers": []}]
    gateway = Gateway(route=rules)
    assert answer_lines(gateway.ask()[1])[3:] == [
        'RateLimit-Policy: "seen-minute";q=9;w=60',
        'RateLimit: "seen-minute";r=8;t=60',
    ]
    decision, context = gateway.ask()
    assert isinstance(decision, Deny)
    assert decision.headers == ((b"Retry-After", b"60"),)
    assert answer_lines(context)[-1] == 'RateLimit: "seen-minute";r=8;t=60'


def test_generations_may_show_different_rules() -> None:
    rules = [
        {"name": "old", "limits": ["9/minute"], "headers": ["draft-03"]},
        {"name": "new", "limits": ["5/hour"], "headers": ["draft-10"]},
    ]
    _, context = Gateway(route=rules).ask()
    assert answer_lines(context) == [
        "RateLimit-Limit: 9",
        "RateLimit-Remaining: 8",
        "RateLimit-Reset: 60",
        'RateLimit-Policy: "new-hour";q=5;w=3600',
        'RateLimit: "new-hour";r=4;t=3600',
    ]


def test_rules_by_address_and_others_are_described_together() -> None:
    gateway = Gateway(top={"name": "flood", "limits": ["3/minute"], "by": "ip"}, route={"limits": ["9/minute"]})
    _, context = gateway.ask()
    assert answer_lines(context) == [
        "RateLimit-Limit: 3",
        "RateLimit-Remaining: 2",
        "RateLimit-Reset: 60",
        'RateLimit-Policy: "flood-minute";q=3;w=60, "minute";q=9;w=60',
        'RateLimit: "flood-minute";r=2;t=60',
    ]


def test_the_second_block_takes_the_place_of_the_first_and_no_other() -> None:
    gateway = Gateway(top={"name": "flood", "limits": ["3/minute"], "by": "ip"}, route={"limits": ["1/minute"]})
    before, after = gateway.policies
    for hidden in (False, True):
        if hidden:
            gateway = Gateway(
                top={"name": "flood", "limits": ["3/minute"], "by": "ip", "headers": []}, route={"limits": ["1/minute"]}
            )
            before, after = gateway.policies
        context = make_context()
        context.arrived = START
        context.answer_lines = [b"X-Before: 1\r\n"]
        before.check(context)
        context.answer_lines.append(b"X-Between: 1\r\n")
        context.identity = CALLER
        after.check(context)
        lines = answer_lines(context)
        assert sorted(line for line in lines if line.startswith("X-")) == ["X-Before: 1", "X-Between: 1"]
        assert sum(line.startswith("RateLimit-Policy:") for line in lines) == 1
        assert 'RateLimit: "minute";r=0;t=60' in lines


@pytest.mark.parametrize(
    ("text", "string"),
    [("minute", '"minute"'), ('a"b\\c', '"a\\"b\\\\c"'), ("naïve\n", '"na?ve?"'), ("100%d", '"100%d"')],
)
def test_names_are_strings_of_structured_fields(text: str, string: str) -> None:
    assert quoted(text) == string
    lines = Fields([Window(text, 5, 60, ("draft-03", "draft-10"))]).counted([(4, SECOND)]).decode()
    assert f"RateLimit-Policy: {string};q=5;w=60\r\nRateLimit: {string};r=4;t=1\r\n" in lines


# ── all or none ───────────────────────────────────────────────────────────────────────────────────


def test_a_refusal_counts_in_no_rule_save_those_by_address() -> None:
    gateway = Gateway(
        top=[
            {"name": "flood", "limits": ["9/minute"], "by": "ip"},
            {"name": "school", "limits": ["9/minute"], "by": "organization"},
        ],
        route={"limits": ["1/second"]},
    )
    assert gateway.left() == [8, 8, 0]
    for _ in range(3):
        assert not gateway.admits()
    assert gateway.left(after=1) == [4, 7, 0]


def test_a_refusal_by_address_asks_nothing_else() -> None:
    gateway = Gateway(top={"name": "flood", "limits": ["1/minute"], "by": "ip"}, route={"limits": ["9/minute"]})
    assert gateway.left() == [0, 8]
    decision, context = gateway.ask()
    assert isinstance(decision, Deny)
    assert decision.members == {"violated-policies": ["flood-minute"]}
    assert answer_lines(context)[3] == 'RateLimit-Policy: "flood-minute";q=1;w=60'
    assert gateway.left(client="192.0.2.99") == [0, 7]


def test_who_must_wait_for_the_address_too_is_told_so() -> None:
    gateway = Gateway(top={"name": "flood", "limits": ["2/hour"], "by": "ip"}, route={"limits": ["1/second"]})
    gateway.ask()
    decision, _ = gateway.ask()
    assert isinstance(decision, Deny)
    assert decision.members == {"violated-policies": ["second"]}
    assert decision.headers == ((b"Retry-After", b"3600"),)


@pytest.mark.parametrize("algorithm", ["sliding-window", "fixed-window", "token-bucket"])
def test_every_algorithm(algorithm: str) -> None:
    gateway = Gateway(route={"limits": ["3/minute"], "algorithm": algorithm})
    assert [gateway.admits() for _ in range(4)] == [True, True, True, False]
    decision, _ = gateway.ask()
    assert isinstance(decision, Deny)
    wait = int(decision.headers[0][1])
    assert wait == (20 if algorithm == "token-bucket" else 60)
    assert gateway.admits(after=wait)


# ── counters that are elsewhere ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("admitted", [True, False])
def test_a_verdict_may_come_later(admitted: bool) -> None:
    asked: Pending[Verdict] = Pending()
    (policy,) = Gateway(Recorder(asked), route={"limits": ["5/minute"]}).policies
    context = make_context(identity=CALLER)
    decision = policy.check(context)
    assert isinstance(decision, Pending)
    got: list[Decision] = []
    decision.then(got.append, unexpected)
    assert got == []
    assert context.answer_lines == []
    asked.resolve(Verdict(admitted, [(4 if admitted else 0, 7 * SECOND)]))
    assert (got[0] is ALLOW) is admitted
    assert answer_lines(context)[-1] == f'RateLimit: "minute";r={4 if admitted else 0};t=7'


@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize(
    ("rules", "denied"),
    [
        ([{"limits": ["5/minute"]}], False),
        ([{"limits": ["5/minute"], "on_fault": "deny"}], True),
        ([{"limits": ["5/minute"]}, {"limits": ["5/hour"], "on_fault": "deny"}], True),
    ],
)
def test_counters_that_cannot_be_asked(rules: list[dict[str, Any]], denied: bool, later: bool) -> None:
    asked: Pending[Verdict] = Pending()
    fault = CountersError("gone")
    (policy,) = Gateway(Recorder(asked if later else fault), route=rules).policies
    context = make_context(identity=CALLER)
    answer = policy.check(context)
    got: list[Any] = []
    if isinstance(answer, Pending):
        answer.then(got.append, unexpected)
        asked.fail(fault)
    else:
        got.append(answer)
    (decision,) = got
    assert context.answer_lines == []
    if denied:
        assert decision.answer is OVERLOADED
        assert decision.headers == ((b"Retry-After", b"1"),)
        assert decision.reason == "counters_unavailable"
    else:
        assert decision is ALLOW


def test_another_fault_is_not_mistaken_for_one_of_the_counters() -> None:
    asked: Pending[Verdict] = Pending()
    (policy,) = Gateway(Recorder(asked), route={"limits": ["5/minute"]}).policies
    decision = policy.check(make_context(identity=CALLER))
    assert isinstance(decision, Pending)
    faults: list[BaseException] = []
    decision.then(lambda value: pytest.fail(str(value)), faults.append)
    asked.fail(ZeroDivisionError())
    assert isinstance(faults[0], ZeroDivisionError)


def test_whoever_no_longer_waits_tells_the_counters() -> None:
    told: list[bool] = []
    asked: Pending[Verdict] = Pending(on_cancel=lambda: told.append(True))
    (policy,) = Gateway(Recorder(asked), route={"limits": ["5/minute"]}).policies
    decision = policy.check(make_context(identity=CALLER))
    assert isinstance(decision, Pending)
    decision.then(lambda _: None, lambda _: None)
    decision.cancel()
    assert told == [True]
    asked.resolve(Verdict(True, [(1, 1)]))


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "place", "text"),
    [
        ({}, ("limits",), "required"),
        ({"limits": []}, ("limits",), "at least 1 item"),
        ({"limits": ["600/fortnight"]}, ("limits", 0), "is not a rate"),
        ({"limits": "600/minute"}, ("limits",), "tuple"),
        ({"limits": ["0/minute"]}, ("limits", 0), "at least 1"),
        ({"limits": ["6/minute", "5/60s"]}, ("limits",), "two limits for one length"),
        ({"limits": ["6/minute"], "by": "moon"}, ("by",), "must be credential, consumer"),
        ({"limits": ["6/minute"], "by": "header."}, ("by",), "header.NAME"),
        ({"limits": ["6/minute"], "by": "header.X Y"}, ("by",), "header.NAME"),
        ({"limits": ["6/minute"], "algorithm": "leaky"}, ("algorithm",), "sliding-window"),
        ({"limits": ["6/minute"], "headers": ["draft-04"]}, ("headers", 0), "draft-03"),
        ({"limits": ["6/minute"], "groups": {"a": ["x"]}}, ("groups", "a", 0), "is not a rate"),
        ({"limits": ["6/minute"], "groups": {"a": ["1/hour"]}, "by": "ip"}, (), "before authentication"),
        ({"limits": ["6/minute"], "window": "1m"}, ("window",), "not permitted"),
        ({"limits": ["6/minute"], "name": 'a"b'}, ("name",), "name"),
        ([{"limits": ["6/minute"]}, {"limit": 1}], (1, "limits"), "required"),
        ([{"limits": ["6/minute"], "name": "a"}] * 2, (), "two rules called a"),
        ([], (), "at least 1 item"),
        ("600/minute", (), "a rule (a mapping) or a list of rules"),
        (600, (), "a rule (a mapping) or a list of rules"),
    ],
)
def test_wrong_settings(config: Any, place: tuple[str | int, ...], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(RateLimiting.Config).validate_python(config)
    assert any(error["loc"] == place and text in error["msg"] for error in caught.value.errors()), caught.value.errors()


def test_the_schema_takes_one_rule_or_many() -> None:
    one, many = RateLimiting.Config.model_json_schema()["anyOf"]
    assert many["items"] == one
    assert many["minItems"] == 1
