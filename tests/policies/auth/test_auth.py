"""auth: every carrier and outcome with its exact text, what is hidden, and what is asked again after a wait."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
from pydantic import ValidationError

from gateway.core.answers import (
    EXPIRED_KEY,
    INVALID_KEY,
    MALFORMED_TOKEN,
    TOO_MANY_FAILURES,
    VERIFY_FAILED,
)
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny, Pending
from gateway.core.identity import Consumer, Credential, Identity
from gateway.core.policy import Phase
from policies.auth import Auth
from tests.policies.helpers import make_context, make_environment, make_policy

KEY = "pnpub_one.pnsec_one"
READ_ONLY = "pnpub_ro.pnsec_ro"
MISSING = "Missing authorization header"
SCHEME = "Authorization header must use the Bearer scheme"
MALFORMED = "Authorization token must be provided as <public>.<secret>"
INVALID = "Invalid API token"
BAD = "Bad request"


def basic(user: str, password: str = "", *, colon: str = ":") -> str:
    return "Basic " + base64.b64encode(f"{user}{colon}{password}".encode()).decode()


class FakeAuthenticator:
    """Knows two keys; can be slow, and can forget."""

    def __init__(self) -> None:
        self.consumers = {"guest": Consumer("id-guest", "guest")}
        self.answers: dict[bytes, Identity | Deny] = {
            KEY.encode(): self._identity("one", read_only=False),
            READ_ONLY.encode(): self._identity("ro", read_only=True),
            b"an expired.key": Deny(EXPIRED_KEY),
        }
        self.slow = False
        self.pending: list[Pending[Identity | Deny]] = []
        self.cancelled = 0
        self.asked: list[tuple[bytes, str, float]] = []
        self.valid = True

    @staticmethod
    def _identity(name: str, *, read_only: bool) -> Identity:
        credential = Credential(f"key-{name}", "key", f"pnpub_{name}", "id-mobile", read_only=read_only)
        return Identity(Consumer("id-mobile", "mobile_app"), credential, ())

    def verify_key(self, token: bytes, client: str, now: float) -> Identity | Deny | Pending[Identity | Deny]:
        self.asked.append((token, client, now))
        answer = self.answers.get(token)
        if answer is None:
            answer = Deny(INVALID_KEY if token.count(b".") == 1 and b" " not in token else MALFORMED_TOKEN)
        if not self.slow:
            return answer
        pending: Pending[Identity | Deny] = Pending(on_cancel=self._cancel)
        self.pending.append(pending)
        return pending

    def _cancel(self) -> None:
        self.cancelled += 1

    def consumer(self, username: str) -> Consumer | None:
        return self.consumers.get(username)

    def still_valid(self, identity: Identity, now: float) -> bool:
        return self.valid


@pytest.fixture
def port() -> FakeAuthenticator:
    return FakeAuthenticator()


def make_auth(port: FakeAuthenticator, **config: Any) -> Auth:
    policy = make_policy(Auth, {"any_of": ("api-key",)} | config, make_environment(authenticator=port))
    assert isinstance(policy, Auth)
    return policy


def text(decision: object, context: Context) -> str:
    """The consumer who was let in, or the refusal's text."""
    if isinstance(decision, Deny):
        assert context.identity is None
        return decision.answer.text
    assert decision is ALLOW
    return "" if context.identity is None else context.identity.consumer.username


Headers = list[tuple[str, str]]

#: Whichever carrier decides, no header that carries keys reaches the LMS; a foreign `Authorization` is its own.
KEYS = (b"apikey", b"x-api-key")
ALL = (b"authorization", *KEYS)


