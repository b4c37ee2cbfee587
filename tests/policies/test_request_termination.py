"""`request-termination`: one fixed answer, made when the configuration is compiled."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.decision import Reply
from gateway.core.policy import Phase
from policies.request_termination import RequestTermination
from tests.policies.helpers import decide, make_context, make_policy

TEXT = (b"Content-Type", b"text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("config", "status", "headers", "body"),
    [
        ({}, 503, (), b""),
        ({"status": 200}, 200, (), b""),
        ({"status": 204}, 204, (), b""),
        ({"status": 200, "body": "pong"}, 200, (TEXT,), b"pong"),
        ({"status": 200, "body": "schön"}, 200, (TEXT,), b"sch\xc3\xb6n"),
        (
            {"status": 418, "body": "{}", "content_type": "application/json"},
            418,
            ((b"Content-Type", b"application/json"),),
            b"{}",
        ),
        ({"status": 200, "content_type": "application/json"}, 200, (), b""),
    ],
)
def test_the_answer_is_as_written(
    config: dict[str, Any], status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes
) -> None:
    decision = decide(make_policy(RequestTermination, config), make_context())
    assert isinstance(decision, Reply)
    assert (decision.status, decision.headers, decision.body) == (status, headers, body)


def test_it_is_the_last_of_all_policies() -> None:
    assert RequestTermination.phase == max(Phase)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"status": 199}, "greater than or equal to 200"),
        ({"status": 600}, "less than or equal to 599"),
        ({"status": "200"}, "valid integer"),
        ({"status": 204, "body": "x"}, "status 204 has no body"),
        ({"status": 304, "body": "x"}, "status 304 has no body"),
        ({"content_type": "json"}, "media type"),
        ({"content_type": "text/plain\r\nX-Evil: 1"}, "media type"),
        ({"content_type": "text/plain; charset=ä"}, "media type"),
        ({"message": "closed"}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        RequestTermination.Config.model_validate(config)
