"""`organization`: the caller's own, once and clearly; whatever else a server might read is a mismatch."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.answers import ORGANIZATION_MISMATCH
from gateway.core.decision import ALLOW, Deny
from gateway.core.identity import Identity
from policies.organization import Organization
from tests.policies.helpers import decide, make_context, make_identity, make_policy

SPRINGFIELD = make_identity(organization="springfield")
MAIL = make_identity(organization="a+b@c")
NOWHERE = make_identity()
GUEST = make_identity(organization="springfield", anonymous=True)


def judged(decision: object) -> str:
    """ "" for a caller who is let in, else what was found."""
    if decision is ALLOW:
        return ""
    assert isinstance(decision, Deny)
    assert (decision.answer, decision.reason) == (ORGANIZATION_MISMATCH, "organization_mismatch")
    return str(decision.facts["found"])


ABSENT, REPEATED, AMBIGUOUS = "absent", "given more than once", "can be read in two ways"
ANOTHER = "another organization"


@pytest.mark.parametrize(
    ("identity", "captures", "found"),
    [
        (SPRINGFIELD, {"org": "springfield", "id": "1"}, ""),
        (SPRINGFIELD, {"org": "shelbyville"}, ANOTHER),
        (SPRINGFIELD, {"org": "Springfield"}, ANOTHER),
        (SPRINGFIELD, {"org": "springfield;x=1"}, ANOTHER),
        (SPRINGFIELD, {"org": "springfield%20"}, ANOTHER),
        (SPRINGFIELD, {"org": ""}, ANOTHER),
        (SPRINGFIELD, {"school": "springfield"}, ABSENT),
        (SPRINGFIELD, None, ABSENT),
        (MAIL, {"org": "a+b@c"}, ""),  # + is itself in a path
        (MAIL, {"org": "a%2Bb%40c"}, ""),
        (MAIL, {"org": "a%252Bb%40c"}, ANOTHER),  # decoded once
        (MAIL, {"org": "a b@c"}, ANOTHER),
        (SPRINGFIELD, {"org": "springfield%"}, AMBIGUOUS),
        (NOWHERE, {"org": "springfield"}, "the caller belongs to no organization"),
        (None, {"org": "springfield"}, "the caller belongs to no organization"),
        (GUEST, {"org": "springfield"}, ""),
        (GUEST, {"org": "shelbyville"}, ANOTHER),
    ],
)
def test_in_the_path(identity: Identity | None, captures: dict[str, str] | None, found: str) -> None:
    policy, context = make_policy(Organization, {"match": "path.org"}), make_context(identity=identity)
    context.captures = captures
    assert judged(decide(policy, context)) == found
    assert judged(policy.recheck(context)) == found


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([("X-School", "springfield")], ""),
        ([("x-SCHOOL", " springfield\t")], ""),
        ([("X-School", "shelbyville")], ANOTHER),
        ([("X-School", "SPRINGFIELD")], ANOTHER),
        ([("X-School", "")], ANOTHER),
        ([("X-School", "springfield, shelbyville")], ANOTHER),
        ([("X-School", "spring%66ield")], ANOTHER),  # a header's value is not escaped
        ([], ABSENT),
        ([("X-School", "springfield"), ("X-School", "springfield")], REPEATED),
        ([("X-School", "springfield"), ("x-school", "shelbyville")], REPEATED),
        ([("X-School", "springfield"), ("X_School", "shelbyville")], REPEATED),
        ([("X.School", "shelbyville"), ("X-School", "springfield")], REPEATED),
        ([("X_School", "springfield")], AMBIGUOUS),
        ([("X-School", "springfield"), ("Connection", "close, X-School")], AMBIGUOUS),  # the LMS would not see it
    ],
)
def test_in_a_header(headers: list[tuple[str, str]], found: str) -> None:
    policy = make_policy(Organization, {"match": "header.X-School"})
    stripped = [(name, value.strip()) for name, value in headers]
    assert judged(decide(policy, make_context(headers=stripped, identity=SPRINGFIELD))) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"my_org=springfield", ""),
        (b"a=1&my_org=springfield&b", ""),
        (b"my_org=%73pringfield", ""),
        (b"%6Dy_org=springfield", ""),  # every server reads it so
        (b"my_org=springfield&my_orgs=shelbyville&amy_org=x", ""),
        (b"my_org=shelbyville", ANOTHER),
        (b"my_org=Springfield", ANOTHER),
        (b"my_org=springfield+", ANOTHER),
        (b"my_org=springfield%00", ANOTHER),
        (b"my_org=springfield%3Bx", ANOTHER),
        (b"my_org=%2573pringfield", ANOTHER),
        (b"my_org=", ANOTHER),
        (b"my_org", ANOTHER),
        (b"my_org==springfield", ANOTHER),
        (b"", ABSENT),
        (b"org=springfield", ABSENT),
        (b"my_org=springfield&my_org=springfield", REPEATED),
        (b"my_org=springfield&my_org=shelbyville", REPEATED),
        (b"my_org=springfield&my_org", REPEATED),
        (b"my_org=springfield&%6dy_org=shelbyville", REPEATED),
        (b"my_org=springfield&my_org[]=shelbyville", REPEATED),
        (b"my_org=springfield&my_org[0][x]=shelbyville", REPEATED),
        (b"my_org=springfield&my_org%5B%5D=shelbyville", REPEATED),
        (b"my_org=springfield&[my_org]=shelbyville", REPEATED),  # qs
        (b"my_org=springfield&my.org=shelbyville", REPEATED),  # PHP, here and below
        (b"my_org=springfield&my+org=shelbyville", REPEATED),
        (b"my_org=springfield&my[org=shelbyville", REPEATED),
        (b"my_org=springfield&+my_org=shelbyville", REPEATED),
        (b"my_org=springfield&my_org%00x=shelbyville", REPEATED),
        (b"my_org=springfield&MY_ORG=shelbyville", REPEATED),
        (b"a=1;my_org=shelbyville&my_org=springfield", REPEATED),
        (b"my_org=springfield;my_org=shelbyville", REPEATED),
        (b"my_org[]=springfield", AMBIGUOUS),
        (b"My_Org=springfield", AMBIGUOUS),
        (b"my_org=springfield;a=1", AMBIGUOUS),
        (b"a=1;my_org=springfield", AMBIGUOUS),
        (b"my_org=springfield&a=%", AMBIGUOUS),
        (b"my_org=springfield&%u006dy_org=shelbyville", AMBIGUOUS),
        (b"my_org=springfield&%ff=1", AMBIGUOUS),
    ],
)
def test_in_the_query(query: bytes, found: str) -> None:
    policy = make_policy(Organization, {"match": "query.my_org"})
    assert judged(decide(policy, make_context(query=query, identity=SPRINGFIELD))) == found


def test_plus_is_a_space_in_a_query() -> None:
    policy = make_policy(Organization, {"match": "query.org"})
    assert judged(decide(policy, make_context(query=b"org=a+b@c", identity=MAIL))) == ANOTHER
    assert judged(decide(policy, make_context(query=b"org=a%2bb%40c", identity=MAIL))) == ""


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "Field required"),
        ({"match": "org"}, "must be path.NAME"),
        ({"match": "path."}, "must be path.NAME"),
        ({"match": "cookie.org"}, "must be path.NAME"),
        ({"match": 1}, "valid string"),
        ({"match": "path.1a"}, "a capture is named"),
        ({"match": "path.a-b"}, "a capture is named"),
        ({"match": "header.X School"}, "no name of a header"),
        ({"match": "header.X-Organization-ID"}, "does not get as the client sent it"),
        ({"match": "header.X_Consumer.Username"}, "does not get as the client sent it"),
        ({"match": "header.Host"}, "does not get as the client sent it"),
        ({"match": "header.Authorization"}, "does not get as the client sent it"),
        ({"match": "header.Connection"}, "does not get as the client sent it"),
        ({"match": "header.X-Original-URL"}, "does not get as the client sent it"),
        ({"match": "query.org[]"}, "the parameter's name must be"),
        ({"match": "query.org", "also": "x"}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Organization.Config.model_validate(config)
