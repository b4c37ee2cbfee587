"""`acl`: allow or deny by group, closed to whoever is nobody."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.answers import ACL_DENIED
from gateway.core.decision import ALLOW, Deny
from gateway.core.identity import Identity
from policies.acl import Acl
from tests.policies.helpers import decide, make_context, make_identity, make_policy

NOBODY = None
ADMIN = make_identity("contentAdmin")
USER = make_identity("contentUser", "reader")
GROUPLESS = make_identity()
GUEST = make_identity("guest", anonymous=True)


@pytest.mark.parametrize(
    ("config", "identity", "admitted"),
    [
        ({"allow": ["contentUser", "contentAdmin"]}, USER, True),
        ({"allow": ["contentUser", "contentAdmin"]}, ADMIN, True),
        ({"allow": ["contentAdmin"]}, USER, False),
        ({"allow": ["contentuser"]}, USER, False),  # groups are told apart by case
        ({"allow": ["contentUser"]}, GROUPLESS, False),
        ({"allow": ["contentUser"]}, NOBODY, False),
        ({"allow": ["guest"]}, GUEST, True),
        ({"allow": ["contentUser"]}, GUEST, False),
        ({"deny": ["contentAdmin"]}, USER, True),
        ({"deny": ["contentAdmin"]}, ADMIN, False),
        ({"deny": ["reader"]}, USER, False),
        ({"deny": ["contentAdmin"]}, GROUPLESS, True),
        ({"deny": ["contentAdmin"]}, NOBODY, False),
        ({"deny": ["guest"]}, GUEST, False),
    ],
)
def test_groups_decide(config: dict[str, Any], identity: Identity | None, admitted: bool) -> None:
    policy, context = make_policy(Acl, config), make_context(identity=identity)
    decision = decide(policy, context)
    again = policy.recheck(context)
    assert type(again) is type(decision)
    if admitted:
        assert decision is ALLOW
    else:
        assert isinstance(decision, Deny)
        assert (decision.answer, decision.reason) == (ACL_DENIED, "acl")


def test_a_refusal_says_what_was_wanted_and_what_was_there() -> None:
    decision = decide(make_policy(Acl, {"allow": ["b", "a"]}), make_context(identity=USER))
    assert decision.facts == {"allow": ["a", "b"], "groups": ["contentUser", "reader"]}


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "either `allow` or `deny`"),
        ({"allow": ["a"], "deny": ["b"]}, "either `allow` or `deny`"),
        ({"allow": []}, "at least 1 item"),
        ({"deny": []}, "at least 1 item"),
        ({"allow": "contentUser"}, "valid frozenset"),
        ({"allow": ["a b"]}, "must be a group"),
        ({"allow": [1]}, "valid string"),
        ({"whitelist": ["a"]}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Acl.Config.model_validate(config)
