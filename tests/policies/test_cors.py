"""`cors`: what Kong's users know of it: preflights answered, headers on every answer, expressions for origins."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.decision import ALLOW, Reply
from policies import cors
from policies.cors import Cors
from tests.policies.helpers import answer_lines, decide, make_context, make_policy

LEARN = "https://learn.example.org"
PORTAL = "https://portal.example.org"
TWO = {"origins": [LEARN, PORTAL]}
PATTERN = {"origins": [r"https://[a-z]+\.example\.org", LEARN]}
HOST_PATTERN = {"origins": [r".*\.example\.org"]}
VARY = "Vary: Origin"
ACCESS = "Access-Control-Allow-"


def allow(origin: str) -> str:
    return f"{ACCESS}Origin: {origin}"


COOKIES = f"{ACCESS}Credentials: true"


@pytest.mark.parametrize(
    ("config", "origin", "lines"),
    [
        # Any page, without cookies: the same for everybody.
        ({}, LEARN, [allow("*")]),
        ({}, None, [allow("*")]),
        ({"origins": []}, LEARN, [allow("*")]),
        ({"origins": ["*", LEARN]}, PORTAL, [allow("*")]),
        # Any page, with cookies: the origin itself, as browsers demand.
        ({"credentials": True}, LEARN, [VARY, allow(LEARN), COOKIES]),
        ({"credentials": True}, "null", [VARY, allow("null"), COOKIES]),
        ({"credentials": True}, None, [VARY, allow("*")]),
        ({"credentials": True}, "https://a b", [VARY]),
        # One origin is named to whoever asks.
        ({"origins": [LEARN]}, LEARN, [VARY, allow(LEARN)]),
        ({"origins": [LEARN]}, PORTAL, [VARY, allow(LEARN)]),
        ({"origins": [LEARN]}, None, [VARY, allow(LEARN)]),
        ({"origins": [LEARN], "credentials": True}, LEARN, [VARY, allow(LEARN), COOKIES]),
        ({"origins": ["HTTPS://Learn.Example.org:443/"]}, LEARN, [VARY, allow(LEARN)]),
        # Of several, the one that asked.
        (TWO, LEARN, [VARY, allow(LEARN)]),
        (TWO, PORTAL, [VARY, allow(PORTAL)]),
        (TWO, f"{LEARN}:443", [VARY, allow(f"{LEARN}:443")]),
        (TWO, f"{LEARN}:8443", [VARY]),
        (TWO, "http://learn.example.org", [VARY]),
        (TWO, f"{LEARN}.evil.test", [VARY]),
        (TWO, "null", [VARY]),
        (TWO, None, [VARY]),
        ({**TWO, "credentials": True}, PORTAL, [VARY, allow(PORTAL), COOKIES]),
        ({**TWO, "credentials": True}, "https://evil.test", [VARY]),
        ({"origins": ["null", LEARN]}, "null", [VARY, allow("null")]),
        ({"origins": ["http://[::1]:3000", LEARN]}, "http://[::1]:3000", [VARY, allow("http://[::1]:3000")]),
        # Expressions match the whole origin, or the whole host where they hold no colon.
        (PATTERN, PORTAL, [VARY, allow(PORTAL)]),
        (PATTERN, LEARN, [VARY, allow(LEARN)]),
        (PATTERN, "https://a1.example.org", [VARY]),
        (PATTERN, f"{PORTAL}.evil.test", [VARY]),
        (PATTERN, "https://evil.test/https://portal.example.org", [VARY]),
        (PATTERN, "http://portal.example.org", [VARY]),
        (HOST_PATTERN, "http://portal.example.org:8080", [VARY, allow("http://portal.example.org:8080")]),
        (HOST_PATTERN, "https://example.org.evil.test", [VARY]),
        ({"origins": [r"^https://.*\.example\.org$", LEARN]}, PORTAL, [VARY, allow(PORTAL)]),
        ({"origins": ["[a-c]+.test"]}, "https://abc.test", [VARY, allow("https://abc.test")]),
        # What a page may read.
        (
            {"exposed_headers": ["RateLimit-Remaining", "X-Request-ID"]},
            LEARN,
            [allow("*"), "Access-Control-Expose-Headers: RateLimit-Remaining,X-Request-ID"],
        ),
    ],
)
def test_the_answers_headers(config: dict[str, Any], origin: str | None, lines: list[str]) -> None:
    context = make_context(headers={"Origin": origin} if origin is not None else {})
    assert decide(make_policy(Cors, config), context) is ALLOW
    assert answer_lines(context) == lines
    (replaced,) = context.replaced
    assert b"access-control-allow-origin" in replaced
    assert b"vary" not in replaced  # the upstream's stands beside ours


METHODS = f"{ACCESS}Methods: GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS"


@pytest.mark.parametrize(
    ("config", "headers", "lines"),
    [
        ({}, {}, [allow("*"), METHODS]),
        (
            {},
            {"Access-Control-Request-Headers": "authorization, content-type"},
            [allow("*"), METHODS, f"{ACCESS}Headers: authorization, content-type"],
        ),
        (
            {"headers": ["Authorization", "X-Mine"], "methods": ["GET", "POST"]},
            {"Access-Control-Request-Headers": "x-other"},
            [allow("*"), f"{ACCESS}Methods: GET,POST", f"{ACCESS}Headers: Authorization,X-Mine"],
        ),
        ({"max_age": 3600}, {}, [allow("*"), METHODS, "Access-Control-Max-Age: 3600"]),
        ({"max_age": "10m"}, {}, [allow("*"), METHODS, "Access-Control-Max-Age: 600"]),
        ({"credentials": True}, {}, [VARY, allow(LEARN), COOKIES, METHODS]),
        (TWO, {}, [VARY, allow(LEARN), METHODS]),
        ({"origins": [PORTAL, "https://x.test"], "max_age": 60}, {}, [VARY]),
        ({"private_network": True}, {}, [allow("*"), METHODS]),
        (
            {"private_network": True},
            {"Access-Control-Request-Private-Network": "true"},
            [allow("*"), METHODS, f"{ACCESS}Private-Network: true"],
        ),
        ({}, {"Access-Control-Request-Private-Network": "true"}, [allow("*"), METHODS]),
        ({}, {"Access-Control-Request-Headers": "a\x01b"}, [allow("*"), METHODS]),
        # What a page may read is said on answers, not here.
        ({"exposed_headers": ["X-Request-ID"]}, {}, [allow("*"), METHODS]),
    ],
)
def test_a_preflight_is_answered(config: dict[str, Any], headers: dict[str, str], lines: list[str]) -> None:
    context = make_context("OPTIONS", headers={"Origin": LEARN, "Access-Control-Request-Method": "POST", **headers})
    decision = decide(make_policy(Cors, config), context)
    assert isinstance(decision, Reply)
    assert (decision.status, decision.body) == (204, b"")
    assert [f"{name.decode()}: {value.decode()}" for name, value in decision.headers] == lines
    assert not context.answer_lines


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", {"Origin": LEARN}),
        ("OPTIONS", {"Access-Control-Request-Method": "POST"}),
        ("GET", {"Origin": LEARN, "Access-Control-Request-Method": "POST"}),
    ],
)
def test_what_is_no_preflight_goes_its_way(method: str, headers: dict[str, str]) -> None:
    context = make_context(method, headers=headers)
    assert decide(make_policy(Cors, {}), context) is ALLOW
    assert answer_lines(context) == [allow("*")]


def test_a_preflight_may_be_left_to_the_upstream() -> None:
    context = make_context("OPTIONS", headers={"Origin": LEARN, "Access-Control-Request-Method": "POST"})
    assert decide(make_policy(Cors, {"preflight_continue": True}), context) is ALLOW
    assert not context.answer_lines
    assert not context.replaced


def test_a_flood_of_origins_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cors, "_MEMO_LIMIT", 8)
    policy = make_policy(Cors, {"origins": [r"https://[a-z0-9]+\.flood\.test"]})
    pattern = cors._pattern(r"https://[a-z0-9]+\.flood\.test")
    for number in range(50):
        origin = f"https://h{number}.flood.test"
        context = make_context(headers={"Origin": origin})
        decide(policy, context)
        assert answer_lines(context) == [VARY, allow(origin)]
        assert len(pattern) <= 8


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"origins": ["learn.example.org"]}, "an origin such as https://learn.example.org"),
        ({"origins": ["https://learn.example.org/path"]}, "an origin such as"),
        ({"origins": [""]}, "an origin such as"),
        ({"origins": ["https://x.test:\u0663("]}, "no regular expression that RE2 takes"),
        ({"origins": [r"https://(?!evil)\.example\.org"]}, "no regular expression that RE2 takes"),
        ({"origins": ["https://[.example.org"]}, "no regular expression that RE2 takes"),
        ({"origins": "*"}, "valid tuple"),
        ({"methods": ["get"]}, "in capitals"),
        ({"methods": ["TRACE"]}, "refuses TRACE"),
        ({"headers": ["X Y"]}, "name of a header"),
        ({"exposed_headers": ["X\r\nY"]}, "name of a header"),
        ({"max_age": -1}, "not a duration"),
        ({"max_age": True}, "duration"),
        ({"max_age": "soon"}, "not a duration"),
        ({"credentials": "true"}, "valid boolean"),
        ({"origin": "*"}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Cors.Config.model_validate(config)
