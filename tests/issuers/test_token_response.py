"""What a token endpoint may answer, and what of it becomes a token: the rest is a failure that repeats nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import IssuerError
from gateway.issuers.token_response import DEFAULT_LIFETIME, MAX_LIFETIME, IssuedToken, parse_answer

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"
GOOD = {"access_token": "t-1", "token_type": "Bearer", "expires_in": 3600}


def body(**changes: Any) -> bytes:
    """A good answer with changes; `...` leaves a member out."""
    answer = {**GOOD, **changes}
    return json.dumps({name: value for name, value in answer.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("scheme", "changes", "token", "lifetime"),
    [
        ("Bearer", {}, b"t-1", 3600),
        ("Bearer", {"token_type": "bearer"}, b"t-1", 3600),
        ("Bearer", {"token_type": "BearerToken"}, b"t-1", 3600),
        ("Bearer", {"token_type": ...}, b"t-1", 3600),
        ("Bearer", {"access_token": "1234~aB./+=_"}, b"1234~aB./+=_", 3600),
        ("Bearer", {"refresh_token": "r", "scope": "read"}, b"t-1", 3600),
        ("Bearer", {"expires_in": ...}, b"t-1", DEFAULT_LIFETIME),
        ("Bearer", {"expires_in": None}, b"t-1", DEFAULT_LIFETIME),
        ("Bearer", {"expires_in": "3599"}, b"t-1", 3599),
        ("Bearer", {"expires_in": 1.5}, b"t-1", 1.5),
        ("Bearer", {"expires_in": 315360000}, b"t-1", MAX_LIFETIME),
        ("Bearer", {"expires_in": 10**400}, b"t-1", MAX_LIFETIME),
        ("JWT", {"access_token": JWT, "token_type": "JWT"}, JWT.encode(), 3600),
        ("JWT", {"access_token": JWT, "token_type": "Bearer"}, JWT.encode(), 3600),
    ],
)
def test_tokens(scheme: str, changes: dict[str, Any], token: bytes, lifetime: float) -> None:
    assert parse_answer(200, body(**changes), scheme) == IssuedToken(token, lifetime)


@pytest.mark.parametrize(
    ("status", "answer", "fault"),
    [
        (200, b"", "no JSON object"),
        (200, b"<!doctype html><title>Log in</title>", "no JSON object"),
        (200, b"access_token=t-1&token_type=bearer", "no JSON object"),
        (200, b"[1]", "no JSON object"),
        (200, b'"t-1"', "no JSON object"),
        (200, b"[" * 60_000, "no JSON object"),
        (200, b"\xff\xfe{", "no JSON object"),
        (200, body(access_token=...), "no access_token"),
        (200, body(access_token=""), "no access_token"),
        (200, body(access_token=7), "no access_token"),
        (200, body(access_token={"t": 1}), "no access_token"),
        (200, body(access_token="a\r\nX-Consumer-Groups: admin"), "cannot stand in a header"),
        (200, body(access_token="a\nb"), "cannot stand in a header"),
        (200, body(access_token="a\n"), "cannot stand in a header"),
        (200, body(access_token="a b"), "cannot stand in a header"),
        (200, body(access_token="a\x00"), "cannot stand in a header"),
        (200, body(access_token="a\x7f"), "cannot stand in a header"),
        (200, body(access_token="\u00e4"), "cannot stand in a header"),
        (200, body(access_token="a" * 20_000), "cannot stand in a header"),
        (200, body(token_type="mac"), "token_type is not one"),
        (200, body(token_type="DPoP"), "token_type is not one"),
        (200, body(token_type="JWT"), "token_type is not one"),
        (200, body(token_type=["Bearer"]), "token_type is not one"),
        (200, body(expires_in=0), "expires_in"),
        (200, body(expires_in=-1), "expires_in"),
        (200, body(expires_in=0.5), "expires_in"),
        (200, body(expires_in="soon"), "expires_in"),
        (200, body(expires_in=True), "expires_in"),
        (200, body(expires_in=[3600]), "expires_in"),
        (200, body(expires_in=-(10**400)), "expires_in"),
        (200, b'{"access_token": "t-1", "expires_in": NaN}', "expires_in"),
        (201, body(), "answers 201"),
        (302, body(), "answers 302, and redirects are not followed"),
        (307, b"", "answers 307, and redirects are not followed"),
        (400, b'{"error": "invalid_scope"}', r"answers 400 \(invalid_scope\)"),
        (401, b'{"error": "invalid_client", "error_description": "s3cret"}', r"answers 401 \(invalid_client\)$"),
        (401, b'{"error": "s3cret"}', "answers 401$"),
        (401, b"s3cret", "answers 401$"),
        (500, b"<html>s3cret</html>", "answers 500$"),
    ],
)
def test_what_is_no_token(status: int, answer: bytes, fault: str) -> None:
    with pytest.raises(IssuerError, match=fault) as caught:
        parse_answer(status, answer, "Bearer")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("token", ["t-1", "a.b", "a.b.c.d", "a b.c.d"])
def test_a_jwt_must_be_one(token: str) -> None:
    with pytest.raises(IssuerError, match=r"no JWT|cannot stand"):
        parse_answer(200, body(access_token=token, token_type="JWT"), "JWT")


def test_a_token_is_in_no_repr() -> None:
    assert "t-1" not in repr(parse_answer(200, body(), "Bearer"))


texts = st.text("aZ0.-_~ \r\n\0\x7f\xe4", max_size=12) | st.sampled_from(["Bearer", "3600", "1e9", "-1", "inf"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
answers = st.dictionaries(
    st.sampled_from(["access_token", "token_type", "expires_in", "error", "x"]),
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=3),
)


@given(
    st.sampled_from([200, 200, 200, 400, 302]), answers.map(lambda answer: json.dumps(answer).encode()) | st.binary()
)
def test_anything_is_a_token_that_fits_a_line_or_a_fault(status: int, answer: bytes) -> None:
    try:
        issued = parse_answer(status, answer, "Bearer")
    except IssuerError:
        return
    assert status == 200
    assert issued.token
    assert all(0x21 <= byte <= 0x7E for byte in issued.token)
    assert 1 <= issued.lifetime <= MAX_LIFETIME
