"""`correlation-id`: the request's one id, shown to either side under the name that the operator chose."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.decision import ALLOW
from policies.correlation_id import CorrelationId
from tests.policies.helpers import answer_lines, decide, make_context, make_policy, upstream_lines


@pytest.mark.parametrize(
    ("config", "upstream", "answer", "replaced", "hidden"),
    [
        ({}, [], ["X-Request-ID: req-1"], (frozenset({b"x-request-id"}),), ()),
        ({"echo": False}, [], [], (), ()),
        (
            {"header": "X-Correlation-ID"},
            ["X-Correlation-ID: req-1"],
            ["X-Correlation-ID: req-1"],
            (frozenset({b"x-correlation-id"}),),
            (b"x-correlation-id",),
        ),
        (
            {"header": "X-Correlation-ID", "echo": False},
            ["X-Correlation-ID: req-1"],
            [],
            (),
            (b"x-correlation-id",),
        ),
        ({"header": "x-request-id"}, [], ["x-request-id: req-1"], (frozenset({b"x-request-id"}),), ()),
    ],
)
def test_who_gets_the_id_under_which_name(
    config: dict[str, Any],
    upstream: list[str],
    answer: list[str],
    replaced: tuple[frozenset[bytes], ...],
    hidden: tuple[bytes, ...],
) -> None:
    context = make_context()
    assert decide(make_policy(CorrelationId, config), context) is ALLOW
    assert upstream_lines(context) == upstream
    assert answer_lines(context) == answer
    assert (context.replaced, context.hidden) == (replaced, hidden)


def test_a_client_cannot_pass_its_request_off_as_another() -> None:
    context = make_context(headers={"X-Correlation-Id": "somebody-elses"})
    decide(make_policy(CorrelationId, {"header": "X-Correlation-ID"}), context)
    assert context.hidden == (b"x-correlation-id",)
    assert upstream_lines(context) == answer_lines(context) == ["X-Correlation-ID: req-1"]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"header": "X-Consumer-ID"}, "the gateway writes or removes"),
        ({"header": "x_consumer_id"}, "the gateway writes or removes"),
        ({"header": "X_Request_ID"}, "the gateway writes or removes"),
        ({"header": "Connection"}, "the gateway writes or removes"),
        ({"header": "Content-Length"}, "the gateway writes or removes"),
        ({"header": "X-Forwarded-For"}, "the gateway writes or removes"),
        ({"header": "X Y"}, "name of a header"),
        ({"header": ""}, "name of a header"),
        ({"echo": "yes"}, "valid boolean"),
        ({"echo_downstream": True}, "Extra inputs"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        CorrelationId.Config.model_validate(config)
