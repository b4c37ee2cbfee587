"""Services and routes: what is proxied, to where, and by which paths (contract §2, Paths).

A path that could never match, because no canonical path is spelled like it, is refused here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import re2
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from gateway.config.policies import Policies
from gateway.config.transport import UpstreamTls
from gateway.config.types import Duration, HeaderName, HttpMethod, Name, Patience, RouteName, Settings, declared
from gateway.core.path import PathError, PathRules, canonical

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_\-]{0,61}[a-z0-9_])?")
_IP_LITERAL = re.compile(r"\[[0-9a-f:.]{2,45}\]")
_CAPTURE = re.compile(r"\{([^{}/]*)\}")
_GROUP_NAME = re.compile(r"\\.|\(\?P?<([A-Za-z_]\w*)>")
_CAPTURE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_LENIENT = PathRules(encoded_slash="keep", merge_slashes=False)
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~][A-Za-z0-9_.~\-]*)+/?|/")

_REGEX_OPTIONS = re2.Options()
_REGEX_OPTIONS.log_errors = False


def _plain(path: str) -> bytes:
    """A path as a request would carry it: what a target cannot hold as it is may be written plainly in a route."""
    return b"".join(b"%%%02X" % byte if byte >= 0x80 or byte == 0x20 else b"%c" % byte for byte in path.encode("utf-8"))


def _check_literal(path: str, rules: PathRules) -> None:
    """Refuse a literal path that no request can have."""
    if not path.startswith("/"):
        raise ValueError("must begin with / (or ~ for a regular expression, = for an exact path)")
    if _PLAIN_PATH.fullmatch(path):
        return
    try:
        canonical(_plain(path), rules)
    except PathError as error:
        raise ValueError(f"can never match: {error}") from None


def _check_captures(path: str) -> str:
    """Refuse what looks like a capture and is none; returns the path with something literal in their place."""
    names: set[str] = set()
    for segment in path.split("/"):
        if "{" not in segment and "}" not in segment:
            continue
        match = _CAPTURE.fullmatch(segment)
        if match is None:
            raise ValueError("{name} must be a whole segment, as in /orgs/{org}/lessons")
        if _CAPTURE_NAME.fullmatch(match[1]) is None:
            raise ValueError("{name} must hold a name of letters, digits and _")
        if match[1] in names:
            raise ValueError(f"captures {{{match[1]}}} twice")
        names.add(match[1])
    return _CAPTURE.sub("x", path)


def _check_expression(source: str) -> None:
    if not source:
        raise ValueError("holds no regular expression after ~")
    try:
        expression = re2.compile(source.encode("utf-8"), _REGEX_OPTIONS)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"is not a regular expression that RE2 takes: {said}") from None
    names = _GROUP_NAME.findall(source)
    twice = [name for name in expression.groupindex if names.count(name.decode()) > 1]
    if twice:
        raise ValueError(f"captures {twice[0].decode()} twice")


def _check_path(path: str, info: ValidationInfo) -> str:
    if path.startswith("~"):
        _check_expression(path[1:])
        return path
    rules = (info.context or {}).get("path_rules", _LENIENT)
    literal = path[1:].strip() if path.startswith("=") else path
    if literal is path and literal.endswith("*"):
        literal = literal[:-1]
        if literal.endswith(("}", "/.", "/..")) or re.search(r"%.?$", literal):
            raise ValueError("cannot be cut off there: write the last segment out, or a regular expression")
    if "*" in literal:
        raise ValueError("takes one * only, as its last character; write a regular expression (~…)")
    if "{" in literal or "}" in literal:
        literal = _check_captures(literal)
    _check_literal(literal, rules)
    return path


def _check_host(value: str) -> str:
    lower = value.lower()
    labels = lower.removeprefix("*.").split(".")
    if not _IP_LITERAL.fullmatch(lower) and (len(lower) > 253 or not all(_LABEL.fullmatch(label) for label in labels)):
        raise ValueError("must be a host name without a port, such as learn.example.org or *.example.org")
    return lower


def _check_headers(headers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    seen: set[str] = set()
    for name, values in headers.items():
        if name.lower() == "host":
            raise ValueError("names Host; write hosts: instead")
        if name.lower() in seen:
            raise ValueError(f"names {name} twice, in two spellings")
        seen.add(name.lower())
        for value in values:
            if value.startswith("~*"):
                raise ValueError(f"{name}: values are compared exactly, a regular expression cannot stand here")
            if value != value.strip() or not value.isprintable():
                raise ValueError(f"{name}: no request can carry such a value")
    return headers


def _canonical_or_empty(path: str) -> str:
    try:
        return canonical(path.encode("ascii"), _LENIENT)
    except PathError:
        return ""


def _check_url(value: str) -> str:
    wanted = "must be a URL such as http://127.0.0.1:9000, http://lms.internal/base or unix:///run/lms.sock"
    if re.search(r"[\x00-\x20\x7f-\U0010ffff\\]", value):
        raise ValueError(wanted)
    try:
        parts = urlsplit(value)
        port = parts.port
        host = parts.hostname
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme == "unix":
        if not value.startswith("unix:///") or len(value) <= len("unix:///") or "?" in value or "#" in value:
            raise ValueError("must name a socket by its absolute path, such as unix:///run/lms.sock")
        return value
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        raise ValueError(wanted)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password")
    if "?" in value or "#" in value:
        raise ValueError("must not hold a query or a fragment")
    if parts.path and _canonical_or_empty(parts.path) != parts.path:
        raise ValueError("must have a path in its canonical spelling: no dot segments, no needless escapes")
    return value


def _check_probe(value: str) -> str:
    if re.fullmatch(r"/[\x21\x22\x24-\x7e]*", value) is None:
        raise ValueError("must be a path such as /health: it begins with / and holds neither spaces nor #")
    return value


def _kind(url: str) -> tuple[bool, str]:
    """What all targets of a service have in common: whether they are reached by TLS, and their URLs' path."""
    parts = urlsplit(url)
    return parts.scheme == "https", "/" if parts.scheme == "unix" else parts.path or "/"


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


