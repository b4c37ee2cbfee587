"""`scopes`: all that is required, and nothing for who has none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.answers import INSUFFICIENT_SCOPE
from gateway.core.decision import ALLOW, Deny
from gateway.core.identity import Identity
from policies.scopes import Scopes
from tests.policies.helpers import decide, make_context, make_identity, make_policy

READ = make_identity(scopes=("courses:read",))
BOTH = make_identity(scopes=("courses:write", "courses:read", "x"))
NONE = make_identity(scopes=())
UNSCOPED = make_identity(scopes=None)
GUEST = make_identity(scopes=("courses:read",), anonymous=True)


@pytest.mark.parametrize(
    ("require", "identity", "admitted"),
    [
        (["courses:read"], READ, True),
        (["courses:read"], BOTH, True),
        (["courses:read", "courses:write"], BOTH, True),
        (["courses:read", "courses:write"], READ, False),
        (["courses:Read"], READ, False),  # scopes are told apart by case (RFC 6749 §3.3)
        (["courses"], READ, False),
        (["courses:read"], NONE, False),
        (["courses:read"], UNSCOPED, False),
        (["courses:read"], GUEST, False),
        (["courses:read"], None, False),
    ],
)
def test_scopes_decide(require: list[str], identity: Identity | None, admitted: bool) -> None:
    policy, context = make_policy(Scopes, {"require": require}), make_context(identity=identity)
    for decision in (decide(policy, context), policy.recheck(context)):
        if admitted:
            assert decision is ALLOW
        else:
            assert isinstance(decision, Deny)
            assert (decision.answer, decision.reason) == (INSUFFICIENT_SCOPE, "insufficient_scope")


@pytest.mark.parametrize(
    ("config", "challenge"),
    [
        ({"require": ["b", "a"]}, b'Bearer realm="postern", error="insufficient_scope", scope="b a"'),
        ({"require": ["a"], "realm": "LMS"}, b'Bearer realm="LMS", error="insufficient_scope", scope="a"'),
    ],
)
def test_a_refusal_names_what_is_required(config: dict[str, Any], challenge: bytes) -> None:
    decision = decide(make_policy(Scopes, config), make_context(identity=READ))
    assert isinstance(decision, Deny)
    assert decision.headers == ((b"WWW-Authenticate", challenge),)
    assert decision.facts == {"require": sorted(config["require"]), "scopes": ["courses:read"]}


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "Field required"),
        ({"require": []}, "at least 1 item"),
        ({"require": "a"}, "valid tuple"),
        ({"require": ["a b"]}, "must be a scope"),
        ({"require": ['a"b']}, "must be a scope"),
        ({"require": ["a\\"]}, "must be a scope"),
        ({"require": ["ä"]}, "must be a scope"),
        ({"require": [""]}, "must be a scope"),
        ({"require": ["a", "b", "a"]}, "holds 'a' twice"),
        ({"require": ["a"], "realm": 'x"'}, "should match pattern"),
        ({"require": ["a"], "any": True}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Scopes.Config.model_validate(config)
