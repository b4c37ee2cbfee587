"""`cors`: which web pages may call a route from a browser (the Fetch standard's CORS protocol).

Preflights are answered here, before authentication, because a browser sends them without a credential.
Everything that depends on the configuration alone is made when it is compiled.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any

import re2
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway.config.types import Duration, HeaderName, HttpMethod, Settings
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Reply
from gateway.core.policy import Environment, Phase, Policy

Headers = tuple[tuple[bytes, bytes], ...]

#: What a browser is told where `methods` is not given: all that a route can serve.
_METHODS = ("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS")

#: An upstream's own headers of these names are dropped: what the route allows is said here.
_REPLACED = frozenset(
    {
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-private-network",
        b"access-control-expose-headers",
        b"access-control-max-age",
    }
)

_VARY = (b"Vary", b"Origin")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]*:[0-9a-f:.]*\])(?::([0-9]{1,5}))?")
#: Kong's rule: an entry with any other character is a regular expression.
_PLAIN = re.compile(r"[A-Za-z0-9.:/-]*")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_MEMO_LIMIT = 1024
#: What may be repeated in an answer: visible ASCII, and spaces in a list of header names.
_REPEATABLE_ORIGIN = re.compile(rb"[\x21-\x7e]{1,512}")
_REPEATABLE_LIST = re.compile(rb"[\x20-\x7e]{1,4096}")


def _split_origin(text: str) -> tuple[str, str] | None:
    """An origin as `(normal form, host)`: lower case, without a default port; None where it is none."""
    if text == "null":
        return text, text
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    suffix = f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else ""
    return f"{scheme}://{host}{suffix}", host


class _Pattern(dict[bytes, bool]):
    """`pattern[origin]`: does a regular expression of Kong's match an origin (its host alone, if it holds no colon)?

    Compiled by RE2 (linear time); raises ValueError.  Remembers up to 1,024 verdicts, then forgets them all.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as error:
            reason = error.args[0] if error.args else error
            shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            raise ValueError(f"{text!r} is no regular expression that RE2 takes: {shown}") from None
        self._of_host = ":" not in text

    def __missing__(self, origin: bytes) -> bool:
        parts = _split_origin(origin.decode("ascii"))
        verdict = parts is not None and self._compiled.fullmatch(parts[1 if self._of_host else 0]) is not None
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        self[origin] = verdict
        return verdict


#: One a text: routes that inherit the same settings share it.
_pattern = functools.lru_cache(maxsize=1024)(_Pattern)


def _origin(value: str) -> str:
    if value == "*":
        return value
    parts = _split_origin(value.removesuffix("/"))
    if parts is not None:
        return parts[0]
    if _PLAIN.fullmatch(value):
        raise ValueError(
            f"{value!r} must be *, an origin such as https://learn.example.org, "
            r"or a regular expression such as https://.*\.example\.org"
        )
    _pattern(value)
    return value


Origin = Annotated[
    str,
    AfterValidator(_origin),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Origin",
            "description": "*, an origin, or a regular expression of the origin (of its host, if it has no colon).",
            "examples": ["*", "https://learn.example.org", r"https://.*\.example\.org"],
        }
    ),
]


def _seconds(value: Any) -> Any:
    """Kong's whole number of seconds as a duration; anything else as it stands."""
    return f"{value}s" if isinstance(value, int) and not isinstance(value, bool) else value


MaxAge = Annotated[
    Duration,
    BeforeValidator(_seconds),
    WithJsonSchema(
        {
            "type": ["string", "integer"],
            "title": "Duration",
            "description": "A duration, or a whole number of seconds.",
            "examples": ["1h", 3600],
        }
    ),
]


def _joined(values: tuple[str, ...]) -> bytes:
    return ",".join(values).encode("ascii")


def _lines(headers: Headers) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


