"""The shape of a token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credentials.parse import Prefixes, parse_token

OURS = Prefixes()


@pytest.mark.parametrize(
    ("token", "ours"),
    [
        (b"pnpub_a.pnsec_b", True),
        (b"pnpub_" + b"a" * 64 + b".pnsec_" + b"b" * 64, True),
        (b"pnpub_A-_9.pnsec_-", True),
        (b"pnpub_" + b"a" * 65 + b".pnsec_b", False),
        (b"pnpub_.pnsec_b", False),
        (b"pnpub_a.pnsec_", False),
        (b"PNPUB_a.pnsec_b", False),
        (b"pnsec_a.pnpub_b", False),
        (b"a.b", False),
    ],
)
def test_two_parts_are_a_key_ours_or_not(token: bytes, ours: bool) -> None:
    parsed = parse_token(token, OURS)
    assert parsed is not None
    assert parsed.ours is ours
    assert f"{parsed.public}.{parsed.secret.decode()}".encode() == token


@pytest.mark.parametrize(
    "token",
    [b"", b".", b"a", b"a.", b".b", b"a.b.c", b"a b.c", b"a.b ", b" a.b", b"a.b\n", b"a\x00.b", b"a.\xc3\xa4", b"a,b"],
)
def test_all_else_has_no_keys_shape(token: bytes) -> None:
    assert parse_token(token, OURS) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_without_a_fault(token: bytes) -> None:
    parsed = parse_token(token, OURS)
    assert parsed is None or token.count(b".") == 1


def test_a_token_does_not_show_its_secret() -> None:
    assert "hidden" not in repr(parse_token(b"pnpub_a.pnsec_hidden", OURS))
