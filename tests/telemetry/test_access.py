"""The access log: every line is one line of JSON whatever clients send, and secrets are not in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telemetry.access import AccessLog

REQUEST: dict[str, Any] = {
    "now": 1767225599.5,
    "request_id": "0123abcd",
    "client": "203.0.113.7",
    "method": "GET",
    "path": "/content/v1/read/do_1",
    "query": b"",
    "status": 200,
    "sent": 1234,
    "seconds": 0.0123456,
    "upstream_seconds": 0.01,
    "route": "content-read",
    "service": "lms",
    "consumer": "mobile_app",
    "credential": "pnpub_4f",
    "decision": "proxied",
    "reason": "",
    "user_agent": b"curl/8.0",
    "host": "learn.example.org",
}


class Log:
    """An access log into a pipe, and what came out of it."""

    def __init__(self, **options: Any) -> None:
        self.read, self.write = os.pipe()
        self.reports: list[int] = []
        self.access = AccessLog(self.write, report=self.reports.append, **options)

    def lines(self) -> list[bytes]:
        assert self.access.close(5)
        os.close(self.write)
        with os.fdopen(self.read, "rb") as stream:
            return stream.read().splitlines(keepends=True)


def logged(*requests: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    log = Log(**options)
    for request in requests:
        log.access.record(**{**REQUEST, **request})
    lines = log.lines()
    assert len(lines) == len(requests)
    assert all(line.endswith(b"\n") and line.isascii() for line in lines)
    return [json.loads(line) for line in lines]


def test_a_line_says_what_happened() -> None:
    [line] = logged({"protocol": "HTTP/1.1"})
    assert line == {
        "time": "2025-12-31T23:59:59.500Z",
        "request_id": "0123abcd",
        "client": "203.0.113.7",
        "method": "GET",
        "path": "/content/v1/read/do_1",
        "query": "",
        "status": 200,
        "bytes": 1234,
        "duration_us": 12345,
        "upstream_us": 10000,
        "route": "content-read",
        "service": "lms",
        "consumer": "mobile_app",
        "credential": "pnpub_4f",
        "decision": "proxied",
        "reason": "",
        "user_agent": "curl/8.0",
        "host": "learn.example.org",
        "protocol": "HTTP/1.1",
    }


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"upstream_seconds": None}, {"upstream_us": None}),
        ({"now": 1767225600.0}, {"time": "2026-01-01T00:00:00.000Z"}),
        ({"now": 1767225600.0015}, {"time": "2026-01-01T00:00:00.001Z"}),
        (
            {"decision": "denied", "reason": "acl", "status": 403},
            {"decision": "denied", "reason": "acl", "status": 403},
        ),
        ({"path": '/a"b\\c\nd'}, {"path": '/a"b\\c\nd'}),
        ({"path": "/\x00\x7f\x1f"}, {"path": "/\x00\x7f\x1f"}),
        ({"user_agent": b'caf\xe9 "x"\r\n'}, {"user_agent": 'café "x"\r\n'}),
        ({"host": "h\u2028\xe9"}, {"host": "h\u2028\xe9"}),
        ({"method": 'G"T'}, {"method": 'G"T'}),
        ({"consumer": "Zoë"}, {"consumer": "Zoë"}),
        ({"client": 'x"'}, {"client": 'x"'}),
        ({"query": b"a=1&q=%20\xff"}, {"query": "a=1&q=%20\xff"}),
        ({"query": b"a=1&apikey=pnpub_a.pnsec_b"}, {"query": "a=1&apikey=***"}),
        ({"query": b"pass=x&other=pnsec_b"}, {"query": "pass=***&other=pnsec_***"}),
        ({"path": "/pnpub_a.pnsec_b/c"}, {"path": "/pnpub_a.pnsec_***/c"}),
        ({"request_id": "pnsec_b"}, {"request_id": "pnsec_***"}),
        ({"user_agent": b"x pnsec_b y"}, {"user_agent": "x pnsec_*** y"}),
        ({"host": "pnsec_b.example"}, {"host": "pnsec_***.example"}),
        ({"credential": "pnpub_a.pnsec_b"}, {"credential": "pnpub_a.pnsec_***"}),
    ],
)
def test_fields(request_: dict[str, Any], expected: dict[str, Any]) -> None:
    first, second = logged(request_, request_, secret_names=["Pass"])
    for line in (first, second):
        assert {name: line[name] for name in expected} == expected


@settings(max_examples=50)
@given(
    path=st.text(st.characters(max_codepoint=255)),
    query=st.binary(max_size=60),
    user_agent=st.binary(max_size=600),
    host=st.text(st.characters(max_codepoint=255)),
    method=st.text(st.characters(max_codepoint=255), max_size=20),
)
def test_whatever_a_client_sends_a_line_is_one_line_of_json(
    path: str, query: bytes, user_agent: bytes, host: str, method: str
) -> None:
    [line] = logged({"path": path, "query": query, "user_agent": user_agent, "host": host, "method": method})
    assert line["path"] == path
    assert line["user_agent"] == user_agent.decode("latin-1")
    assert line["host"] == host
    assert line["method"] == method


def test_the_configuration_may_name_other_secret_parameters() -> None:
    log = Log()
    log.access.record(**{**REQUEST, "query": b"lmskey=1"})
    log.access.set_secret_names(["lmskey"])
    log.access.record(**{**REQUEST, "query": b"lmskey=1"})
    assert [json.loads(line)["query"] for line in log.lines()] == ["lmskey=1", "lmskey=***"]


def test_what_clients_vary_does_not_fill_the_memory() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    access = AccessLog(nowhere, report=print)
    for number in range(10_000):
        access.record(**{**REQUEST, "user_agent": b"%d" % number, "method": f"M{number}"})
    access.record(**{**REQUEST, "user_agent": b"x" * 10_000, "reason": "x" * 10_000})
    assert len(access._agents) <= 8192
    assert len(access._served) <= 8192
    assert not [key for key in access._agents if len(key[0]) > 256]
    assert access.close(5)
    os.close(nowhere)


@pytest.fixture
def stuck() -> Iterator[Log]:
    """A log whose pipe nobody reads, with room for 64 KiB."""
    log = Log(backlog=65536)
    yield log
    log.access.close(0)
    os.close(log.read)


def test_lost_lines_are_counted_and_reported_once_a_minute(stuck: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr("gateway.telemetry.access.time.monotonic", lambda: moment)
    for _ in range(200):
        for _ in range(10):
            stuck.access.record(**REQUEST)
        stuck.access.flush()
    lost = stuck.access.dropped
    assert lost > 0
    assert lost % 10 == 0
    assert len(stuck.reports) == 1
    moment += 61
    stuck.access.flush()
    assert sum(stuck.reports) == lost
    assert len(stuck.reports) == 2
    moment += 61
    stuck.access.flush()
    assert len(stuck.reports) == 2, "nothing was lost since"


def test_flushing_nothing_starts_nothing() -> None:
    log = Log()
    log.access.flush()
    assert log.access._writer._thread is None
    assert log.lines() == []
