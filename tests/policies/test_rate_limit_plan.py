"""`rate-limiting`: which rules hold, who is counted, and with which numbers."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.decision import ALLOW
from gateway.core.identity import Identity
from gateway.core.policy import Entry, Phase
from gateway.counters.memory import MemoryCounters
from policies.rate_limiting import RateLimiting
from tests.policies.helpers import answer_lines, make_context, make_environment
from tests.policies.rate_limits import CALLER, SCOPES, Gateway, Recorder, assemble, caller

# ── who is counted ────────────────────────────────────────────────────────────────────────────────

ANONYMOUS = caller(credential=None)


@pytest.mark.parametrize(
    ("by", "first", "second", "shared"),
    [
        ("credential", caller("k-1"), caller("k-2"), False),
        ("consumer", caller("k-1"), caller("k-2"), True),
        ("consumer", caller("k-1", "c-1"), caller("k-2", "c-2"), False),
        ("organization", caller("k-1", "c-1", "o"), caller("k-2", "c-2", "o"), True),
        ("organization", caller("k-1", "c-1", "o"), caller("k-1", "c-1", "p"), False),
        ("organization", caller("k-1", "c-1"), caller("k-2", "c-1"), True),  # none: the consumer
        ("organization", caller("k-1", "c-1"), caller("k-2", "c-2"), False),
        ("ip", caller("k-1", "c-1"), caller("k-2", "c-2"), True),
        ("route", caller("k-1", "c-1"), caller("k-2", "c-2"), True),
        ("route", caller("k-1", "c-1"), None, True),
        ("credential", None, None, True),  # nobody: the address
        ("credential", None, caller(), False),
        ("credential", ANONYMOUS, ANONYMOUS, True),
        ("consumer", ANONYMOUS, ANONYMOUS, True),
    ],
)
def test_what_a_rule_counts_by(by: str, first: Identity | None, second: Identity | None, shared: bool) -> None:
    gateway = Gateway(route={"limits": ["1/minute"], "by": by})
    assert gateway.admits(first)
    assert gateway.admits(second) is not shared


@pytest.mark.parametrize(
    ("by", "identity", "shared"),
    [
        ("ip", CALLER, False),
        ("credential", CALLER, True),
        ("credential", None, False),
        ("consumer", None, False),
        ("organization", None, False),
        ("header.X-Device", None, False),
        ("route", None, True),
        ("credential", ANONYMOUS, False),  # who shares a stand-in does not share a budget
        ("consumer", ANONYMOUS, True),  # but the stand-in is a consumer
    ],
)
def test_who_falls_back_to_the_address(by: str, identity: Identity | None, shared: bool) -> None:
    gateway = Gateway(route={"limits": ["1/minute"], "by": by})
    assert gateway.admits(identity, client="192.0.2.1")
    assert gateway.admits(identity, client="192.0.2.2") is not shared


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unix:", "unix:", True),
    ],
)
@pytest.mark.parametrize("by", ["ip", "credential"])
def test_addresses(by: str, first: str, second: str, shared: bool) -> None:
    gateway = Gateway(route={"limits": ["1/minute"], "by": by})
    assert gateway.admits(None, client=first)
    assert gateway.admits(None, client=second) is not shared


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({"X-Device": "a"}, {"x-device": "a"}, True),
        ({"X-Device": "a"}, {"X-Device": "b"}, False),
        ({"X-Device": "a"}, {}, False),
        ({}, {"X-Device": ""}, True),  # empty is absent: the address
        ({"X-Device": LONG}, {"X-Device": LONG}, True),
        ({"X-Device": LONG}, {"X-Device": LONG + "y"}, False),
    ],
)
def test_by_header(first: dict[str, str], second: dict[str, str], shared: bool) -> None:
    gateway = Gateway(route={"limits": ["1/minute"], "by": "header.X-Device"})
    assert gateway.admits(headers=first)
    assert gateway.admits(headers=second) is not shared


@pytest.mark.parametrize(("separate", "admitted"), [(True, ["GET", "DELETE", "POST"]), (False, ["GET"])])
@pytest.mark.parametrize("by", ["credential", "ip", "header.X-Device"])
def test_call_types(separate: bool, admitted: list[str], by: str) -> None:
    gateway = Gateway(route={"limits": ["1/minute"], "by": by, "separate_call_types": separate})
    methods = ["GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH", "PROPFIND", "DELETE"]
    assert [method for method in methods if gateway.admits(method=method)] == admitted


def test_keys_are_small_and_never_hold_a_limit() -> None:
    recorder = Recorder()
    gateway = Gateway(recorder, top={"limits": ["600/minute"], "by": "header.X-Device"})
    gateway.ask(headers={"X-Device": LONG})
    gateway.reload(top={"limits": ["601/minute"], "by": "header.X-Device"})
    gateway.ask(headers={"X-Device": LONG})
    (first,), (second,) = recorder.seen
    assert first.key == second.key
    assert len(first.key) < 100
    assert "60" not in first.key.partition("digest")[0]


# ── with which numbers ────────────────────────────────────────────────────────────────────────────

RULE = {"limits": ["10/minute"], "groups": {"premium": ["60/minute"], "gold": ["50/second", "99/minute"]}}


@pytest.mark.parametrize(
    ("by", "identity", "limits"),
    [
        ("credential", caller(), [10]),
        ("credential", caller(groups=("premium",)), [60]),
        ("credential", caller(groups=("other",)), [10]),
        # Of several groups the most generous, by its tightest window: 99 a minute against 60.
        ("credential", caller(groups=("premium", "gold")), [50, 99]),
        ("route", caller(groups=("premium",)), [60]),
        ("consumer", None, [10]),
    ],
)
def test_groups(by: str, identity: Identity | None, limits: list[int]) -> None:
    gateway = Gateway(route={**RULE, "by": by})
    assert gateway.left(identity) == [limit - 1 for limit in limits]


OWN = {"credential": ("4/minute",), "consumer": ("5/minute", "50/hour"), "organization": ("6/minute",)}


@pytest.mark.parametrize(
    ("by", "identity", "limits"),
    [
        ("credential", caller(own=OWN), [4]),
        ("credential", caller(own=OWN, groups=("premium",)), [4]),
        ("consumer", caller(own=OWN), [5, 50]),
        ("organization", caller(own=OWN, organization="o"), [6]),
        # Who falls to the next counts by it, with its numbers.
        ("organization", caller(own=OWN), [5, 50]),
        ("credential", caller(None, own=OWN), [10]),
        # Other parts' numbers are not those of the rule.
        ("credential", caller(own={"consumer": ("5/minute",)}), [10]),
        ("consumer", caller(own={"credential": ("4/minute",)}, groups=("premium",)), [60]),
        ("route", caller(own=OWN, organization="o"), [10]),
        # Of two numbers for one length the lower holds.
        ("credential", caller(own={"credential": ("9/minute", "3/60s", "8/minute")}), [3]),
    ],
)
def test_numbers_of_ones_own(by: str, identity: Identity, limits: list[int]) -> None:
    gateway = Gateway(route={**RULE, "by": by})
    assert gateway.left(identity) == [limit - 1 for limit in limits]


def test_new_numbers_go_on_from_the_counts_that_stand() -> None:
    gateway = Gateway(route={"limits": ["10/minute"]})
    assert [gateway.left(caller()) for _ in range(3)] == [[9], [8], [7]]
    assert gateway.left(caller(own={"credential": ("5/minute",)})) == [1]
    gateway.reload(route={"limits": ["20/minute", "100/hour"]})
    assert gateway.left(caller()) == [15, 95]


# ── which rules hold ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("levels", "policy"),
    [
        # Without a name the innermost holds.
        ({"top": {"limits": ["9/hour"]}, "route": {"limits": ["5/minute"]}}, '"minute";q=5;w=60'),
        # With names they add up, outer ones first.
        (
            {"top": {"name": "all", "limits": ["9/hour"]}, "route": {"limits": ["5/minute"]}},
            '"all-hour";q=9;w=3600, "minute";q=5;w=60',
        ),
        (
            {
                "top": [{"name": "a", "limits": ["9/hour"]}, {"name": "b", "limits": ["8/hour"]}],
                "service": {"name": "a", "limits": ["7/minute"]},
                "route": {"limits": ["6/second"]},
            },
            '"b-hour";q=8;w=3600, "a-minute";q=7;w=60, "second";q=6;w=1',
        ),
        # A rule by address is replaced by a namesake that is not.
        (
            {"top": {"limits": ["9/hour"], "by": "ip"}, "route": {"limits": ["5/minute"]}},
            '"minute";q=5;w=60',
        ),
        # One level may hold several rules without a name.
        ({"route": [{"limits": ["9/hour"]}, {"limits": ["5/minute"]}]}, '"hour";q=9;w=3600, "minute";q=5;w=60'),
        (
            {"top": [{"limits": ["9/hour"]}, {"limits": ["4/day"]}], "route": [{"limits": ["5/minute"], "by": "ip"}]},
            '"minute";q=5;w=60',
        ),
    ],
)
def test_rules_of_three_levels(levels: dict[str, Any], policy: str) -> None:
    _, context = Gateway(**levels).ask()
    assert answer_lines(context)[3] == f"RateLimit-Policy: {policy}"


def test_rules_alike_at_one_level_are_counted_apart() -> None:
    gateway = Gateway(route=[{"limits": ["9/minute"]}, {"limits": ["9/minute"]}])
    assert gateway.left() == [8, 8]


@pytest.mark.parametrize(("level", "shared"), [("top", True), ("service", True), ("route", False)])
@pytest.mark.parametrize("by", ["credential", "ip"])
def test_where_a_rule_is_written_is_the_scope_of_its_count(level: str, shared: bool, by: str) -> None:
    counters = MemoryCounters()
    config = RateLimiting.Config.model_validate({"limits": ["1/minute"], "by": by})
    verdicts = []
    for route in ("content-read", "content-write"):
        scope = SCOPES[level].replace("content-read", route)
        (policy,) = RateLimiting.assemble([Entry(config, level, scope)], make_environment(counters=counters))
        verdicts.append(policy.check(make_context(identity=CALLER)) is ALLOW)
    assert verdicts == [True, not shared]


def test_by_route_counts_each_route_wherever_it_is_written() -> None:
    counters = MemoryCounters()
    entry = Entry(RateLimiting.Config.model_validate({"limits": ["1/minute"], "by": "route"}), "top", "*")
    for route in ("content-read", "content-write"):
        environment = make_environment(counters=counters)
        (policy,) = RateLimiting.assemble([entry], type(environment)(route, "lms", *_ports(environment)))
        assert policy.check(make_context(identity=CALLER)) is ALLOW
        assert policy.check(make_context(identity=None)) is not ALLOW


def _ports(environment: Any) -> tuple[Any, Any, Any]:
    return environment.clock, environment.counters, environment.authenticator


def test_phases() -> None:
    rules = [
        {"name": name, "limits": ["1/minute"], "by": by} for name, by in (("a", "ip"), ("b", "route"), ("c", "ip"))
    ]
    policies = assemble(MemoryCounters(), top=rules)
    assert [policy.phase for policy in policies] == [Phase.RATE_LIMITING_BY_IP, Phase.RATE_LIMITING]
    assert [policy.phase for policy in assemble(MemoryCounters(), top=rules[0])] == [Phase.RATE_LIMITING_BY_IP]


# ── what is remembered ────────────────────────────────────────────────────────────────────────────


def test_a_plan_outlives_a_reload_that_changes_nothing() -> None:
    identity, rule = caller(), {"limits": ["5/minute"]}
    gateway = Gateway(route=rule)
    gateway.ask(identity)
    gateway.reload(route=rule)
    gateway.ask(identity)
    assert len(identity.derived) == 1
    gateway.reload(route={"limits": ["6/minute"]})
    assert gateway.left(identity) == [3]
    assert len(identity.derived) == 2


def test_an_identity_remembers_only_so_many_plans() -> None:
    identity = caller()
    for limit in range(1, 600):
        Gateway(route={"limits": [f"{limit}/minute"]}).ask(identity)
        assert len(identity.derived) <= 256
