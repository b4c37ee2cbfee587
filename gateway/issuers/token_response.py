"""What a token endpoint answered, judged (RFC 6749 §5): pure, bytes in and an `IssuedToken` out.

Law: a token goes into a header line, so it is visible ASCII and nothing else; and no text of an error repeats
what the issuer said, which may hold a secret.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.errors import IssuerError

#: The largest answer that is read, in bytes.
MAX_ANSWER: Final = 64 * 1024

#: How long a token is believed where its issuer does not say (RFC 6749 leaves it to other documents), in seconds.
DEFAULT_LIFETIME: Final = 300.0
#: No token is held for longer than this, whatever its issuer says, in seconds.
MAX_LIFETIME: Final = 86_400.0
#: A token that lives for less is no use, in seconds.
MIN_LIFETIME: Final = 1.0

#: RFC 6749 §5.2: the errors that may be repeated in a log.
_ERRORS: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
    }
)
#: What an issuer may call a token that goes behind a scheme; Apigee says BearerToken.
_TYPES: Final = {
    "Bearer": frozenset({"bearer", "bearertoken"}),
    "JWT": frozenset({"jwt", "bearer", "bearertoken"}),
}
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access token, ready for a header line, and how many seconds it lives from when it was asked for."""

    token: bytes
    lifetime: float

    def __repr__(self) -> str:
        return f"IssuedToken(lifetime={self.lifetime})"


def parse_answer(status: int, body: bytes, scheme: str) -> IssuedToken:
    """The token that an answer holds; `scheme` is "Bearer" or "JWT".  Raises `IssuerError`."""
    if 300 <= status <= 399:
        raise IssuerError(f"it answers {status}, and redirects are not followed")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if status != 200:
        error = answer.get("error") if isinstance(answer, dict) else None
        said = f" ({error})" if isinstance(error, str) and error in _ERRORS else ""
        raise IssuerError(f"it answers {status}{said}")
    if not isinstance(answer, dict):
        raise IssuerError("its answer is no JSON object")
    return IssuedToken(_token(answer, scheme), _lifetime(answer.get("expires_in")))


def _token(answer: dict[str, Any], scheme: str) -> bytes:
    token, kind = answer.get("access_token"), answer.get("token_type")
    if not isinstance(token, str) or not token:
        raise IssuerError("its answer holds no access_token")
    if _TOKEN.fullmatch(token) is None:
        raise IssuerError("its access_token cannot stand in a header")
    # A type is required (RFC 6749 §5.1), and some leave it out; another one wants more than to be shown.
    if kind is not None and (not isinstance(kind, str) or kind.lower() not in _TYPES[scheme]):
        raise IssuerError(f"its token_type is not one that goes behind {scheme}")
    if scheme == "JWT" and _JWT.fullmatch(token) is None:
        raise IssuerError("its access_token is no JWT")
    return token.encode("ascii")


def _lifetime(value: object) -> float:
    """The seconds of `expires_in`, which some issuers write as text."""
    if value is None:
        return DEFAULT_LIFETIME
    seconds = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except (ValueError, OverflowError):
            seconds = math.inf if isinstance(value, int) and value > 0 else math.nan
    if not seconds >= MIN_LIFETIME:
        raise IssuerError("its expires_in is no number of seconds in which a token could be used")
    return min(seconds, MAX_LIFETIME)