PathPattern = Annotated[
    str,
    AfterValidator(_check_path),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Path",
            "description": "/a/b (it and what lies below), = /a/b (exact), /a/b* (string prefix), "
            "~^/a/(?<id>\\d+)$ (regular expression, RE2), /orgs/{org}/lessons (captures segments).",
            "pattern": r"^(~|=\s*/|/)",
            "examples": ["/content/v1/read", "= /ping", "/api/v1*", "/orgs/{org}/lessons", r"~^/users/(?<id>\d+)$"],
        }
    ),
]
"""One of the five forms of a route's path."""

HostPattern = Annotated[
    str,
    AfterValidator(_check_host),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Host",
            "description": "An exact host name, or *.example.org for any below it.",
            "examples": ["learn.example.org", "*.example.org"],
        }
    ),
]
"""A host name in lower case, or a wildcard `*.…`."""

UpstreamUrl = Annotated[
    str,
    AfterValidator(_check_url),
    WithJsonSchema(
        {
            "type": "string",
            "title": "URL",
            "description": "Where the LMS listens: http[s]://HOST[:PORT][/PATH], or unix:///PATH.sock.",
            "pattern": "^(https?|unix)://",
            "examples": ["http://127.0.0.1:9000", "unix:///run/lms.sock"],
        }
    ),
]
"""An upstream's URL: `http`, `https` or `unix`, without user, query and fragment."""

Status = Annotated[int, Field(ge=100, le=599)]
"""An HTTP status."""

HeaderValues = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many, json_schema_input_type=str | tuple[str, ...]),
    Field(min_length=1),
]


