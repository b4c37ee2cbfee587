"""The configuration's own tests, offline: each holds or not by what the file says, alone and among others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.analysis.offline import TestResult, carriers, run_tests
from gateway.config.loader import load, load_bytes
from gateway.core.context import Context
from gateway.core.errors import ConfigError
from policies.acl import Acl

ROOT = Path(__file__).resolve().parent.parent.parent

CONFIG = """\
services:
  - name: lms
    url: http://127.0.0.1:9
    routes:
      - name: once
        paths: [/once]
        policies:
          auth: {any_of: [api-key]}
          rate-limiting: {limits: [1/hour]}
      - {name: header, paths: [/header], policies: {auth: {any_of: [api-key], carriers: [header], key_names: [x-key]}}}
      - {name: basic, paths: [/basic], policies: {auth: {any_of: [api-key], carriers: [basic]}}}
      - {name: query, paths: [/query], policies: {auth: {any_of: [api-key], carriers: [query]}}}
      - name: guest
        paths: [/guest]
        policies: {auth: {any_of: [api-key], anonymous: visitor}, acl: {allow: [guests]}}
      - {name: open, paths: [/open], policies: {auth: none}}
      - name: school
        paths: ['/schools/{school}/lessons']
        policies: {auth: {any_of: [api-key]}, organization: {match: path.school}}
      - {name: own, paths: [/own], policies: {auth: {any_of: [api-key]}, organization: {match: query.org}}}
      - {name: scoped, paths: [/scoped], policies: {auth: {any_of: [api-key]}, scopes: {require: ["courses:read"]}}}
organizations: [{name: springfield}]
consumers:
  - username: reader
    organization: springfield
    keys:
      - name: a
        public: pnpub_reader
        secret_hash: "$2b$04$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        read_only: true
        scopes: [courses:read]
  - {username: visitor, groups: [guests]}
"""


def run(*tests: str, config: str = CONFIG) -> list[TestResult]:
    text = config + ("tests:\n" if tests else "") + "".join(f"  - {{{test}}}\n" for test in tests)
    return run_tests(load_bytes(text.encode(), Path("config.yaml"), environ={}))


@pytest.mark.parametrize(
    "test",
    [
        "request: GET /once, as: reader, expect: {status: 200, route: once}",
        "request: GET /once, expect: {status: 401, route: once}",
        "request: GET /once, as: anonymous, expect: {status: 401}",
        "request: GET /header, as: reader, expect: {status: 200, route: header}",
        "request: GET /basic, as: reader, expect: {status: 200, route: basic}",
        "request: GET /query?a=b, as: reader, expect: {status: 200, route: query}",
        # What the consumer may do, whatever one of its keys may not.
        "request: POST /header, as: reader, expect: {status: 200}",
        "request: GET /guest, expect: {status: 200, route: guest}",
        "request: GET /guest, as: visitor, expect: {status: 200}",
        "request: GET /guest, as: reader, expect: {status: 403}",
        "request: GET /open, as: reader, expect: {status: 200, route: open}",
        "request: GET /schools/springfield/lessons, as: reader, expect: {status: 200, route: school}",
        "request: GET /schools/shelbyville/lessons, as: reader, expect: {status: 403, route: school}",
        "request: GET /schools/springfield/lessons, as: visitor, expect: {status: 403, route: school}",
        "request: GET /own?org=springfield, as: reader, expect: {status: 200}",
        "request: GET /own?org=springfield&org=shelbyville, as: reader, expect: {status: 403}",
        "request: GET /own, as: reader, expect: {status: 403}",
        "request: GET /scoped, as: reader, expect: {status: 200}",
        "request: GET /scoped, as: visitor, expect: {status: 403}",
        "request: GET /nowhere, as: reader, expect: {status: 404}",
        "request: GET /open/%2e%2e/x, expect: {status: 400}",
        "request: 'GET https://learn.example.org/open', expect: {status: 200, route: open}",
    ],
)
def test_what_holds(test: str) -> None:
    (result,) = run(test)
    assert (result.passed, result.message) == (True, "")
    assert result.got_status == result.test.expect.status


@pytest.mark.parametrize(
    ("test", "got", "message"),
    [
        (
            "request: GET /guest, as: reader, expect: {status: 200, route: guest}",
            (403, "guest"),
            "expected 200 from guest, got 403 from guest (acl: You cannot consume this service)",
        ),
        ("request: GET /open, expect: {status: 401}", (200, "open"), "expected 401, got 200 from open"),
        (
            "request: GET /open, expect: {status: 200, route: once}",
            (200, "open"),
            "expected 200 from once, got 200 from open",
        ),
        (
            "request: GET /nowhere, expect: {status: 200}",
            (404, None),
            "expected 200, got 404 (gateway: No route matched with those values)",
        ),
    ],
)
def test_what_does_not_hold(test: str, got: tuple[int, str | None], message: str) -> None:
    (result,) = run(test)
    assert not result.passed
    assert (result.got_status, result.got_route) == got
    assert result.message == message


def test_no_test_feels_another() -> None:
    once = "request: GET /once, as: reader, expect: {status: 200}"
    assert [result.passed for result in run(once, once, once)] == [True, True, True]


def test_a_policy_that_breaks_is_told_in_the_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Acl, context: Context) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(Acl, "check", broken)
    (result,) = run("request: GET /guest, expect: {status: 200}")
    assert (result.passed, result.got_status) == (False, 500)
    assert result.message == "expected 200, got 500 from guest (fault: RuntimeError: out of order)"
    assert (caplog.records, capsys.readouterr().err) == ([], "")
    assert logging.getLogger("postern.pipeline").propagate


def test_the_shipped_configuration_holds() -> None:
    results = run_tests(load(ROOT / "config.yaml", environ={}))
    assert results
    assert [result.message for result in results if not result.passed] == []


def test_where_each_route_takes_a_key() -> None:
    loaded = load_bytes(CONFIG.encode(), Path("config.yaml"), environ={})
    found = {name: (carrier.kind, carrier.name) for name, carrier in carriers(loaded.config).items()}
    assert found == {
        "once": ("bearer", "apikey"),
        "header": ("header", "x-key"),
        "basic": ("basic", "apikey"),
        "query": ("query", "apikey"),
        "guest": ("bearer", "apikey"),
        "open": ("bearer", "apikey"),
        "school": ("bearer", "apikey"),
        "own": ("bearer", "apikey"),
        "scoped": ("bearer", "apikey"),
    }


def test_what_only_compiling_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway import build
    from gateway.routing.router import RouteError

    def refuse(*arguments: object) -> None:
        raise RouteError("route once: no")

    monkeypatch.setattr(build, "Router", refuse)
    with pytest.raises(ConfigError, match=r"config\.yaml: route once: no"):
        run()