@pytest.mark.parametrize(
    ("headers", "expected", "hidden"),
    [
        # Bearer
        ([("Authorization", f"Bearer {KEY}")], "mobile_app", ALL),
        ([("authorization", f"bearer {KEY}")], "mobile_app", ALL),
        ([("AUTHORIZATION", f"BEARER   {KEY}  ")], "mobile_app", ALL),
        ([("Authorization", "Bearer pnpub_one.pnsec_two")], INVALID, ()),
        ([("Authorization", "Bearer pnpub_two.pnsec_one")], INVALID, ()),
        ([("Authorization", "Bearer other_one.pnsec_one")], INVALID, ()),
        ([("Authorization", "Bearer an expired.key")], "API token has expired", ()),
        ([("Authorization", "Bearer something")], MALFORMED, ()),
        ([("Authorization", "Bearer")], MALFORMED, ()),
        ([("Authorization", "Bearer pnpub_one . pnsec_one")], MALFORMED, ()),
        ([("Authorization", f"Bearer {KEY} extra")], MALFORMED, ()),
        ([("Authorization", f"Bearer\t{KEY}")], SCHEME, ()),
        ([("Authorization", "Bearer eyJ.eyJ.sig")], MALFORMED, ()),
        # Basic
        ([("Authorization", basic(KEY))], "mobile_app", ALL),
        ([("Authorization", basic(KEY).replace("Basic", "bAsIc"))], "mobile_app", ALL),
        ([("Authorization", basic("pnpub_one.pnsec_two"))], INVALID, ()),
        ([("Authorization", basic(KEY, "password"))], MALFORMED, ()),
        ([("Authorization", basic(KEY, colon=""))], MALFORMED, ()),
        ([("Authorization", basic("", "password"))], MALFORMED, ()),
        ([("Authorization", basic(""))], MALFORMED, ()),
        ([("Authorization", "Basic")], MALFORMED, ()),
        ([("Authorization", "Basic not base64!")], MALFORMED, ()),
        ([("Authorization", "Basic cG5w")], MALFORMED, ()),
        ([("Authorization", "Basic /w==")], MALFORMED, ()),
        ([("Authorization", "Basic abc")], MALFORMED, ()),
        # Headers of their own
        ([("apikey", KEY)], "mobile_app", KEYS),
        ([("ApiKey", KEY)], "mobile_app", KEYS),
        ([("X-API-Key", KEY)], "mobile_app", KEYS),
        ([("apikey", "pnpub_one.pnsec_two")], INVALID, ()),
        ([("apikey", "two words")], MALFORMED, ()),
        ([("apikey", ""), ("x-api-key", KEY)], "mobile_app", KEYS),
        ([("apikey", KEY), ("x-api-key", "pnpub_x.pnsec_y")], "mobile_app", KEYS),
        # The first carrier that holds a credential decides
        ([("apikey", KEY), ("Authorization", "Bearer pnpub_x.pnsec_y")], INVALID, ()),
        ([("apikey", KEY), ("Authorization", basic("admin", "hunter2"))], MALFORMED, ()),
        ([("apikey", "pnpub_x.pnsec_y"), ("Authorization", f"Bearer {KEY}")], "mobile_app", ALL),
        ([("apikey", KEY), ("Authorization", "")], "mobile_app", KEYS),
        # Other schemes pass if another carrier authenticates
        ([("Authorization", "JWT abc"), ("apikey", KEY)], "mobile_app", KEYS),
        ([("Authorization", "AWS4-HMAC-SHA256 abc"), ("apikey", "pnpub_x.pnsec_y")], INVALID, ()),
        ([("Authorization", "JWT abc")], SCHEME, ()),
        ([("Authorization", KEY)], SCHEME, ()),
        # None at all
        ([], MISSING, ()),
        ([("Authorization", "")], MISSING, ()),
        ([("apikey", "")], MISSING, ()),
        ([("X-Auth-Token", KEY)], MISSING, ()),
        # Twice
        ([("Authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")], BAD, ()),
        ([("Authorization", f"Bearer {KEY}"), ("authorization", "")], BAD, ()),
        ([("apikey", KEY), ("apikey", KEY)], BAD, ()),
        ([("Authorization", f"Bearer {KEY}"), ("apikey", "a"), ("apikey", "b")], BAD, ()),
        ([("Authorization", f"Bearer {KEY}"), ("Accept", "a"), ("Accept", "b")], "mobile_app", ALL),
    ],
)
def test_carriers(port: FakeAuthenticator, headers: Headers, expected: str, hidden: tuple[bytes, ...]) -> None:
    context = make_context(headers=headers)
    assert text(make_auth(port).check(context), context) == expected
    assert context.hidden == hidden


@pytest.mark.parametrize(
    ("carriers", "headers", "expected"),
    [
        (("header",), [("Authorization", f"Bearer {KEY}"), ("apikey", KEY)], "mobile_app"),
        (("header",), [("Authorization", f"Bearer {KEY}")], SCHEME),
        (("header",), [("Authorization", basic(KEY))], SCHEME),
        (("bearer",), [("Authorization", basic(KEY))], SCHEME),
        (("bearer",), [("apikey", KEY)], MISSING),
        (("bearer",), [("apikey", KEY), ("apikey", KEY)], MISSING),
        (("basic",), [("Authorization", f"Bearer {KEY}")], SCHEME),
        (("basic",), [("Authorization", basic(KEY))], "mobile_app"),
    ],
)
def test_a_route_takes_the_carriers_that_it_lists(
    port: FakeAuthenticator, carriers: tuple[str, ...], headers: Headers, expected: str
) -> None:
    context = make_context(headers=headers)
    assert text(make_auth(port, carriers=carriers).check(context), context) == expected