class Route(Settings):
    """One way in: which requests it takes and which policies judge them."""

    name: Name = Field(description="The route's name, in metrics, logs and tests; no two routes share one.")
    hosts: tuple[HostPattern, ...] = Field(default=(), description="Host names that it takes; empty: any.")
    methods: tuple[HttpMethod, ...] = Field(default=(), description="Methods that it takes; empty: any.")
    paths: tuple[PathPattern, ...] = Field(
        default=(), description="Paths that it takes, in any of the forms; empty: any."
    )
    headers: Annotated[dict[HeaderName, HeaderValues], AfterValidator(_check_headers)] = Field(
        default={}, description="Request headers that must be there, each with one of the values that are listed."
    )
    strip_path: bool = Field(default=False, description="Forward without the part of the path that matched.")
    preserve_host: bool | None = Field(
        default=None, description="Forward the client's `Host`; left out: as the service says."
    )
    regex_priority: int = Field(
        default=0, ge=-1_000_000, le=1_000_000, description="Among matching regular expressions the higher wins."
    )
    policies: Policies = Field(default={}, description="Policies of this route; the innermost entry of a name holds.")


class Target(Settings):
    """One of several upstreams of a service."""

    url: UpstreamUrl = Field(
        description="Where it listens. A name stands for all its addresses, which share the target's weight; it is "
        "resolved again whenever the answer's lifetime ends."
    )
    weight: int = Field(default=1, ge=1, le=65535, description="Its share of the requests, beside the others'.")


class ActiveHealth(Settings):
    """Asking targets whether they are well: a `GET` on a connection of its own, one at a time for each address."""

    path: Annotated[str, AfterValidator(_check_probe)] = Field(
        default="/health",
        description="What is asked, as it stands: the path of the service's URL is not put before it.",
    )
    interval: Patience = Field(default=5.0, description="How often; the first time at a random moment within it.")
    timeout: Patience = Field(default=1.0, description="How long connecting and the answer may take together.")
    healthy: int = Field(default=2, ge=1, description="Good answers in a row until a target is used again.")
    unhealthy: int = Field(default=3, ge=1, description="Bad answers in a row until a target is left out.")
    expect: tuple[Status, ...] = Field(default=(), description="Statuses that are well; empty: any from 200 to 399.")


class PassiveHealth(Settings):
    """Watching what targets answer: a circuit breaker for each address.

    A connection that cannot be made or breaks, a timeout, a malformed response and the `statuses` are failures. After
    the cooldown one request at a time is let through; when one succeeds the target is used again.
    """

    failures: int = Field(default=5, ge=1, description="Failures in a row until a target is left out.")
    cooldown: Patience = Field(default=10.0, description="How long it is left out.")
    statuses: tuple[Status, ...] = Field(default=(502, 503, 504), description="Statuses that are failures.")


class Health(Settings):
    """How a service's targets are watched. While all of them are left out, requests are answered 503 at once."""

    active: ActiveHealth | None = Field(default=None, description="Ask them.")
    passive: PassiveHealth | None = Field(default=None, description="Watch their answers.")
    slow_start: Duration = Field(
        default=0.0,
        description="How long a target that is new, or used again, takes to get its full share, beginning at a tenth.",
    )


class WebSockets(Settings):
    """How long a WebSocket may live."""

    idle_timeout: Duration = Field(default=3600.0, description="How long it may be silent, both ways; `0s`: for ever.")
    total_timeout: Duration = Field(default=0.0, description="How long it may last in all; `0s`: for ever.")


