"""`correlation-id`: one id a request, under a name of the operator's choice, for either side to log.

The data plane gives every request an id and sends it to the upstream as `X-Request-ID`; this policy shows
it to the client, and adds another header's name where an LMS or a tracing system wants one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.config.types import HeaderName, Settings
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision
from gateway.core.http import Kind, classify
from gateway.core.policy import Environment, Phase, Policy

_OWN = b"x-request-id"


def _free(name: str) -> str:
    lower = name.lower().encode("ascii")
    if lower != _OWN and classify(lower) is not Kind.FORWARD:
        raise ValueError("is a header that the gateway writes or removes; choose another, such as X-Correlation-ID")
    return name


FreeHeader = Annotated[
    HeaderName,
    AfterValidator(_free),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Header name",
            "description": "The name of a header that the gateway does not write for another purpose.",
            "examples": ["X-Request-ID", "X-Correlation-ID"],
        }
    ),
]


class CorrelationId(Policy):
    """Tell client and upstream the request's id.

    Every request has an id: the gateway makes it, or takes the `X-Request-ID` of a trusted proxy.  It stands in
    logs, in audit and in our own error bodies, and the upstream always gets it as `X-Request-ID`.  With another
    `header`, the upstream gets it under that name too; what the client itself sends there is dropped, so that
    nobody can pass a request off as another.  With `echo`, every answer carries the header, refusals too.
    """

    name = "correlation-id"
    phase = Phase.CORRELATION_ID

    class Config(Settings):
        """Everything has a default: `correlation-id: {}` is enough."""

        header: FreeHeader = Field("X-Request-ID", description="The header that carries the id, on either side.")
        echo: bool = Field(True, description="Whether answers carry the header.")

    def __init__(self, config: Config, environment: Environment) -> None:
        name = config.header.encode("ascii")
        self._lower = name.lower()
        self._renamed = self._lower != _OWN
        self._prefix = name + b": "
        self._echo = config.echo
        self._names = frozenset({self._lower})

    def check(self, context: Context) -> Decision:
        """`ALLOW`; leaves its header lines in the context, for the upstream and for the client."""
        if self._renamed:
            context.hidden += (self._lower,)
        line = self._prefix + context.request_id.encode("ascii") + b"\r\n"
        if self._renamed:
            context.upstream_lines.append(line)
        if self._echo:
            context.answer_lines.append(line)
            context.replaced += (self._names,)
        return ALLOW
