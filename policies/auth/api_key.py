"""The authenticator of API keys: `<public>.<secret>`, and imported keys of any shape.

Three outcomes: an `Identity`, a `Deny`, or `Abstain` for a token of another kind; or a `Pending` of one of them
while the key is looked up and its secret verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.answers import MALFORMED_TOKEN
from gateway.core.decision import ABSTAIN, Abstain, Deny, Pending

if TYPE_CHECKING:
    from gateway.core.context import Context
    from gateway.core.identity import Identity
    from gateway.core.ports import Authenticator


class ApiKey:
    """Asks the port that knows keys; a token that has not a key's shape is somebody else's to judge."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._verify = authenticator.verify_key

    def authenticate(self, token: bytes, context: Context) -> Identity | Deny | Abstain | Pending[Identity | Deny]:
        """Judge a token from wherever it stood."""
        outcome = self._verify(token, context.client, context.now)
        if isinstance(outcome, Deny) and outcome.answer is MALFORMED_TOKEN:
            return ABSTAIN
        return outcome
