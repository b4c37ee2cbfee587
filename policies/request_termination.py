"""`request-termination`: an answer of the gateway's own, in place of the upstream's.

Last in the order of policies, so that everything else (authentication, limits) is judged first.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from gateway.config.types import Settings
from gateway.core.context import Context
from gateway.core.decision import Decision, Reply
from gateway.core.policy import Environment, Phase, Policy

#: Statuses whose answers have no body (RFC 9110 §6.4.1).
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED})


def _content_type(value: str) -> str:
    kind, slash, subtype = value.partition(";")[0].strip().partition("/")
    if not (kind and slash and subtype) or not value.isascii() or not value.isprintable():
        raise ValueError("must be a media type such as application/json")
    return value


ContentType = Annotated[
    str,
    AfterValidator(_content_type),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Media type",
            "description": "A media type, with its parameters.",
            "examples": ["application/json", "text/plain; charset=utf-8"],
        }
    ),
]


class RequestTermination(Policy):
    """Answer from the gateway, without asking the upstream.

    Good for a `/ping`, for a route that is closed for a while, or for a fixed document.  The other policies
    are judged first: with `auth` on the route, only an authenticated request sees this answer.  The `body`
    is sent as it stands, in UTF-8; a HEAD request gets its headers alone.
    """

    name = "request-termination"
    phase = Phase.REQUEST_TERMINATION

    class Config(Settings):
        """The answer."""

        status: int = Field(503, ge=200, le=599, description="The status of the answer.")
        body: str = Field("", description="The body of the answer, as it stands.")
        content_type: ContentType = Field(
            "text/plain; charset=utf-8", description="The media type of `body`; not sent where that is empty."
        )

        @model_validator(mode="after")
        def _may_have_body(self) -> Self:
            if self.body and self.status in _BODILESS:
                raise ValueError(f"an answer of status {self.status} has no body")
            return self

    def __init__(self, config: Config, environment: Environment) -> None:
        headers = ((b"Content-Type", config.content_type.encode("ascii")),) if config.body else ()
        self._reply = Reply(config.status, headers=headers, body=config.body.encode("utf-8"))

    def check(self, context: Context) -> Decision:
        """The one `Reply`, made when the configuration was compiled."""
        return self._reply
