"""How the gateway's own answers look: the form that `Accept` prefers, and the members of each form."""

from __future__ import annotations

import json

import pytest

from gateway.core.answers import MISSING_CREDENTIAL, RATE_LIMITED, TOO_MANY_FAILURES, Answer, prefer, render

JSON, PROBLEM, HTML, PLAIN = "application/json", "application/problem+json", "text/html", "text/plain"


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, JSON),
        (b"", JSON),
        (b"*/*", JSON),
        (b"image/png", JSON),
        (b"application/*", JSON),
        (b"application/json;q=0", JSON),
        (b"text/html;q=nonsense", JSON),
        (b"text/html", HTML),
        (b"TEXT/HTML ; level=1", HTML),
        (b"text/*", HTML),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        (b"text/html, application/json", JSON),
        (b"text/plain, */*;q=0.1", PLAIN),
        (b"application/json;q=0.1, text/plain;q=0.2", PLAIN),
        (b"text/*;q=0.9, text/html;q=0.1, application/json;q=0.5", PLAIN),
        (b"application/problem+json", PROBLEM),
        (b"application/json, application/problem+json", PROBLEM),
        (b"application/problem+json, application/json", PROBLEM),
        (b"application/problem+json, */*", PROBLEM),
        (b"application/json, application/problem+json;q=0.9", JSON),
        (b"application/problem+json;q=0, */*", JSON),
        (b"text/html, application/problem+json;q=0.5", HTML),
    ],
)
def test_the_form_that_is_preferred(accept: bytes | None, media: str) -> None:
    assert prefer(accept) == media


def test_json() -> None:
    media, body = render(MISSING_CREDENTIAL, None, "id-1")
    assert media == b"application/json; charset=utf-8"
    assert json.loads(body) == {
        "error": "Missing authorization header",
        "status_code": 401,
        "reason": "Unauthorized",
        "request_id": "id-1",
    }


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(MISSING_CREDENTIAL, "about:blank"), (RATE_LIMITED, "quota-exceeded"), (TOO_MANY_FAILURES, "quota-exceeded")],
)
def test_problem_details(answer: Answer, kind: str) -> None:
    media, body = render(answer, PROBLEM.encode(), "id-1", {"violated-policies": ["minute"]})
    assert media == b"application/problem+json"
    assert json.loads(body) == {
        "type": kind,
        "title": "Unauthorized" if answer is MISSING_CREDENTIAL else "Too Many Requests",
        "status": answer.status,
        "detail": answer.text,
        "request_id": "id-1",
        "violated-policies": ["minute"],
    }


@pytest.mark.parametrize(
    ("accept", "media"), [(HTML, b"text/html; charset=utf-8"), (PLAIN, b"text/plain; charset=utf-8")]
)
def test_text(accept: str, media: bytes) -> None:
    given, body = render(MISSING_CREDENTIAL, accept.encode(), "<id>")
    assert given == media
    assert b"401 Unauthorized" in body
    assert b"Missing authorization header" in body
    assert (b"<id>" in body) is (accept == PLAIN)
