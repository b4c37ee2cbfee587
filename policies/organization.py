"""`organization`: keeps tenants apart, by a name in the request that must be the caller's own organization.

Closed (law 3): what is missing, given twice, or could be read in two ways is no match.  A request is judged as the
loosest server behind us would read it: whatever such a server might take for the parameter counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.config.types import Settings
from gateway.core.answers import ORGANIZATION_MISMATCH
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny
from gateway.core.http import Kind, classify, fold, tokens
from gateway.core.policy import Environment, Phase, Policy

_CAPTURE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,128}")
_PARAMETER = re.compile(r"[A-Za-z0-9_\-]{1,128}")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
#: What PHP makes of a parameter's name.
_PHP_NAME = str.maketrans(" .[", "___")
_BRACKETS = re.compile(r"[\[\]]")

#: What was found: the value, or why there is none that everybody would read alike.
Found = tuple[bytes | None, str]

_ABSENT: Found = (None, "absent")
_REPEATED: Found = (None, "given more than once")
_AMBIGUOUS: Found = (None, "can be read in two ways")


def _place(value: str) -> str:
    kind, _, name = value.partition(".")
    forms = {"path": _CAPTURE, "header": _TOKEN, "query": _PARAMETER}
    if kind not in forms or not name:
        raise ValueError("must be path.NAME (a capture of the route's paths), header.NAME or query.NAME")
    if forms[kind].fullmatch(name) is None:
        texts = {
            "path": "a capture is named by letters, digits and _",
            "header": "that is no name of a header",
            "query": "the parameter's name must be of letters, digits, _ and -",
        }
        raise ValueError(texts[kind])
    if kind == "header" and classify(name.encode("ascii")) is not Kind.FORWARD:
        raise ValueError("is a header that the LMS does not get as the client sent it; choose another")
    return value


Place = Annotated[
    str,
    AfterValidator(_place),
    WithJsonSchema(
        {
            "type": "string",
            "title": "path.NAME, header.NAME or query.NAME",
            "description": "Where a request names the organization: a capture, a header, or a query parameter.",
            "pattern": r"^(path|header|query)\..+$",
            "examples": ["path.org", "header.X-School", "query.org"],
        }
    ),
]


def in_path(name: str) -> Callable[[Context], Found]:
    """Reads the capture of this name: percent-decoded once, as whoever serves the canonical path does."""

    def find(context: Context) -> Found:
        value = (context.captures or {}).get(name)
        if value is None:
            return _ABSENT
        return _decoded(value.encode("utf-8"))

    return find


def in_header(name: str) -> Callable[[Context], Found]:
    """Reads the header of this name, which must come once, in one spelling, and reach the upstream."""
    lower = name.lower().encode("ascii")
    folded = fold(lower)

    def find(context: Context) -> Found:
        spellings = [each for each in context.index if fold(each) == folded]
        if not spellings:
            return _ABSENT
        if len(spellings) > 1 or lower in context.repeated:
            return _REPEATED
        # Another spelling is the header to some servers and not to others; a nominated one ends here.
        if spellings != [lower] or lower in tokens(context.index.get(b"connection", b"")):
            return _AMBIGUOUS
        return context.index[lower], "header"

    return find


def in_query(name: str) -> Callable[[Context], Found]:
    """Reads the query parameter of this name, which must come once, in one spelling."""
    exact = name.encode("ascii")
    lower = name.lower()

    def find(context: Context) -> Found:
        query = context.query
        if _BROKEN_ESCAPE.search(query) is not None:
            return _AMBIGUOUS
        found: list[tuple[bytes, bytes, bool]] = []
        for parameter in query.split(b"&"):
            parts = parameter.split(b";")  # some servers read `;` as `&`
            for part in parts:
                written, _, value = part.partition(b"=")
                decoded = unquote_to_bytes(written.replace(b"+", b" "))
                try:
                    text = decoded.decode("utf-8")
                except UnicodeDecodeError:
                    return _AMBIGUOUS
                if _may_be(text, lower):
                    found.append((decoded, value, len(parts) > 1))
        if not found:
            return _ABSENT
        if len(found) > 1:
            return _REPEATED
        decoded, value, divided = found[0]
        if decoded != exact or divided:
            return _AMBIGUOUS
        return _decoded(value.replace(b"+", b" "))

    return find


def _decoded(value: bytes) -> Found:
    return _AMBIGUOUS if _BROKEN_ESCAPE.search(value) is not None else (unquote_to_bytes(value), "value")


def _may_be(name: str, wanted: str) -> bool:
    """Might some server read a parameter of this name as `wanted` (which is in lower case)?

    PHP reads `org[]` and ` org` as `org`, and `my.org`, `my org` and `my[org` as `my_org`; qs reads `[org]` as `org`;
    C ends at NUL, and some look names up in any case.
    """
    plain = name.partition("\0")[0].strip().casefold()
    outermost = next(filter(None, _BRACKETS.split(plain)), "").strip()
    return wanted in (outermost.translate(_PHP_NAME), plain.translate(_PHP_NAME))


_READERS = {"path": in_path, "header": in_header, "query": in_query}


class Organization(Policy):
    """Admit a caller only where the request names the caller's own organization.

    `match` says where the name stands: `path.NAME` (a capture, `/schools/{NAME}/lessons`), `header.NAME` or
    `query.NAME`.  It must equal, case included, the name of the organization that the caller's consumer belongs to.
    It must be there exactly once: a repeated header, a second parameter of that name in any spelling that a server
    might fold into it (`org[]`, `%6Frg`, `Org`, one behind a `;`), and a broken escape are refused as a mismatch.
    So is a caller who belongs to no organization, or whom nobody knows (`auth: none`).

    A capture must be there on every path of the route; on a path without it everybody is refused, which
    `postern check` points out.  In a regular expression see to it that the capture takes the whole segment.
    Only the place that `match` names is judged: a parameter of the same name in a form or in JSON is for the LMS to
    leave unread.
    Refused: 403 `Organization mismatch`.
    """

    name = "organization"
    phase = Phase.ORGANIZATION

    class Config(Settings):
        """Where the organization stands in a request."""

        match: Place = Field(description="`path.NAME`, `header.NAME` or `query.NAME`.")

    def __init__(self, config: Config, environment: Environment) -> None:
        kind, _, name = config.match.partition(".")
        self._match = config.match
        self._find = _READERS[kind](name)

    def check(self, context: Context) -> Decision:
        """`ALLOW`, or the 403 of the contract."""
        identity = context.identity
        organization = None if identity is None else identity.consumer.organization
        if organization is None:
            return self._refuse(None, "the caller belongs to no organization")
        value, what = self._find(context)
        if value is not None and value and value == organization.name.encode("utf-8"):
            return ALLOW
        return self._refuse(organization.name, what if value is None else "another organization")

    def recheck(self, context: Context) -> Decision:
        """Judge again after a wait: the consumer may have been moved to another organization meanwhile."""
        return self.check(context)

    def _refuse(self, organization: str | None, found: str) -> Deny:
        return Deny(ORGANIZATION_MISMATCH, facts={"match": self._match, "organization": organization, "found": found})