@pytest.mark.parametrize(
    ("query", "headers", "expected", "hidden_query"),
    [
        (f"apikey={KEY}", [], "mobile_app", ("apikey",)),
        (f"a=b&x-api-key={KEY}&c", [], "mobile_app", ("x-api-key",)),
        (f"api%6bey={KEY.replace('_', '%5F')}", [], "mobile_app", ("apikey",)),
        ("apikey=pnpub_x.pnsec_y", [], INVALID, ("apikey",)),
        ("apikey=a+b", [], MALFORMED, ("apikey",)),
        ("apikey=", [], MISSING, ("apikey",)),
        ("", [], MISSING, ()),
        (f"APIKEY={KEY}", [], MISSING, ()),
        (f"apikey={KEY}&apikey={KEY}", [], BAD, ("apikey",)),
        (f"apikey={KEY}&x-api-key={KEY}", [], BAD, ("apikey", "x-api-key")),
        (f"apikey={KEY}", [("Authorization", "JWT abc")], "mobile_app", ("apikey",)),
        (f"apikey={KEY}", [("Authorization", "Bearer pnpub_x.pnsec_y")], INVALID, ("apikey",)),
        ("apikey=pnpub_x.pnsec_y", [("apikey", KEY)], "mobile_app", ("apikey",)),
    ],
)
def test_the_query_where_it_is_listed(
    port: FakeAuthenticator, query: str, headers: Headers, expected: str, hidden_query: tuple[str, ...]
) -> None:
    policy = make_auth(port, carriers=("bearer", "basic", "header", "query"), hide_credentials=False)
    context = make_context(headers=headers, query=query.encode())
    assert text(policy.check(context), context) == expected
    assert context.hidden_query == hidden_query
    assert context.hidden == ()


def test_the_query_where_it_is_not_listed(port: FakeAuthenticator) -> None:
    context = make_context(query=f"apikey={KEY}".encode())
    assert text(make_auth(port).check(context), context) == MISSING
    assert context.hidden_query == ()


@pytest.mark.parametrize(
    ("config", "headers", "expected"),
    [
        ({"key_names": ("X-Token",)}, [("x-token", KEY)], "mobile_app"),
        ({"key_names": ("X-Token",)}, [("apikey", KEY)], MISSING),
        ({"hide_credentials": False}, [("Authorization", f"Bearer {KEY}")], "mobile_app"),
        ({"anonymous": "guest"}, [], "guest"),
        ({"anonymous": "guest"}, [("Authorization", "Bearer pnpub_x.pnsec_y")], INVALID),
        ({"anonymous": "guest"}, [("Authorization", "Bearer")], MALFORMED),
        ({"anonymous": "guest"}, [("Authorization", "JWT abc")], SCHEME),
        ({"anonymous": "guest"}, [("apikey", KEY)], "mobile_app"),
        ({"anonymous": "guest"}, [("apikey", KEY), ("apikey", KEY)], BAD),
        ({"anonymous": "nobody"}, [], MISSING),
    ],
)
def test_settings(port: FakeAuthenticator, config: dict[str, Any], headers: Headers, expected: str) -> None:
    context = make_context(headers=headers)
    assert text(make_auth(port, **config).check(context), context) == expected
    if config.get("hide_credentials") is False:
        assert context.hidden == ()
    if expected == "guest":
        assert context.identity is not None
        assert context.identity.anonymous
        assert context.identity.credential is None


def test_a_public_route_touches_nothing(port: FakeAuthenticator) -> None:
    policy = make_policy(Auth, Auth.bare["none"], make_environment(authenticator=port))
    context = make_context(headers=[("Authorization", f"Bearer {KEY}"), ("authorization", "twice")])
    assert policy.check(context) is ALLOW
    assert policy.recheck(context) is ALLOW
    assert (context.identity, context.hidden, port.asked) == (None, (), [])


# ── challenges ──────────────────────────────────────────────────────────────────────────────────

BEARER = (b"WWW-Authenticate", b'Bearer realm="postern"')
BASIC = (b"WWW-Authenticate", b'Basic realm="postern", charset="UTF-8"')


