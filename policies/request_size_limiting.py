"""`request-size-limiting`: how large a request's body may be.

The declared length is judged here, before a byte of the body is taken; a body of undeclared length
(chunked) is counted by the data plane against the limit that this policy leaves in the context.
"""

from __future__ import annotations

from pydantic import Field

from gateway.config.types import Settings, Size
from gateway.core.answers import BODY_TOO_LARGE
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny
from gateway.core.policy import Environment, Phase, Policy


class RequestSizeLimiting(Policy):
    """Refuse bodies that are too large.

    A body whose declared length (`Content-Length`) is larger is refused before any of it is read, and before
    authentication.  A chunked body is counted as it passes, and cut off once it is larger; framing and
    trailers do not count.  A body of exactly `max` passes.
    Refused: 413 `Request size limit exceeded`.
    """

    name = "request-size-limiting"
    phase = Phase.REQUEST_SIZE_LIMITING

    class Config(Settings):
        """The one limit."""

        max: Size = Field(description="The largest body that may pass, in bytes or with a unit (`10MB`, `64KiB`).")

    def __init__(self, config: Config, environment: Environment) -> None:
        self._max = config.max

    def check(self, context: Context) -> Decision:
        """`ALLOW` (with `context.body_limit` lowered to the limit), or the 413 of the contract."""
        limit, declared = self._max, context.content_length
        if declared is not None and declared > limit:
            return Deny(BODY_TOO_LARGE, facts={"max": limit, "declared": declared})
        if context.body_limit is None or context.body_limit > limit:
            context.body_limit = limit
        return ALLOW
