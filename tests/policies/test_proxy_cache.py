"""`proxy-cache` without sockets: RFC 9111 as a table of two requests, keys, settings, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.cache.memory import MemoryResponses
from gateway.core.answers import NOT_CACHED
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny, Pending, Reply
from gateway.core.identity import Identity
from gateway.core.policy import Environment, Policy
from policies._cache_course import _LONGEST
from policies._cache_entry import Stored, decode, decode_vary, encode, encode_vary
from policies._cache_flights import MARK
from policies.proxy_cache import ProxyCache
from tests.policies.helpers import NO_PORT, answer_lines, make_context, make_identity, make_policy

Headers = Mapping[str, str] | list[tuple[str, str]]
NONE: Headers = {}


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def __call__(self) -> float:
        return self.now


@dataclass
class Fetch:
    """A request that the upstream is being asked."""

    context: Context
    policy: ProxyCache

    def head(self, status: int = 200, headers: Headers = NONE, length: int | None = 0) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        fields = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
        if length is not None:
            fields.append((b"Content-Length", b"%d" % length))
        self.policy.on_response_head(self.context, status, fields)

    def body(self, *pieces: bytes) -> None:
        for at, piece in enumerate(pieces):
            if self.context.tap is not None:
                self.context.tap.write(piece, at == len(pieces) - 1)

    def answer(self, status: int = 200, headers: Headers = NONE, body: bytes = b"body") -> None:
        self.head(status, headers, len(body))
        self.body(body)
        self.end(status)

    def end(self, status: int = 200) -> None:
        self.policy.on_end(self.context, status)


@dataclass
class Route:
    """A route with the policy, a clock that stands still, and a cache in memory."""

    config: Mapping[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.cache = MemoryResponses(1 << 22, 1 << 20, self.clock)
        self.policy = self.make("content-read", self.config)

    def make(self, route: str, config: Mapping[str, Any]) -> ProxyCache:
        environment = Environment(route, "lms", self.clock, NO_PORT, NO_PORT, response_cache=lambda: self.cache)
        policy = make_policy(ProxyCache, config, environment)
        assert isinstance(policy, ProxyCache)
        return policy

    def context(self, method: str = "GET", headers: Headers = NONE, **parts: Any) -> Context:
        context = make_context(method, headers=headers, **parts)
        context.now = self.clock.now
        return context

    def ask(self, context: Context) -> Decision | Pending[Decision]:
        decision = self.policy.check(context)
        assert isinstance(decision, Decision | Pending)
        return decision

    def fetch(self, context: Context) -> Fetch:
        assert self.ask(context) is ALLOW
        return Fetch(context, self.policy)

    def status(self, context: Context) -> str:
        """What a request is told that nobody answers."""
        decision = self.ask(context)
        Fetch(context, self.policy).end(499)
        assert isinstance(decision, Decision)
        (line,) = [line for line in answer_lines(context) if line.startswith("X-Cache-Status: ")]
        return line.removeprefix("X-Cache-Status: ")


# ── RFC 9111 ─────────────────────────────────────────────────────────────────────────────────────

FRESH = {"Cache-Control": "max-age=60"}
STALE_TOO = {"Cache-Control": "max-age=60", "ETag": '"v1"'}

#: The first request's headers, the response's status and headers, seconds later, the second request's, what it is told.
CASES: list[tuple[Headers, int, Headers, float, Headers, str]] = [
    # Freshness (§4.2).
    ({}, 200, {}, 299.9, {}, "Hit"),
    ({}, 200, {}, 300, {}, "Refresh"),
    ({}, 200, FRESH, 59.9, {}, "Hit"),
    ({}, 200, FRESH, 60, {}, "Refresh"),
    ({}, 200, FRESH, 121, {}, "Miss"),
    ({}, 200, {"Cache-Control": "max-age=1000"}, 999, {}, "Hit"),
    ({}, 200, {"Cache-Control": "max-age=60, s-maxage=10"}, 11, {}, "Refresh"),
    ({}, 200, {"Cache-Control": "max-age=60", "Age": "50"}, 11, {}, "Refresh"),
    ({}, 200, {"Expires": "Tue, 14 Nov 2023 22:14:20 GMT"}, 59, {}, "Hit"),
    ({}, 200, {"Expires": "Tue, 14 Nov 2023 22:14:20 GMT"}, 61, {}, "Refresh"),
    ({}, 200, {"Expires": "0"}, 0, {}, "Miss"),
    # What is stored (§3).
    ({}, 301, {}, 0, {}, "Hit"),
    ({}, 404, {}, 0, {}, "Hit"),
    ({}, 302, FRESH, 0, {}, "Miss"),
    ({}, 500, FRESH, 0, {}, "Miss"),
    ({}, 200, {"Cache-Control": "no-store"}, 0, {}, "Miss"),
    ({}, 200, {"Cache-Control": "no-cache"}, 0, {}, "Miss"),
    ({}, 200, {"Cache-Control": "private"}, 0, {}, "Miss"),
    ({}, 200, {"Set-Cookie": "a=1"}, 0, {}, "Miss"),
    ({}, 200, {"Content-Type": "Text/Event-Stream; charset=utf-8"}, 0, {}, "Miss"),
    ({}, 200, [("Cache-Control", "max-age=60"), ("Cache-Control", "no-store")], 0, {}, "Miss"),
    ({"Authorization": "Basic eDp5"}, 200, FRESH, 0, {"Authorization": "Basic eDp5"}, "Miss"),
    ({"Authorization": "Basic eDp5"}, 200, FRESH, 0, {}, "Miss"),
    ({}, 200, FRESH, 0, {"Authorization": "Basic eDp5"}, "Miss"),
    ({}, 200, {"Cache-Control": "public"}, 0, {"Authorization": "Basic eDp5"}, "Hit"),
    ({"Authorization": "Basic eDp5"}, 200, {"Cache-Control": "s-maxage=9"}, 0, {}, "Hit"),
    ({"Cookie": "a=1"}, 200, FRESH, 0, {"Cookie": "a=1"}, "Miss"),
    ({"Cache-Control": "no-store"}, 200, FRESH, 0, {}, "Miss"),
    ({"Cache-Control": "no-cache"}, 200, FRESH, 0, {}, "Hit"),
    ({"Cache-Control": "max-age=0"}, 200, FRESH, 0, {}, "Hit"),
    # What a request asks (§5.2.1).
    ({}, 200, FRESH, 0, {"Cache-Control": "no-cache"}, "Refresh"),
    ({}, 200, FRESH, 0, {"Pragma": "no-cache"}, "Refresh"),
    ({}, 200, FRESH, 0, {"Pragma": "no-cache", "Cache-Control": "x"}, "Hit"),
    ({}, 200, FRESH, 0, {"Cache-Control": "no-store"}, "Bypass"),
    ({}, 200, FRESH, 0, {"Cache-Control": "max-age=0"}, "Refresh"),
    ({}, 200, FRESH, 30, {"Cache-Control": "max-age=30"}, "Hit"),
    ({}, 200, FRESH, 31, {"Cache-Control": "max-age=30"}, "Refresh"),
    ({}, 200, FRESH, 30, {"Cache-Control": "min-fresh=29"}, "Hit"),
    ({}, 200, FRESH, 30, {"Cache-Control": "min-fresh=30"}, "Refresh"),
    ({}, 200, FRESH, 70, {"Cache-Control": "max-stale"}, "Hit"),
    ({}, 200, FRESH, 70, {"Cache-Control": "max-stale=10"}, "Hit"),
    ({}, 200, FRESH, 70, {"Cache-Control": "max-stale=9"}, "Refresh"),
    ({}, 200, {"Cache-Control": "max-age=60, must-revalidate"}, 70, {"Cache-Control": "max-stale"}, "Refresh"),
    ({}, 200, {"Cache-Control": "s-maxage=60"}, 70, {"Cache-Control": "max-stale"}, "Refresh"),
    ({}, 200, FRESH, 0, {"Cache-Control": "only-if-cached"}, "Hit"),
    ({}, 200, FRESH, 61, {"Cache-Control": "only-if-cached"}, "Miss"),
    # Vary (§4.1).
    ({"A": "1"}, 200, {"Vary": "A"}, 0, {"A": "1"}, "Hit"),
    ({"A": "1"}, 200, {"Vary": "A"}, 0, {"A": "2"}, "Miss"),
    ({"A": "1"}, 200, {"Vary": "A"}, 0, {}, "Miss"),
    ({}, 200, {"Vary": "A"}, 0, {"A": ""}, "Miss"),
    ({"A": "1", "B": "2"}, 200, {"Vary": "a , B"}, 0, {"B": "2", "A": "1"}, "Hit"),
    ({}, 200, [("Vary", "A"), ("Vary", "B")], 0, {"B": "1"}, "Miss"),
    ({}, 200, {"Vary": "*"}, 0, {}, "Miss"),
    ({}, 200, {"Vary": "A, *"}, 0, {}, "Miss"),
    ({}, 200, {"Vary": "X-Request-ID"}, 0, {}, "Miss"),
    ({}, 200, {"Vary": ",".join(f"A{at}" for at in range(17))}, 0, {}, "Miss"),
    # Validators (§4.3.2), and what is the origin's to judge.
    ({}, 200, STALE_TOO, 0, {"If-None-Match": '"v1"'}, "Hit"),
    ({}, 200, STALE_TOO, 61, {"If-None-Match": '"v1"'}, "Refresh"),
    ({}, 200, STALE_TOO, 0, {"If-Match": '"v1"'}, "Bypass"),
    ({}, 200, STALE_TOO, 0, {"If-Unmodified-Since": "x"}, "Bypass"),
    ({}, 200, FRESH, 0, {"Range": "bytes=0-1"}, "Bypass"),
    ({"If-None-Match": '"v0"'}, 200, STALE_TOO, 0, {}, "Hit"),
    ({"If-None-Match": '"v1"'}, 304, STALE_TOO, 0, {}, "Miss"),
    ({}, 200, FRESH, 0, {"Upgrade": "websocket", "Connection": "upgrade"}, "Bypass"),
    # What upstreams build links from.
    ({"Host": "a:1"}, 200, FRESH, 0, {"Host": "a:2"}, "Miss"),
    ({}, 200, FRESH, 0, {"X-Forwarded-Host": "evil.example.org"}, "Miss"),
    ({}, 200, FRESH, 0, {"X-Original-URL": "/other"}, "Miss"),
    ({}, 200, FRESH, 0, {"X-HTTP-Method-Override": "DELETE"}, "Miss"),
]


@pytest.mark.parametrize(("first", "status", "headers", "later", "second", "told"), CASES)
def test_two_requests(first: Headers, status: int, headers: Headers, later: float, second: Headers, told: str) -> None:
    route = Route()
    route.fetch(route.context(headers=first)).answer(status, headers)
    route.clock.now += later
    context = route.context(headers=second)
    assert route.status(context) == told


def test_a_stored_response_is_found_by_head_and_not_made_by_one() -> None:
    route = Route()
    route.fetch(route.context("HEAD")).answer()
    assert route.status(route.context()) == "Miss"
    route.fetch(route.context()).answer()
    hit = route.ask(route.context("HEAD"))
    assert isinstance(hit, Reply)
    assert hit.body == b"body"
    only_get = Route({"methods": ["GET"]})
    assert only_get.status(only_get.context("HEAD")) == "Bypass"


def test_what_fits_no_more_is_refused_to_who_wants_only_that() -> None:
    route = Route()
    decision = route.ask(route.context(headers={"Cache-Control": "only-if-cached, no-store"}))
    assert isinstance(decision, Deny)
    assert decision.answer is NOT_CACHED


@pytest.mark.parametrize(
    ("config", "first", "second", "told"),
    [
        ({}, b"a=1&b=2", b"b=2&a=1", "Miss"),
        ({}, b"", b"x", "Miss"),
        ({"vary_by": ["query.a"]}, b"a=1&utm=2", b"utm=3&a=1", "Hit"),
        ({"vary_by": ["query.a"]}, b"a=1", b"%61=2", "Miss"),
        ({"vary_by": ["query.a"]}, b"a=1", b"%61=1", "Miss"),
        # What some server takes for the parameter tells apart, too.
        ({"vary_by": ["query.a"]}, b"utm=1;a=2", b"utm=1", "Miss"),
        ({"vary_by": ["query.a"]}, b"A=2", b"", "Miss"),
        ({"vary_by": ["query.a"]}, b"a[]=2", b"", "Miss"),
        ({"vary_by": ["query.a"]}, b"[a]=2", b"", "Miss"),
        ({"vary_by": ["query.a"]}, b"+a%00b=2", b"", "Miss"),
        ({"vary_by": ["query.my_a"]}, b"my.a=2", b"", "Miss"),
        ({"vary_by": ["query.f[a]"]}, b"f[a]=2", b"f[b]=2", "Miss"),
        ({"vary_by": ["query.f[a]"]}, b"f[b]=1", b"f[b]=2", "Hit"),
    ],
)
def test_the_query(config: Mapping[str, Any], first: bytes, second: bytes, told: str) -> None:
    route = Route(config)
    route.fetch(route.context(query=first)).answer()
    assert route.status(route.context(query=second)) == told


def test_what_is_large_or_has_no_end_is_not_stored() -> None:
    route = Route()
    fetch = route.fetch(route.context())
    fetch.head(length=(1 << 20) + 1)
    assert fetch.context.tap is None
    fetch.end()
    fetch = route.fetch(route.context())
    fetch.head(length=None)
    assert fetch.context.tap is None
    fetch.end()
    fetch = route.fetch(route.context())
    fetch.head(headers={"Transfer-Encoding": "chunked"}, length=None)
    fetch.body(*[b"x" * 65536] * 17)
    fetch.end()
    assert route.status(route.context()) == "Miss"
    # And all the room is there again.
    assert route.cache.collect(1 << 20)


def test_a_body_that_was_cut_leaves_nothing() -> None:
    route = Route()
    fetch = route.fetch(route.context())
    fetch.head(length=10)
    tap = fetch.context.tap
    assert tap is not None
    tap.write(b"half", False)
    tap.abort()
    fetch.end()
    tap.write(b"rest", True)
    assert route.status(route.context()) == "Miss"
    assert route.cache.collect(1 << 20)


def test_another_tap_sees_the_body_too() -> None:
    seen: list[tuple[bytes, bool] | None] = []

    class Other:
        def write(self, payload: bytes, last: bool) -> None:
            seen.append((payload, last))

        def abort(self) -> None:
            seen.append(None)

    route = Route()
    fetch = route.fetch(route.context())
    fetch.context.tap = Other()
    fetch.answer()
    assert seen == [(b"body", True)]
    assert route.status(route.context()) == "Hit"


def test_without_a_cache_it_does_nothing() -> None:
    policy = make_policy(ProxyCache, {})
    context = make_context()
    assert policy.check(context) is ALLOW
    assert answer_lines(context) == []
    assert isinstance(policy, ProxyCache)
    policy.on_response_head(context, 200, [])
    policy.on_end(context, 200)


# ── whose ────────────────────────────────────────────────────────────────────────────────────────

ANN = make_identity("teacher", username="ann", organization="springfield")
BOB = make_identity("teacher", username="bob", organization="springfield")
LONER = make_identity(username="loner")
LEARNER = Identity(ANN.consumer, ANN.credential, user_id="learner-1")
NARROW = Identity(ANN.consumer, ANN.credential, scopes=("read",))
PROMOTED = make_identity("teacher", "admin", username="ann", organization="springfield")
STAND_IN = make_identity(username="guest", anonymous=True)


@pytest.mark.parametrize(
    ("vary_by", "first", "second", "told"),
    [
        (["credential"], ANN, ANN, "Hit"),
        (["credential"], ANN, BOB, "Miss"),
        (["credential"], ANN, None, "Miss"),
        (["credential"], ANN, LEARNER, "Miss"),
        (["credential"], ANN, NARROW, "Miss"),
        (["credential"], ANN, PROMOTED, "Miss"),
        (["credential"], STAND_IN, STAND_IN, "Hit"),
        (["credential"], LONER, STAND_IN, "Miss"),
        (["header.A"], ANN, BOB, "Miss"),
        (["query.a"], ANN, BOB, "Miss"),
        (["consumer"], ANN, NARROW, "Hit"),
        (["consumer"], ANN, PROMOTED, "Hit"),
        (["consumer"], ANN, LEARNER, "Miss"),
        (["consumer"], ANN, BOB, "Miss"),
        (["groups"], ANN, BOB, "Hit"),
        (["groups"], ANN, PROMOTED, "Miss"),
        (["organization"], ANN, BOB, "Hit"),
        (["organization"], LONER, LONER, "Hit"),
        (["organization"], LONER, STAND_IN, "Miss"),
        (["groups", "organization"], ANN, PROMOTED, "Miss"),
        (["none"], ANN, BOB, "Hit"),
        ("none", ANN, LONER, "Hit"),
    ],
)
def test_who_shares(vary_by: Any, first: Identity | None, second: Identity | None, told: str) -> None:
    route = Route({"vary_by": vary_by})
    route.fetch(route.context(identity=first)).answer()
    assert route.status(route.context(identity=second)) == told


@pytest.mark.parametrize("name", ["X-Consumer-Groups", "x_consumer_id", "X-Credential-Identifier"])
def test_a_response_that_depends_on_the_caller_is_not_shared_by_none(name: str) -> None:
    route = Route({"vary_by": ["none"]})
    route.fetch(route.context(identity=ANN)).answer(headers={"Vary": name})
    # What a client itself sends under this name never reaches the upstream.
    assert route.status(route.context(identity=BOB, headers={name: "teacher"})) == "Miss"
    assert route.status(route.context(identity=ANN, headers={name: "x"})) == "Hit"


def test_a_response_that_depends_on_what_a_policy_writes_is_not_mixed() -> None:
    route = Route()

    def tenant(value: bytes) -> Context:
        context = route.context()
        context.upstream_lines.append(b"X-A: 1\r\nX-Tenant: " + value + b"\r\n")
        return context

    route.fetch(tenant(b"a")).answer(headers={"Vary": "x-tenant"})
    assert [route.status(tenant(value)) for value in (b"a", b"b")] == ["Hit", "Miss"]


@pytest.mark.parametrize("vary_by", ["credential", "consumer", "groups", "none"])
@pytest.mark.parametrize("control", ["private", "private, max-age=60", 'max-age=60, private="x-a"', "public, private"])
def test_private_responses_are_not_stored(vary_by: str, control: str) -> None:
    route = Route({"vary_by": vary_by})
    route.fetch(route.context(identity=ANN)).answer(headers={"Cache-Control": control})
    assert route.status(route.context(identity=ANN)) == "Miss"


@pytest.mark.parametrize(
    ("vary_by", "headers", "hidden", "told"),
    [
        (["credential"], {"Authorization": "Bearer k"}, (b"authorization",), "Hit"),
        (["credential"], {"Authorization": "JWT other"}, (b"apikey",), "Miss"),
        (["credential"], {"Cookie": "a=1"}, (b"authorization",), "Miss"),
        (["credential"], {"X-Authenticated-User-Token": "t"}, (), "Miss"),
        (["credential", "header.Cookie"], {"Cookie": "a=1"}, (), "Hit"),
        (["none"], {"Cookie": "a=1"}, (), "Miss"),
        (["none", "header.cookie"], {"Cookie": "a=1"}, (), "Hit"),
        (["none"], {"X_Auth_Token": "t"}, (), "Miss"),
        (["none"], {"X_Auth_Token": "t"}, (b"x-auth-token",), "Hit"),
        (["none", "header.X-Auth-Token"], {"X_Auth_Token": "t"}, (), "Hit"),
    ],
)
def test_a_sign_of_a_person_that_the_upstream_sees(
    vary_by: list[str], headers: Headers, hidden: tuple[bytes, ...], told: str
) -> None:
    route = Route({"vary_by": vary_by})

    def context() -> Context:
        made = route.context(headers=headers, identity=ANN)
        made.hidden += hidden
        return made

    route.fetch(context()).answer()
    assert route.status(context()) == told


def test_a_header_of_the_key_tells_apart() -> None:
    route = Route({"vary_by": ["none", "header.Accept-Language"]})
    route.fetch(route.context(headers={"Accept-Language": "de"})).answer()
    assert [route.status(route.context(headers={"Accept-Language": value})) for value in ("de", "en")] == [
        "Hit",
        "Miss",
    ]
    assert route.status(route.context()) == "Miss"


@pytest.mark.parametrize("vary", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        # What Connection nominates never reaches the upstream, which answers as if nothing had been said.
        ([("X-Lang", "de"), ("Connection", "x-lang")], [("X-Lang", "de")], "Miss"),
        ([("X-Lang", "de")], [("X-Lang", "de"), ("Connection", "x-lang")], "Miss"),
        # CGI and WSGI servers read this as X-Lang.
        ([("X_Lang", "de")], [], "Miss"),
        ([("X_Lang", "de")], [("X_Lang", "en")], "Miss"),
        ([("X-Lang", "de"), ("X_Lang", "en")], [("X-Lang", "de")], "Miss"),
        ([("X-Lang", "de"), ("Connection", "x-other")], [("x-lang", "de")], "Hit"),
    ],
)
def test_a_header_that_tells_apart_is_read_as_any_upstream_would(
    vary: bool, first: list[tuple[str, str]], second: list[tuple[str, str]], told: str
) -> None:
    route = Route({"vary_by": ["none"] if vary else ["none", "header.X-Lang"]})
    route.fetch(route.context(headers=first)).answer(headers={"Vary": "X-Lang"} if vary else {})
    assert route.status(route.context(headers=second)) == told


#: What an earlier policy made of a request: names that it hid, lines that it wrote, the query that it left.
Made = tuple[tuple[bytes, ...], bytes, bytes | None]


@pytest.mark.parametrize(
    ("vary_by", "client", "made", "other", "told"),
    [
        # The client's own credential under another name, or another field of it as its credential: nobody else's.
        ("none", {"X-LMS": "t1"}, ((b"x-lms",), b"Authorization: t1", None), None, "Miss"),
        ("none", {"X-User-Token": "t1"}, ((b"x-user-token",), b"X-LMS: t1", None), None, "Miss"),
        (["none", "header.X-LMS"], {"X-LMS": "t1"}, ((b"x-lms",), b"Authorization: t1", None), None, "Hit"),
        # The gateway's own is everybody's.
        ("none", {"Authorization": "k"}, ((b"authorization",), b"Authorization: ours", None), None, "Hit"),
        ("none", {"X-Lang": "de"}, ((b"x-lang",), b"X-Language: de", None), None, "Hit"),
        # What tells apart does so as it was sent and as it arrives.
        (["none", "header.B"], {"A": "1"}, ((b"a",), b"B: 1", None), ((b"a",), b"B: 2", None), "Miss"),
        (["none", "header.B"], {"A": "1"}, ((b"a",), b"B: 1", None), ((b"a",), b"B: 1", None), "Hit"),
        (["none", "query.b"], {}, ((), b"", b"b=1"), ((), b"", b"b=2"), "Miss"),
        (["none", "query.b"], {}, ((), b"", b"b=1"), ((), b"", b"b=1&c=2"), "Hit"),
    ],
)
def test_what_earlier_policies_make_of_a_request(
    vary_by: Any, client: Headers, made: Made, other: Made | None, told: str
) -> None:
    route = Route({"vary_by": vary_by})

    def context(hidden: tuple[bytes, ...], line: bytes, query: bytes | None) -> Context:
        request = route.context(headers=client, identity=ANN)
        request.hidden += hidden
        request.upstream_lines += [line + b"\r\n"] if line else []
        request.upstream_query = query
        return request

    route.fetch(context(*made)).answer()
    assert route.status(context(*(other or made))) == told


def test_who_was_regrouped_while_waiting_leaves_nothing_to_the_old_group() -> None:
    route = Route({"vary_by": ["groups"]})
    fetch = route.fetch(route.context(identity=ANN))
    fetch.context.identity = PROMOTED  # as `auth` found when it was asked again
    fetch.answer()
    assert route.status(route.context(identity=BOB)) == "Miss"
    fetch = route.fetch(route.context(identity=ANN))
    fetch.context.identity = BOB
    fetch.answer()
    assert route.status(route.context(identity=ANN)) == "Hit"


def test_what_another_policy_replaces_is_not_stored() -> None:
    route = Route()
    fetch = route.fetch(route.context())
    fetch.context.replaced += (frozenset({b"location"}),)
    fetch.answer(301, {"Location": "/?secret"})
    assert route.status(route.context()) == "Miss"


def test_routes_do_not_share() -> None:
    route = Route()
    route.fetch(route.context()).answer()
    route.policy = route.make("other", {})
    assert route.status(route.context()) == "Miss"


# ── changes ──────────────────────────────────────────────────────────────────────────────────────


def test_a_change_by_another_route_and_caller_drops_it() -> None:
    route = Route()
    route.fetch(route.context(identity=ANN, query=b"x=1")).answer()
    reading = route.policy
    route.policy = route.make("content-update", {})
    route.fetch(route.context("PATCH", identity=BOB)).answer(200)
    route.policy = reading
    assert route.status(route.context(identity=ANN, query=b"x=1")) == "Miss"


def test_a_change_that_fails_drops_nothing() -> None:
    route = Route()
    route.fetch(route.context()).answer()
    route.fetch(route.context("DELETE")).answer(403, {"Location": "/content/v1/read/do_1"})
    assert route.status(route.context()) == "Hit"


def test_a_change_of_which_nobody_knows_drops_it() -> None:
    route = Route()
    route.fetch(route.context()).answer()
    route.fetch(route.context("POST")).end(504)
    assert route.status(route.context()) == "Miss"


@pytest.mark.parametrize("location", ["http://[", "//\x80", "/%zz", "/../..", "mailto:a", "http:///x", ""])
def test_a_location_that_is_no_place_of_ours_is_passed_over(location: str) -> None:
    route = Route()
    route.fetch(route.context(path="/other")).answer()
    route.fetch(route.context("POST", content_length=1)).answer(201, {"Location": location})
    assert route.status(route.context(path="/other")) == "Hit"


# ── together ─────────────────────────────────────────────────────────────────────────────────────


class Waiter:
    """A request that follows."""

    def __init__(self, route: Route, **parts: Any) -> None:
        self.route = route
        self.context = route.context(**parts)
        self.decision: Decision | None = None
        asked = route.ask(self.context)
        assert isinstance(asked, Pending)
        self.pending = asked
        self.failed: BaseException | None = None
        asked.then(self._decided, self._broke)

    def _decided(self, decision: Decision) -> None:
        self.decision = decision

    def _broke(self, error: BaseException) -> None:
        self.failed = error

    def fetch(self) -> Fetch:
        assert self.decision is ALLOW
        return Fetch(self.context, self.route.policy)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_followers_get_what_the_leader_fetched() -> None:
    route = Route()
    leader = route.fetch(route.context())
    waiters = [Waiter(route) for _ in range(3)] + [Waiter(route, headers={"If-None-Match": '"v1"'})]
    waiters[1].pending.cancel()
    leader.head(headers={"ETag": '"v1"'}, length=4)
    await turn()
    assert [waiter.decision for waiter in waiters] == [None] * 4
    leader.body(b"bo", b"dy")
    await turn()
    answers = [waiter.decision for waiter in waiters]
    assert answers[1] is None
    assert [answer.status for answer in answers if isinstance(answer, Reply)] == [200, 200, 304]
    assert route.status(route.context()) == "Hit"


@pytest.mark.parametrize(
    ("end", "ways"),
    [
        # Known at the head: all go on, and nobody waits for this again.
        (lambda leader: leader.head(headers={"Cache-Control": "no-store"}), [ALLOW, ALLOW, ALLOW]),
        (lambda leader: leader.answer(500), [ALLOW, ALLOW, ALLOW]),
        # The gateway's own answer in its place.
        (lambda leader: leader.end(502), [ALLOW, ALLOW, None]),
        # The leader's client left, before the head: one of the others leads.
        (lambda leader: leader.end(499), [ALLOW, None, None]),
    ],
)
async def test_followers_of_a_leader_that_fetched_nothing(
    end: Callable[[Fetch], None], ways: list[Decision | None]
) -> None:
    route = Route()
    leader = route.fetch(route.context())
    first, second = Waiter(route), Waiter(route)
    end(leader)
    await turn()
    # The third comes afterwards; None is who waits.
    context = route.context()
    third = route.ask(context)
    told = [first.decision, second.decision, None if isinstance(third, Pending) else third]
    if ways[2] is None and ways[1] is ALLOW:
        assert third is ALLOW  # it leads
        assert isinstance(route.ask(route.context()), Pending)
        told[2] = None
    assert told == ways


async def test_a_follower_follows_twice_at_the_most() -> None:
    route = Route()
    leader = route.fetch(route.context())
    waiters = [Waiter(route) for _ in range(4)]
    leader.end(499)
    await turn()
    waiters[0].fetch().end(499)
    await turn()
    assert [waiter.decision for waiter in waiters] == [ALLOW] * 4


async def test_a_mark_is_forgotten() -> None:
    route = Route()
    route.fetch(route.context()).answer(500)
    assert (route.ask(route.context()), route.ask(route.context())) == (ALLOW, ALLOW)
    route.clock.now += MARK / 1e9
    assert route.ask(route.context()) is ALLOW
    assert isinstance(route.ask(route.context()), Pending)


async def test_a_mark_ends_with_a_response_that_is_stored() -> None:
    route = Route({"ttl": "5s"})
    route.fetch(route.context()).answer(500)
    route.fetch(route.context()).answer(200)
    assert route.status(route.context()) == "Hit"


async def test_who_wants_it_otherwise_leads_and_follows_nobody() -> None:
    route = Route()
    route.fetch(route.context(headers={"Cache-Control": "no-cache"}))
    route.fetch(route.context(headers={"If-None-Match": '"v1"'}))
    route.fetch(route.context("HEAD"))
    route.fetch(route.context())
    assert isinstance(route.ask(route.context()), Pending)
    assert route.ask(route.context(headers={"Cache-Control": "no-cache"})) is ALLOW


async def test_patience_may_be_none() -> None:
    route = Route({"lock_timeout": 0})
    assert (route.ask(route.context()), route.ask(route.context())) == (ALLOW, ALLOW)


async def test_a_resource_that_changes_ends_the_flight_for_newcomers() -> None:
    route = Route()
    leader = route.fetch(route.context())
    waiter = Waiter(route)
    route.fetch(route.context("PUT")).answer(204)
    second = route.fetch(route.context())
    leader.answer(body=b"old")
    await turn()
    assert isinstance(waiter.decision, Reply)
    second.answer(body=b"new")
    hit = route.ask(route.context())
    assert isinstance(hit, Reply)
    assert hit.body == b"new"


async def test_somebody_and_nobody_in_particular_do_not_wait_for_each_other() -> None:
    route = Route()
    route.fetch(route.context())
    route.fetch(route.context(headers={"Cookie": "a=1"}))
    assert isinstance(route.ask(route.context(headers={"Cookie": "a=2"})), Pending)


# ── entries and settings ─────────────────────────────────────────────────────────────────────────


def test_entries_are_read_as_they_were_written() -> None:
    headers = ((b"ETag", b'"v1"'), (b"X-Empty", b""), (b"X-Colon", b" a: b"))
    stored = Stored("k", 404, 1_700_000_000.25, 60.5, True, False, headers, b"\r\n\r\nbody\x00\xff")
    again = decode("k", encode(stored))
    assert again is not None
    assert (again.status, again.born, again.lifetime, again.shared, again.never_stale, again.headers, again.body) == (
        404, 1_700_000_000.25, 60.5, True, False, headers, b"\r\n\r\nbody\x00\xff",
    )  # fmt: skip
    assert decode_vary(encode_vary((b"a", b"b"))) == (b"a", b"b")
    assert decode_vary(encode(stored)) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"postern/1 a b c d\r\n\r\n",
        b"postern/2 200 1 1 0\r\n\r\n",
        b"\x00" * 99,
        b"postern/1 0 1 199 1.0 1.0 0\r\nx",
        b"postern/1 0 1 600 1.0 1.0 0\r\nx",
        b"postern/1 0 1 200 nan 1.0 0\r\nx",
        b"postern/1 0 1 200 1.0 inf 0\r\nx",
        b"postern/1 0 1 200 1.0 1.0 0\r\nxy",
    ],
)
def test_what_is_no_entry_is_a_miss(value: bytes) -> None:
    assert decode("k", value) is None
    assert decode("k", b"postern/1 0 1 200 1.0 1.0 0\r\nx") is not None


def test_nothing_is_stored_for_ever() -> None:
    route = Route()
    route.fetch(route.context()).answer(headers={"Cache-Control": "max-age=99999999999"})
    route.clock.now += _LONGEST - 1
    assert route.status(route.context()) == "Hit"
    route.clock.now += 2
    assert route.status(route.context()) == "Miss"


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"vary_by": ["credentials"]}, "did you mean credential"),
        ({"vary_by": []}, "at least 1"),
        ({"vary_by": ["none", "groups"]}, "cannot both"),
        ({"vary_by": ["header."]}, "must be"),
        ({"vary_by": ["header.a b"]}, "must be"),
        ({"methods": ["HEAD"]}, "must hold GET"),
        ({"methods": ["POST"]}, "GET"),
        ({"statuses": [304]}, "never stored"),
        ({"statuses": [206]}, "never stored"),
        ({"statuses": [199]}, "greater than or equal to 200"),
        ({"statuses": []}, "at least 1"),
        ({"ttl": 60}, "duration"),
        ({"ttl": "-1s"}, "duration"),
        ({"storage": "x"}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        ProxyCache.Config.model_validate(config)


def test_it_is_a_policy_like_any_other() -> None:
    assert issubclass(ProxyCache, Policy)