@pytest.mark.parametrize(
    ("headers", "status", "challenged"),
    [
        ([], 401, True),
        ([("Authorization", "JWT x")], 401, True),
        ([("Authorization", "Bearer x")], 401, True),
        ([("Authorization", "Bearer x.y")], 401, True),
        ([("apikey", "a"), ("apikey", "a")], 400, False),
    ],
)
def test_a_401_says_how(port: FakeAuthenticator, headers: Headers, status: int, challenged: bool) -> None:
    decision = make_auth(port).check(make_context(headers=headers))
    assert isinstance(decision, Deny)
    assert decision.answer.status == status
    assert decision.headers == ((BEARER, BASIC) if challenged else ())


def test_the_challenges_follow_the_settings(port: FakeAuthenticator) -> None:
    decision = make_auth(port, carriers=("bearer",), realm="the LMS").check(make_context())
    assert isinstance(decision, Deny)
    assert decision.headers == ((b"WWW-Authenticate", b'Bearer realm="the LMS"'),)


@pytest.mark.parametrize("answer", [TOO_MANY_FAILURES, VERIFY_FAILED])
def test_other_refusals_pass_as_they_are(port: FakeAuthenticator, answer: Any) -> None:
    refusal = port.answers[KEY.encode()] = Deny(answer, headers=((b"Retry-After", b"7"),))
    assert make_auth(port).check(make_context(headers=[("apikey", KEY)])) is refusal


# ── read-only keys ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "query", "headers", "allowed"),
    [
        ("GET", b"", [], True),
        ("HEAD", b"", [], True),
        ("OPTIONS", b"", [], True),
        ("POST", b"", [], False),
        ("PUT", b"", [], False),
        ("PATCH", b"", [], False),
        ("DELETE", b"", [], False),
        ("get", b"", [], False),
        ("PROPFIND", b"", [], False),
        ("GET", b"a=b&method=DELETE&x_method=1", [], True),
        ("GET", b"_method=DELETE", [], False),
        ("GET", b"a=b&_method", [], False),
        ("GET", b"%5Fmethod=GET", [], False),
        ("GET", b"%5f%6dethod=GET", [], False),
        ("GET", b".method=DELETE", [], False),
        ("GET", b"++.method=DELETE", [], False),
        ("GET", b"a=b;_method=DELETE", [], False),
        ("GET", b"_METHOD=DELETE", [], False),
        ("GET", b"_method[]=DELETE", [], False),
        ("GET", b"_method%5b0]=DELETE", [], False),
        ("GET", b"_method%00a=DELETE", [], False),
        ("GET", b"a_method=DELETE&_methods=1&q=_method&+method=1", [], True),
        ("GET", b"", [("X-HTTP-Method-Override", "DELETE")], False),
        ("GET", b"", [("X_HTTP_Method", "DELETE")], False),
        ("GET", b"", [("x-method-override", "DELETE")], False),
    ],
)
def test_a_read_only_key_reads(
    port: FakeAuthenticator, method: str, query: bytes, headers: Headers, allowed: bool
) -> None:
    context = make_context(method, headers=[("apikey", READ_ONLY), *headers], query=query)
    decision = make_auth(port).check(context)
    if allowed:
        assert decision is ALLOW
    else:
        assert isinstance(decision, Deny)
        assert (decision.answer.status, decision.answer.text) == (403, "Read-only API key")
    writing = make_context(method, headers=[("apikey", KEY), *headers], query=query)
    assert make_auth(port).check(writing) is ALLOW


# ── waiting ─────────────────────────────────────────────────────────────────────────────────────


def wait_for(decision: object) -> list[Decision]:
    """The decisions that a `Pending` delivers."""
    delivered: list[Decision] = []

    def fail(error: BaseException) -> None:
        raise error

    cast(Pending[Decision], decision).then(delivered.append, fail)
    return delivered


def test_a_cold_key_is_decided_when_it_has_been_verified(port: FakeAuthenticator) -> None:
    port.slow = True
    context = make_context(headers=[("Authorization", f"Bearer {KEY}")])
    delivered = wait_for(make_auth(port).check(context))
    assert (delivered, context.identity) == ([], None)
    port.pending[0].resolve(port.answers[KEY.encode()])
    assert delivered == [ALLOW]
    assert context.identity is port.answers[KEY.encode()]
    assert context.hidden == ALL


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(INVALID_KEY, INVALID), (MALFORMED_TOKEN, MALFORMED), (EXPIRED_KEY, "API token has expired")],
)
def test_a_cold_key_is_refused_like_any(port: FakeAuthenticator, answer: Any, expected: str) -> None:
    port.slow = True
    delivered = wait_for(make_auth(port).check(make_context(headers=[("apikey", "pnpub_x.pnsec_y")])))
    port.pending[0].resolve(Deny(answer))
    (decision,) = delivered
    assert isinstance(decision, Deny)
    assert decision.answer.text == expected
    assert decision.headers == (BEARER, BASIC)


