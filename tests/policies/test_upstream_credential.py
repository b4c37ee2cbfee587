"""`upstream-credential`: the LMS gets what it wants, the client's own never beside it, and nobody else sees it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config.loader import load_bytes
from gateway.core.answers import ISSUER_UNAVAILABLE
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny, Pending
from gateway.core.errors import ConfigError, IssuerError
from gateway.core.policy import Policy
from gateway.core.ports import ClientCredentialsGrant
from policies._upstream_credential_ways import FixedParameter
from policies.upstream_credential import UpstreamCredential
from tests.policies.helpers import answer_lines, decide, make_context, make_environment, make_policy, upstream_lines

OPEN_EDX: dict[str, Any] = {
    "token_url": "http://lms:8000/oauth2/access_token",
    "client_id": "postern",
    "client_secret": "s3cret",
}


class FakeTokens:
    """`AccessTokens` that answer as a test says: with a token, a failure, or a `Pending` of either."""

    def __init__(self, outcome: bytes | Pending[bytes] | IssuerError = b"t-1") -> None:
        self.outcome = outcome
        self.grants: list[ClientCredentialsGrant] = []
        self.refused: list[bytes] = []

    def source(self, grant: ClientCredentialsGrant) -> FakeTokens:
        self.grants.append(grant)
        return self

    def token(self) -> bytes | Pending[bytes]:
        if isinstance(self.outcome, IssuerError):
            raise self.outcome
        return self.outcome

    def rejected(self, token: bytes) -> None:
        self.refused.append(token)


def fetching(tokens: FakeTokens, **settings: Any) -> Policy:
    config = {"client-credentials": {**OPEN_EDX, **settings}}
    return make_policy(UpstreamCredential, config, replace(make_environment(), access_tokens=tokens))


def basic(pair: str) -> str:
    return f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}"


# ── a fixed header ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "line", "hidden"),
    [
        ({"header": {"value": "Bearer 7~abc"}}, "Authorization: Bearer 7~abc", (b"authorization",)),
        ({"header": {"name": "X-LMS-Token", "value": "a b"}}, "X-LMS-Token: a b", (b"x-lms-token",)),
        ({"header": {"name": "apikey", "value": "a"}}, "apikey: a", (b"apikey",)),
        ({"header": {"name": "Cookie", "value": "MoodleSession=a"}}, "Cookie: MoodleSession=a", (b"cookie",)),
        ({"basic": {"username": "api", "password": "ab cd:ef"}}, basic("api:ab cd:ef"), (b"authorization",)),
        ({"basic": {"username": "j\u00f6", "password": "\u00e4"}}, basic("j\u00f6:\u00e4"), (b"authorization",)),
    ],
)
def test_a_fixed_header(config: dict[str, Any], line: str, hidden: tuple[bytes, ...]) -> None:
    policy = make_policy(UpstreamCredential, config)
    context = make_context(headers={"Authorization": "Bearer mine"})
    assert decide(policy, context) is ALLOW
    assert upstream_lines(context) == [line]
    assert context.hidden == hidden
    assert context.answer_lines == []
    assert not hasattr(policy, "on_response_head")


def test_it_is_the_only_line_of_its_name() -> None:
    """What an earlier policy (a transformer) wrote under the same name goes, too."""
    context = make_context()
    context.upstream_lines = [b"X-A: 1\r\n", b"authorization: Bearer other\r\n", b"X-B: 2\r\n"]
    decide(make_policy(UpstreamCredential, {"header": {"value": "Bearer x"}}), context)
    assert upstream_lines(context) == ["X-A: 1", "X-B: 2", "Authorization: Bearer x"]


# ── a query parameter ────────────────────────────────────────────────────────────────────────────

MOODLE = {"query": {"value": "s3cret"}}


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        (b"", b"wstoken=s3cret"),
        (b"wsfunction=f", b"wsfunction=f&wstoken=s3cret"),
        (b"wstoken=mine", b"wstoken=s3cret"),
        (b"wstoken", b"wstoken=s3cret"),
        (b"a=1&wstoken=mine&b=2", b"a=1&b=2&wstoken=s3cret"),
        (b"wstoken=1&wstoken=2&a", b"a&wstoken=s3cret"),
        (b"%77stoken=mine", b"wstoken=s3cret"),
        (b"%77%73%74%6f%6B%65%6e=mine", b"wstoken=s3cret"),
        (b"WSToken=mine", b"wstoken=s3cret"),
        (b"+wstoken=mine", b"wstoken=s3cret"),
        (b"%20%20wstoken=mine", b"wstoken=s3cret"),
        (b"wstoken%00x=mine", b"wstoken=s3cret"),
        (b"wstoken[]=mine", b"wstoken=s3cret"),
        (b"wstoken%5Bx%5D=mine", b"wstoken=s3cret"),
        (b"[wstoken]=mine&%5Bwstoken%5D[a]=mine", b"wstoken=s3cret"),
        (b"a=1;wstoken=mine;b=2", b"a=1;b=2&wstoken=s3cret"),
        (b"wstoken=mine;wstoken=yours", b"wstoken=s3cret"),
        # What is not the parameter stays as it is, byte for byte.
        (b"a=%2f+&&b&c=;", b"a=%2f+&&b&c=;&wstoken=s3cret"),
        (b"wstoken2=a&mywstoken=b&ws_token=c&a=wstoken", b"wstoken2=a&mywstoken=b&ws_token=c&a=wstoken&wstoken=s3cret"),
        (b"a=wstoken=b&%=%zz", b"a=wstoken=b&%=%zz&wstoken=s3cret"),
    ],
)
def test_a_query_parameter(query: bytes, sent: bytes) -> None:
    context = make_context(query=query)
    assert decide(make_policy(UpstreamCredential, MOODLE), context) is ALLOW
    assert context.upstream_query == sent
    assert context.query == query
    assert not context.hidden
    assert not context.hidden_query
    assert not context.upstream_lines


@pytest.mark.parametrize(
    ("value", "sent", "got"),
    [
        ("s3cret", "https://lms/a?b=1&wstoken=s3cret#c", "https://lms/a?b=1&wstoken=#c"),
        ("s3cret", "/login?next=%2Fa%3Fwstoken%3Ds3cret%26b", "/login?next=%2Fa%3Fwstoken%3D%26b"),
        ("s3cret", "/login?next=%2fa%3fwstoken%3ds3cret", "/login?next=%2fa%3fwstoken%3d"),
        ("a /\u00e4", "/?wstoken=a%20%2F%C3%A4", "/?wstoken="),
        ("a /\u00e4", "/?wstoken=a+%2f%c3%a4", "/?wstoken="),
        ("a /\u00e4", "/?next=wstoken%3Da%2520%252F%25C3%25A4", "/?next=wstoken%3D"),
        ("a/b", "/?wstoken=a/b", "/?wstoken="),
        ("s3cret", "https://lms/s3cret", None),
    ],
)
def test_a_redirect_does_not_tell_it(value: str, sent: str, got: str | None) -> None:
    context = make_context()
    policy = make_policy(UpstreamCredential, {"query": {"value": value}})
    fields = [(b"Link", b"</a>"), (b"Location", sent.encode()), (b"Date", b"now"), (b"location", b"/b")]
    policy.on_response_head(context, 302, fields)  # type: ignore[attr-defined]  # only some policies have it
    expected = [] if got is None else [f"Location: {got}", "location: /b"]
    assert answer_lines(context) == expected
    assert context.replaced == (() if got is None else (frozenset({b"location"}),))


@pytest.mark.parametrize("query", [b"lms_token=a", b"lms.token=a", b"lms[token=a", b"lms%20token=a", b"lms+token=a"])
def test_a_name_is_read_as_php_reads_it(query: bytes) -> None:
    assert FixedParameter("lms_token", b"x").replaced(query) == b"lms_token=x"


def test_a_value_is_encoded() -> None:
    context = make_context()
    decide(make_policy(UpstreamCredential, {"query": {"name": "t-1", "value": "a&b=c #\u00e4+"}}), context)
    assert context.upstream_query == b"t-1=a%26b%3Dc%20%23%C3%A4%2B"


def test_what_an_earlier_policy_made_of_the_query_counts() -> None:
    context = make_context(query=b"a=1")
    context.upstream_query = b"b=2&wstoken=x"
    decide(make_policy(UpstreamCredential, MOODLE), context)
    assert context.upstream_query == b"b=2&wstoken=s3cret"


def test_a_key_that_came_in_the_same_parameter_does_not_hide_ours() -> None:
    """A Moodle client may show its key as the `wstoken` that it knows; `auth` then hides the parameter."""
    context = make_context(query=b"wstoken=pnpub_a.pnsec_b&apikey=c")
    context.hidden_query += ("wstoken", "apikey")
    decide(make_policy(UpstreamCredential, MOODLE), context)
    assert context.hidden_query == ("apikey",)
    assert context.upstream_query == b"apikey=c&wstoken=s3cret"


@given(st.lists(st.sampled_from([b"wstoken", b"WS", b"token", b"=", b"&", b";", b"%77", b"+", b"[", b"a", b"%00"])))
def test_whatever_is_sent_one_parameter_remains(parts: list[bytes]) -> None:
    way = FixedParameter("wstoken", b"ours")
    sent = way.replaced(b"".join(parts))
    rest, _, last = sent.rpartition(b"wstoken=ours")
    assert last == b""
    assert way.replaced(sent) == sent
    assert not any(way._means(piece) for part in rest.split(b"&") for piece in part.split(b";") if piece)


# ── a fetched token ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "line", "hidden"),
    [
        ({}, "Authorization: Bearer t-1", (b"authorization",)),
        ({"scheme": "JWT"}, "Authorization: JWT t-1", (b"authorization",)),
        ({"header": "X-LMS-Token"}, "X-LMS-Token: Bearer t-1", (b"x-lms-token",)),
    ],
)
def test_a_held_token(settings: dict[str, Any], line: str, hidden: tuple[bytes, ...]) -> None:
    context = make_context(headers={"Authorization": "Bearer mine"})
    assert decide(fetching(FakeTokens(), **settings), context) is ALLOW
    assert upstream_lines(context) == [line]
    assert context.hidden == hidden


@pytest.mark.parametrize(
    ("settings", "grant"),
    [
        ({}, {}),
        ({"scope": "read write", "audience": "lms"}, {"scope": "read write", "audience": "lms"}),
        ({"auth": "basic", "scheme": "JWT"}, {"auth": "basic", "scheme": "JWT"}),
        ({"form": {"resource": "x"}, "timeout": "500ms"}, {"form": (("resource", "x"),), "timeout": 0.5}),
    ],
)
def test_the_grant(settings: dict[str, Any], grant: dict[str, Any]) -> None:
    tokens = FakeTokens()
    fetching(tokens, **settings)
    assert tokens.grants == [ClientCredentialsGrant(**OPEN_EDX, **grant)]


def later(policy: Policy, context: Context) -> tuple[Pending[Decision], list[Decision | BaseException]]:
    """A decision that is not there yet, and where it will be."""
    pending = policy.check(context)
    assert isinstance(pending, Pending)
    got: list[Decision | BaseException] = []
    pending.then(got.append, got.append)
    assert not got
    return pending, got


def test_a_token_that_comes_later() -> None:
    asked: Pending[bytes] = Pending()
    context = make_context()
    _, got = later(fetching(FakeTokens(asked)), context)
    assert not context.upstream_lines
    asked.resolve(b"t-2")
    assert got == [ALLOW]
    assert upstream_lines(context) == ["Authorization: Bearer t-2"]


def test_no_token_at_once() -> None:
    context = make_context()
    decision = decide(fetching(FakeTokens(IssuerError("down", 7))), context)
    assert isinstance(decision, Deny)
    assert decision.answer is ISSUER_UNAVAILABLE
    assert decision.headers == ((b"Retry-After", b"7"),)
    assert not context.upstream_lines


def test_no_token_later() -> None:
    asked: Pending[bytes] = Pending()
    _, got = later(fetching(FakeTokens(asked)), make_context())
    asked.fail(IssuerError("down", 2))
    (decision,) = got
    assert isinstance(decision, Deny)
    assert (decision.answer, decision.headers) == (ISSUER_UNAVAILABLE, ((b"Retry-After", b"2"),))


def test_a_fault_is_no_permission() -> None:
    asked: Pending[bytes] = Pending()
    _, got = later(fetching(FakeTokens(asked)), make_context())
    error = RuntimeError("boom")
    asked.fail(error)
    assert got == [error]


def test_who_goes_away_waits_no_longer() -> None:
    asked: Pending[bytes] = Pending()
    pending, _ = later(fetching(FakeTokens(asked)), make_context())
    pending.cancel()
    assert asked.done


@pytest.mark.parametrize(("status", "refused"), [(401, [b"t-1"]), (200, []), (403, []), (500, [])])
def test_an_upstream_that_refuses_a_token(status: int, refused: list[bytes]) -> None:
    tokens = FakeTokens()
    policy, context = fetching(tokens), make_context()
    decide(policy, context)
    tokens.outcome = b"t-2"
    policy.on_response_head(context, status, [])  # type: ignore[attr-defined]  # it is there where a token is fetched
    assert tokens.refused == refused


# ── the settings ─────────────────────────────────────────────────────────────────────────────────

HEADER, BASIC, QUERY = {"value": "a"}, {"username": "u", "password": "p"}, {"value": "a"}


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "exactly one of"),
        ({"header": HEADER, "basic": BASIC}, "exactly one of"),
        ({"query": QUERY, "client-credentials": OPEN_EDX}, "exactly one of"),
        ({"client_credentials": OPEN_EDX}, "Extra inputs"),
        ({"header": {"name": "X-Consumer-ID", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "x_api_key", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "Connection", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "Content-Length", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "Host", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "X-Forwarded-For", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "Forwarded", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "Via", **HEADER}}, "the gateway writes or removes"),
        ({"header": {"name": "X Y", **HEADER}}, "name of a header"),
        ({"header": {"value": ""}}, "one line of visible ASCII"),
        ({"header": {"value": "a\r\nX: y"}}, "one line of visible ASCII"),
        ({"header": {"value": "a\n"}}, "one line of visible ASCII"),
        ({"header": {"value": " a"}}, "one line of visible ASCII"),
        ({"header": {"value": "\u00e4"}}, "one line of visible ASCII"),
        ({"header": {"value": 7}}, "valid string"),
        ({"header": {}}, "Field required"),
        ({"basic": {**BASIC, "username": "a:b"}}, "neither a colon"),
        ({"basic": {**BASIC, "username": ""}}, "at least 1 character"),
        ({"basic": {**BASIC, "password": "a\nb"}}, "without control characters"),
        ({"query": {"name": "a[b", **QUERY}}, "plain name of a query parameter"),
        ({"query": {"name": "", **QUERY}}, "plain name of a query parameter"),
        ({"query": {"name": "w\u00e4", **QUERY}}, "plain name of a query parameter"),
        ({"query": {"value": ""}}, "not empty"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "lms/oauth2"}}, "URL of a token endpoint"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "ftp://lms/"}}, "URL of a token endpoint"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "http:///x"}}, "URL of a token endpoint"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "http://lms:99999/"}}, "URL of a token endpoint"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "http://lms/a b"}}, "URL of a token endpoint"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "http://[::1/"}}, "URL of a token endpoint"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "http://u:p@lms/"}}, "neither a user nor a fragment"),
        ({"client-credentials": {**OPEN_EDX, "token_url": "http://lms/#a"}}, "neither a user nor a fragment"),
        ({"client-credentials": {**OPEN_EDX, "client_id": ""}}, "at least 1 character"),
        ({"client-credentials": {**OPEN_EDX, "client_secret": ""}}, "not empty"),
        ({"client-credentials": {**OPEN_EDX, "auth": "none"}}, "'post' or 'basic'"),
        ({"client-credentials": {**OPEN_EDX, "scheme": "Token"}}, "'Bearer' or 'JWT'"),
        ({"client-credentials": {**OPEN_EDX, "header": "Host"}}, "the gateway writes or removes"),
        ({"client-credentials": {**OPEN_EDX, "form": {"client_secret": "x"}}}, "not set here"),
        ({"client-credentials": {**OPEN_EDX, "timeout": "0s"}}, "more than 0"),
        ({"client-credentials": {"client_id": "a"}}, "Field required"),
    ],
)
def test_bad_config_is_refused(config: Mapping[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        UpstreamCredential.Config.model_validate(config)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"header": {"name": "X-LMS-Token", "value": "s3cret"}}, ("X-LMS-Token",)),
        ({"basic": {"username": "u", "password": "s3cret"}}, ()),
        ({"query": {"name": "lmskey", "value": "s3cret"}}, ("lmskey",)),
        ({"client-credentials": {**OPEN_EDX, "form": {"a": "s3cret"}}}, ()),
    ],
)
def test_secrets_are_shown_nowhere(config: Mapping[str, Any], names: tuple[str, ...]) -> None:
    settings = UpstreamCredential.Config.model_validate(config)
    assert settings.key_names == names
    assert "s3cret" not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()


# ── the page ─────────────────────────────────────────────────────────────────────────────────────

PAGE = Path(__file__).resolve().parents[2] / "docs" / "POLICIES.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: re.findall(r"name: (\w+)", text)[0])
def test_the_examples_of_the_page_load(text: str, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "openedx").write_text("s3cret")
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "s3cret")
    loaded = load_bytes(text.encode(), tmp_path / "config.yaml", environ=environ)
    (service,) = loaded.config.services
    assert isinstance(service.policies["upstream-credential"], UpstreamCredential.Config)
    assert "s3cret" not in repr(loaded)


def test_the_page_has_an_example_for_each_lms() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize(
    "written",
    [
        "header: {name: Host, value: s3cret}",
        'header: {value: "s3cret "}',
        "query: {name: s3cret, valeu: s3cret}",
        "client-credentials: {token_url: s3cret, client_id: a, client_secret: s3cret}",
        'basic: {username: "s3cret:", password: s3cret}',
    ],
)
def test_no_report_shows_a_secret(written: str) -> None:
    text = f"policies: {{upstream-credential: {{{written}}}}}".replace("s3cret", "${A}")
    with pytest.raises(ConfigError) as caught:
        load_bytes(text.encode(), Path("config.yaml"), environ={"A": "s3cret"})
    assert "s3cret" not in str(caught.value)
