"""What becomes of a request header by its name, in every spelling that a CGI or WSGI server would fold into it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http import HOP_BY_HOP, IDENTITY, OWN, TRUSTED_ONLY, Kind, classify, fold, tokens

CONTRACT = (
    "X-Consumer-ID",
    "X-Consumer-Username",
    "X-Consumer-Custom-ID",
    "X-Consumer-Groups",
    "X-Credential-Identifier",
    "X-Anonymous-Consumer",
    "X-Organization-ID",
    "X-Authenticated-Scope",
    "X-Authenticated-UserId",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Real-IP",
)


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper, str.title])
@pytest.mark.parametrize("separator", "-_.!#$%&'*+^`|~")
def test_what_the_gateway_alone_writes(name: str, spell: Callable[[str], str], separator: str) -> None:
    assert classify(spell(name).replace("-", separator).encode()) is Kind.IDENTITY


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"Accept", Kind.FORWARD),
        (b"Cookie", Kind.FORWARD),
        (b"X_Custom", Kind.FORWARD),
        (b"Connection", Kind.HOP),
        (b"TE", Kind.HOP),
        (b"Proxy", Kind.HOP),
        (b"Host", Kind.OWN),
        (b"Content-Length", Kind.OWN),
        (b"Transfer-Encoding", Kind.OWN),
        (b"X-Request-ID", Kind.OWN),
        # Nobody means these, and an upstream could take them for what they fold into.
        (b"Content_Length", Kind.IDENTITY),
        (b"Transfer_Encoding", Kind.IDENTITY),
        (b"X-Request_ID", Kind.IDENTITY),
        (b"X.Request.ID", Kind.IDENTITY),
        (b"X-API.Key", Kind.IDENTITY),
        (b"Forwarded", Kind.TRUSTED),
        (b"X-Original-URL", Kind.TRUSTED),
        (b"X_HTTP_Method_Override", Kind.IDENTITY),
        (b"X.HTTP~Method-Override", Kind.IDENTITY),
        (b"Authorization", Kind.CREDENTIAL),
        (b"apikey", Kind.CREDENTIAL),
        (b"X-API-Key", Kind.CREDENTIAL),
    ],
)
def test_kinds(name: bytes, kind: Kind) -> None:
    assert classify(name) is kind


@given(
    st.sampled_from(sorted(IDENTITY | HOP_BY_HOP | TRUSTED_ONLY | OWN)),
    st.lists(st.sampled_from(["same", "upper", "_", ".", "~"]), min_size=1, max_size=40),
)
def test_no_spelling_slips_through(name: bytes, ways: list[str]) -> None:
    letters = []
    for place, letter in enumerate(name.decode()):
        way = ways[place % len(ways)]
        letters.append(letter.upper() if way == "upper" else way if way in "_.~" and letter == "-" else letter)
    spelled = "".join(letters).encode()
    assert fold(spelled) == name
    assert classify(spelled) is not Kind.FORWARD


@pytest.mark.parametrize(
    ("value", "members"),
    [(b"", []), (b"close", [b"close"]), (b" Keep-Alive ,, \tX-A", [b"keep-alive", b"x-a"])],
)
def test_tokens(value: bytes, members: list[bytes]) -> None:
    assert tokens(value) == members
