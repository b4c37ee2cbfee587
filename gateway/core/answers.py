"""The gateway's own answers: contract §4 in one table, and the one function that renders them.

An `Answer` is a row: status, text, metric reason.  `render` turns it into a media type and a body
by the request's `Accept` (RFC 9110 §12.5.1): JSON unless HTML, plain text or problem details
(RFC 9457) is preferred; who names problem details beside JSON, as much as JSON, gets them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One refusal or fault: `text` is the contract's exact wording, `reason` the label in metrics and audit."""

    status: int
    text: str
    reason: str
    problem: str = "about:blank"


MISSING_CREDENTIAL = Answer(401, "Missing authorization header", "missing_credential")
WRONG_SCHEME = Answer(401, "Authorization header must use the Bearer scheme", "wrong_scheme")
MALFORMED_TOKEN = Answer(401, "Authorization token must be provided as <public>.<secret>", "malformed_token")
INVALID_KEY = Answer(401, "Invalid API token", "invalid_key")
REVOKED_KEY = Answer(401, "API token has been revoked", "revoked_key")
EXPIRED_KEY = Answer(401, "API token has expired", "expired_key")
DEPRECATED_KEY = Answer(401, "API token is deprecated", "deprecated_key")
VERIFY_FAILED = Answer(500, "Failed to verify API token", "store_unavailable")
TOO_MANY_FAILURES = Answer(429, "Too many failed authentication attempts", "too_many_failures", "quota-exceeded")

ACL_DENIED = Answer(403, "You cannot consume this service", "acl")
READ_ONLY_KEY = Answer(403, "Read-only API key", "read_only")
INSUFFICIENT_SCOPE = Answer(403, "Insufficient scope", "insufficient_scope")
ORGANIZATION_MISMATCH = Answer(403, "Organization mismatch", "organization_mismatch")
ADDRESS_DENIED = Answer(403, "IP address not allowed", "address")

RATE_LIMITED = Answer(429, "API rate limit exceeded", "rate_limited", "quota-exceeded")
OVERLOADED = Answer(503, "Service overloaded", "overloaded")
ISSUER_UNAVAILABLE = Answer(503, "Identity provider unavailable", "identity_provider_unavailable")

NO_ROUTE = Answer(404, "No route matched with those values", "no_route")

BAD_REQUEST = Answer(400, "Bad request", "malformed")
METHOD_NOT_ALLOWED = Answer(405, "Method not allowed", "method")
REQUEST_TIMEOUT = Answer(408, "Request timeout", "client_timeout")
BODY_TOO_LARGE = Answer(413, "Request size limit exceeded", "body_too_large")
TARGET_TOO_LONG = Answer(414, "Request URI too long", "target_too_long")
HEADERS_TOO_LARGE = Answer(431, "Request header fields too large", "headers_too_large")
EXPECTATION_FAILED = Answer(417, "Expectation failed", "expectation")
UNKNOWN_CODING = Answer(501, "Transfer coding not implemented", "transfer_coding")
UNKNOWN_VERSION = Answer(505, "HTTP version not supported", "version")

INTERNAL_ERROR = Answer(500, "An unexpected error occurred", "internal_error")
BAD_GATEWAY = Answer(502, "An invalid response was received from the upstream server", "bad_gateway")
UPSTREAM_UNAVAILABLE = Answer(503, "The upstream server is currently unavailable", "upstream_unavailable")
UPSTREAM_TIMEOUT = Answer(504, "The upstream server is timing out", "upstream_timeout")
NOT_CACHED = Answer(504, "No stored response fits the request", "not_cached")

_JSON = b"application/json; charset=utf-8"
_PROBLEM = b"application/problem+json"
_HTML = b"text/html; charset=utf-8"
_PLAIN = b"text/plain; charset=utf-8"

_DEFAULT = "application/json"
#: What we can say, in the order in which we like to; the first of equal weight wins.  Problem details come first
#: because they are only given to who names them: `application/json, application/problem+json` is how one asks.
_OFFERS = ("application/problem+json", _DEFAULT, "text/html", "text/plain")


#: Where older Pythons still say what earlier RFCs did.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}


def reason_phrase(status: int) -> str:
    """The standard reason phrase of a status (RFC 9110 §15), or "Unknown"."""
    try:
        return _PHRASES.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def prefer(accept: bytes | None) -> str:
    """The media type, of those that we offer, that an `Accept` value prefers; JSON where it says nothing usable."""
    if not accept or accept == b"*/*":
        return _DEFAULT
    exact: dict[str, float] = {}
    for member in accept.decode("latin-1").split(",")[:64]:
        media, *parameters = member.split(";")
        exact[media.strip().lower()] = _weight(parameters)
    best, chosen = 0.0, _DEFAULT
    for offer in _OFFERS:
        family = offer.split("/", 1)[0] + "/*"
        # Problem details are given to who names them: a wildcard means plain JSON.
        fallback = 0.0 if offer == "application/problem+json" else exact.get(family, exact.get("*/*", 0.0))
        weight = exact.get(offer, fallback)
        if weight > best:
            best, chosen = weight, offer
    return chosen


def render(
    answer: Answer, accept: bytes | None, request_id: str, members: Mapping[str, Any] | None = None
) -> tuple[bytes, bytes]:
    """Render an answer as `(content type, body)`.

    `members` are added to problem details alone (`violated-policies` of a 429).
    """
    status, phrase = answer.status, reason_phrase(answer.status)
    media = prefer(accept)
    if media == "text/html":
        text = html.escape(answer.text)
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{status} {phrase}</title>'
            f"<h1>{status} {phrase}</h1><p>{text}.</p><p>Request {html.escape(request_id)}</p></html>\n"
        )
        return _HTML, page.encode()
    if media == "text/plain":
        return _PLAIN, f"{status} {phrase}: {answer.text} (request {request_id})\n".encode()
    if media == "application/problem+json":
        problem = {
            "type": answer.problem,
            "title": phrase,
            "status": status,
            "detail": answer.text,
            "request_id": request_id,
            **(members or {}),
        }
        return _PROBLEM, json.dumps(problem).encode()
    error = {"error": answer.text, "status_code": status, "reason": phrase, "request_id": request_id}
    return _JSON, json.dumps(error).encode()