def test_who_leaves_and_what_breaks_is_passed_on(port: FakeAuthenticator) -> None:
    port.slow = True
    policy = make_auth(port)
    first = policy.check(make_context(headers=[("apikey", KEY)]))
    assert isinstance(first, Pending)
    first.cancel()
    assert port.cancelled == 1
    second = policy.check(make_context(headers=[("apikey", KEY)]))
    assert isinstance(second, Pending)
    faults: list[BaseException] = []
    second.then(lambda _: None, faults.append)
    port.pending[1].fail(ZeroDivisionError())
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("now", "expected"),
    [("the same", "mobile_app"), ("regrouped", "mobile_app"), ("revoked", "API token has expired")],
)
def test_recheck(port: FakeAuthenticator, now: str, expected: str, slow: bool) -> None:
    policy = make_auth(port)
    context = make_context(headers=[("apikey", KEY)])
    assert policy.check(context) is ALLOW
    port.valid = now == "the same"
    if now == "regrouped":
        port.answers[KEY.encode()] = Identity(Consumer("id-mobile", "mobile_app", groups=("x",)))
    elif now == "revoked":
        port.answers[KEY.encode()] = Deny(EXPIRED_KEY)
    port.slow = slow
    decision = policy.recheck(context)
    if isinstance(decision, Pending):
        delivered = wait_for(decision)
        port.pending[0].resolve(port.answers[KEY.encode()])
        (decision,) = delivered
    if isinstance(decision, Deny):
        assert decision.answer.text == expected
    else:
        assert context.identity is not None
        assert context.identity.consumer.username == expected
        assert context.identity.groups == (frozenset({"x"}) if now == "regrouped" else frozenset())


def test_recheck_of_an_anonymous_request_asks_who_stands_in_now(port: FakeAuthenticator) -> None:
    policy = make_auth(port, anonymous="guest")
    context = make_context()
    assert policy.check(context) is ALLOW
    port.valid = False
    port.consumers["guest"] = Consumer("id-guest", "guest", groups=("x",))
    assert policy.recheck(context) is ALLOW
    assert context.identity is not None
    assert context.identity.groups == {"x"}
    del port.consumers["guest"]
    assert isinstance(policy.recheck(context), Deny)


# ── settings ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, "say which credentials"),
        ({"any_of": []}, "say which credentials"),
        ({"any_of": ["jwt"]}, "jwt is not available yet"),
        ({"any_of": ["api-key", "oauth2"]}, "oauth2 is not available yet"),
        ({"any_of": ["issuer"]}, "issuer is not available yet"),
        ({"any_of": ["apikey"]}, "Input should be"),
        ({"any_of": ["api-key"], "carriers": ["cookie"]}, "cookie is not available yet"),
        ({"any_of": ["api-key"], "carriers": []}, "at least one carrier"),
        ({"any_of": ["api-key"], "jwt": {}}, "jwt is not available yet"),
        ({"any_of": ["api-key"], "key_names": []}, "at least 1 item"),
        ({"any_of": ["api-key"], "key_names": ["a b"]}, "the name of a header"),
        ({"any_of": ["api-key"], "realm": 'a"b'}, "match pattern"),
        ({"any_of": ["api-key"], "realm": "\N{SNOWMAN}"}, "match pattern"),
        ({"none": True, "any_of": ["api-key"]}, "public route"),
        ({"none": True, "anonymous": "guest"}, "public route"),
        ({"any_of": ["api-key"], "unknown": 1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_used(config: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ValidationError, match=wanted):
        Auth.Config.model_validate(config)


def test_all_that_is_not_there_yet_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Auth.Config.model_validate({"any_of": ["api-key", "jwt", "oauth2"], "carriers": ["bearer", "cookie"]})
    assert [(error["loc"], error["msg"]) for error in caught.value.errors()] == [
        (("any_of", 1), "Value error, jwt is not available yet"),
        (("any_of", 2), "Value error, oauth2 is not available yet"),
        (("carriers", 1), "Value error, cookie is not available yet"),
    ]


def test_what_it_is() -> None:
    assert (Auth.name, Auth.phase, Auth.authenticates) == ("auth", Phase.AUTH, True)
    assert Auth.Config.model_validate({"any_of": ["api-key"]}).carriers == ("bearer", "basic", "header")