class Service(Settings):
    """One LMS (or one part of it) behind the gateway."""

    name: Name = Field(description="The service's name; no two services share one.")
    url: UpstreamUrl | None = Field(default=None, description="Where it listens. Either this or `targets`.")
    targets: tuple[Target, ...] = Field(default=(), description="Where it listens, when there are several.")
    balance: Literal["round-robin", "least-connections", "consumer-hash"] = Field(
        default="round-robin",
        description="How requests are shared among targets: in turn, to the one with the fewest requests for its "
        "weight, or by who asks, the same consumer (else credential, else client address) to the same target as long "
        "as that has no more than 1.25 times its share of the requests in flight.",
    )
    connect_timeout: Patience = Field(default=5.0, description="How long connecting may take.")
    read_timeout: Patience = Field(default=60.0, description="How long the upstream may be silent.")
    first_byte_timeout: Duration = Field(
        default=0.0, description="How long it may take to begin its answer; `0s`: as `read_timeout` says."
    )
    write_timeout: Patience = Field(default=60.0, description="How long the upstream may take in nothing.")
    total_timeout: Duration = Field(
        default=0.0, description="How long a request and its answer may take in all; `0s`: as long as they go on."
    )
    max_connections: int = Field(
        default=0,
        ge=0,
        description="The most connections to each address at a time, WebSockets included; further requests wait their "
        "turn, for `overload.max_wait` at the most; 0: any number. Workers divide them, and each has at least one.",
    )
    retries: int = Field(
        default=1,
        ge=0,
        le=10,
        description="How often a request is tried again: on another target where no connection could be made, or where "
        "one broke before it answered and the request is idempotent and can be sent again. Never more than a fifth of "
        "the service's requests.",
    )
    preserve_host: bool = Field(
        default=False, description="Forward the client's `Host` in place of the upstream's own."
    )
    tls_verify: bool = Field(default=True, description="Verify an https upstream's certificate.")
    websockets: WebSockets = Field(default=WebSockets(), description="How long WebSockets may live.")
    tls: UpstreamTls | None = Field(default=None, description="How https upstreams are spoken to.")
    health: Health | None = Field(default=None, description="How targets are watched.")
    policies: Policies = Field(default={}, description="Policies of every route of this service.")
    routes: tuple[Route, ...] = Field(default=(), description="The ways in.")

    @model_validator(mode="after")
    def _one_address(self) -> Service:
        if (self.url is None) == (not self.targets):
            raise ValueError("must have either url or targets")
        urls = [url for url, _ in self.upstreams]
        for url in urls[1:]:
            if urls.count(url) > 1:
                raise ValueError(f"names the target {url} twice; give it a weight instead")
            if _kind(url)[0] != _kind(urls[0])[0]:
                raise ValueError("must have targets that are all https, or none of them")
            if _kind(url)[1] != _kind(urls[0])[1]:
                raise ValueError(f"must have targets of one path: {urls[0]} and {url} differ")
        if self.tls is not None and not urls[0].startswith("https:"):
            raise ValueError("must have https URLs, where there is tls")
        return self

    @property
    def address(self) -> str:
        """The upstream's URL, the first where there are several."""
        return self.upstreams[0][0]

    @property
    def upstreams(self) -> tuple[tuple[str, int], ...]:
        """`(URL, weight)` of every target."""
        if self.url is not None:
            return ((self.url, 1),)
        return tuple((target.url, target.weight) for target in self.targets)


_REQUEST = re.compile(r"(?P<method>[A-Z][A-Z0-9_\-]{0,31}) (?P<target>(?:/|https?://)[\x21-\x7e]*)")


def _check_request(value: str) -> str:
    if _REQUEST.fullmatch(value) is None:
        raise ValueError("must be METHOD /path, such as GET /content/v1/read/do_1")
    return value


class Expectation(Settings):
    """What a test expects."""

    status: int = Field(ge=100, le=599, description="The status that the client would see; 200 stands for the LMS's.")
    route: RouteName | None = Field(default=None, description="The route that matches.")


class RequestTest(Settings):
    """One sentence about access, which `postern check` proves without sending anything."""

    request: Annotated[str, AfterValidator(_check_request)] = Field(
        description="METHOD and path or URL, such as `GET /content/v1/read/do_1`."
    )
    as_: Annotated[str, AfterValidator(declared("consumer", frozenset({"anonymous"})))] = Field(
        default="anonymous", alias="as", description="The consumer who asks, or `anonymous`: no credential."
    )
    expect: Expectation = Field(description="What must come out.")

    @property
    def method(self) -> str:
        """The request's method."""
        return self.request.partition(" ")[0]

    @property
    def target(self) -> str:
        """The request's path or URL."""
        return self.request.partition(" ")[2]
