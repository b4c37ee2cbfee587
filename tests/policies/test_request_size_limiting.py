"""`request-size-limiting`: declared lengths judged at once, undeclared ones left to the data plane's count."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.answers import BODY_TOO_LARGE
from gateway.core.decision import ALLOW, Deny
from policies.request_size_limiting import RequestSizeLimiting
from tests.policies.helpers import decide, make_context, make_policy


@pytest.mark.parametrize(
    ("maximum", "declared", "limit_before", "limit_after"),
    [
        ("1KB", 0, None, 1000),
        ("1KB", 1000, None, 1000),
        ("1KiB", 1024, None, 1024),
        (10, 10, None, 10),
        ("1KB", None, None, 1000),
        ("1KB", None, 500, 500),  # a stricter limit stands
        ("1KB", None, 5000, 1000),
        (0, 0, None, 0),
    ],
)
def test_what_fits_passes_and_the_limit_is_left(
    maximum: str | int, declared: int | None, limit_before: int | None, limit_after: int
) -> None:
    context = make_context("POST", content_length=declared)
    context.body_limit = limit_before
    assert decide(make_policy(RequestSizeLimiting, {"max": maximum}), context) is ALLOW
    assert context.body_limit == limit_after


@pytest.mark.parametrize(("maximum", "declared"), [("1KB", 1001), ("1KiB", 1025), (0, 1), ("1MB", 10**12)])
def test_a_larger_declared_length_is_refused(maximum: str | int, declared: int) -> None:
    decision = decide(make_policy(RequestSizeLimiting, {"max": maximum}), make_context("POST", content_length=declared))
    assert isinstance(decision, Deny)
    assert decision.answer is BODY_TOO_LARGE
    assert decision.facts["declared"] == declared


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "Field required"),
        ({"max": "10 bananas"}, "not a size"),
        ({"max": -1}, "must be a size"),
        ({"max": True}, "must be a size"),
        ({"allowed_payload_size": 8}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        RequestSizeLimiting.Config.model_validate(config)