class Cors(Policy):
    """Let web pages of other origins call the route.

    The keys are Kong's, and so is what they do.  `origins` holds `*` (any page), origins
    (`https://learn.example.org`), and regular expressions: an entry with any character beyond letters, digits
    and `. : / -`.  An expression must match the whole of the origin, or of its host alone if it holds no colon.
    A single origin is named in every answer, whoever asks; of several, the one that asked.

    A preflight (OPTIONS with `Origin` and `Access-Control-Request-Method`) is matched to the route of the
    method that it asks about, and answered 204 before authentication and limits.  One from an origin that is
    not allowed gets 204 without any permission, which a browser takes as a no.  Any other request goes its
    way, with the headers of this policy on the answer, the gateway's refusals included; the upstream's own
    `Access-Control-*` headers are dropped.  `Vary: Origin` is added wherever the answer depends on the origin.

    `credentials` with `*` names the origin that asked in place of the star, as browsers demand: every web page
    may then act with the user's cookies, so name the origins where cookies matter.
    CORS tells browsers what to allow.  It keeps nobody else out: that is what `auth` and `acl` are for.
    """

    name = "cors"
    phase = Phase.CORS
    answers_preflight = True

    class Config(Settings):
        """Everything has a default: `cors: {}` admits any page, without cookies."""

        origins: tuple[Origin, ...] = Field(("*",), description="Origins that may call; empty is `*`.")
        methods: tuple[HttpMethod, ...] = Field(_METHODS, description="Methods that a preflight allows.")
        headers: tuple[HeaderName, ...] = Field(
            (), description="Request headers that a preflight allows; empty: those that it asks for."
        )
        exposed_headers: tuple[HeaderName, ...] = Field((), description="Answer headers that a page may read.")
        credentials: bool = Field(False, description="Whether a page may send cookies and HTTP authentication.")
        max_age: MaxAge | None = Field(
            None, description="How long a browser may keep a preflight's answer; not said where empty."
        )
        private_network: bool = Field(
            False, description="Whether a page on the public internet may call into a private network."
        )
        preflight_continue: bool = Field(
            False,
            description=(
                "Whether the upstream answers preflights itself; the route's other policies then judge them, "
                "though browsers send them without a credential."
            ),
        )

    def __init__(self, config: Config, environment: Environment) -> None:
        origins = config.origins or ("*",)
        self._any = "*" in origins
        self._credentials = config.credentials
        self._continue = config.preflight_continue
        literals = [origin.encode("ascii") for origin in origins if _split_origin(origin) is not None]
        self._patterns = [_pattern(origin) for origin in origins if origin != "*" and _split_origin(origin) is None]
        self._exposed: Headers = (
            ((b"Access-Control-Expose-Headers", _joined(config.exposed_headers)),) if config.exposed_headers else ()
        )
        # Where the answer is the same for everybody: `*` without cookies, or one origin.
        self._constant: Headers | None = None
        if self._any and not self._credentials:
            self._constant = ((b"Access-Control-Allow-Origin", b"*"),)
        elif not self._any and len(literals) == 1 and not self._patterns:
            self._constant = (_VARY, *self._permission(literals[0]))
        self._constant_lines = _lines((*self._constant, *self._exposed)) if self._constant is not None else b""
        self._permissions = {literal: self._permission(literal) for literal in literals}
        self._known_lines = {
            origin: _lines((_VARY, *self._allowed(origin), *self._exposed)) for origin in (None, *literals)
        }
        self._allow_methods = (b"Access-Control-Allow-Methods", _joined(config.methods))
        self._allow_headers = _joined(config.headers)
        self._private_network = config.private_network
        self._max_age: Headers = (
            ((b"Access-Control-Max-Age", b"%d" % config.max_age),) if config.max_age is not None else ()
        )

    def check(self, context: Context) -> Decision:
        """A 204 `Reply` to a preflight; else `ALLOW`, with the answer's header lines left in the context."""
        index = context.index
        origin = index.get(b"origin")
        if context.method == "OPTIONS" and origin is not None and b"access-control-request-method" in index:
            if self._continue:
                return ALLOW
            return Reply(204, headers=self._preflight(origin, index))
        if self._constant is not None:
            context.answer_lines.append(self._constant_lines)
        else:
            lines = self._known_lines.get(origin)
            if lines is None:
                lines = _lines((_VARY, *self._allowed(origin), *self._exposed))
            context.answer_lines.append(lines)
        context.replaced += (_REPLACED,)
        return ALLOW

    def _permission(self, origin: bytes) -> Headers:
        """The headers that let the pages of an origin read an answer."""
        if self._credentials:
            return ((b"Access-Control-Allow-Origin", origin), (b"Access-Control-Allow-Credentials", b"true"))
        return ((b"Access-Control-Allow-Origin", origin),)

    def _allowed(self, origin: bytes | None) -> Headers:
        """The permission for the origin that asks, empty where it has none."""
        if origin is None:
            return ((b"Access-Control-Allow-Origin", b"*"),) if self._any else ()
        known = self._permissions.get(origin)
        if known is not None:
            return known
        if _REPEATABLE_ORIGIN.fullmatch(origin) is None:
            return ()
        if self._any:
            return self._permission(origin)
        if any(pattern[origin] for pattern in self._patterns):
            return self._permission(origin)
        parts = _split_origin(origin.decode("ascii"))
        if parts is not None and parts[0].encode("ascii") in self._permissions:
            return self._permission(origin)
        return ()

    def _preflight(self, origin: bytes, index: dict[bytes, bytes]) -> Headers:
        """The headers of the answer to a preflight."""
        if self._constant is not None:
            base, allowed = self._constant, True
        else:
            permission = self._allowed(origin)
            base, allowed = (_VARY, *permission), bool(permission)
        if not allowed:
            return base
        headers = [*base, self._allow_methods, *self._max_age]
        names = self._allow_headers or index.get(b"access-control-request-headers", b"")
        if names and _REPEATABLE_LIST.fullmatch(names) is not None:
            headers.append((b"Access-Control-Allow-Headers", names))
        if self._private_network and index.get(b"access-control-request-private-network") == b"true":
            headers.append((b"Access-Control-Allow-Private-Network", b"true"))
        return tuple(headers)
