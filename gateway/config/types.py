"""The types that settings are made of: pydantic's hooks over `gateway.core.units`, and the base of every model.

Policies import this module beside `gateway.core`, and nothing else of ours.  A type takes what YAML gives
(text, whole numbers), hands out the parsed value, and knows its own JSON Schema, from which editors and
`docs/CONFIGURATION.md` learn it.  Every check raises ValueError with a text that an operator can act on.

    class Config(Settings):
        \"\"\"Keep answers for a while.\"\"\"

        ttl: Duration = Field(default=60.0, description="How long an answer is kept.")
        methods: tuple[HttpMethod, ...] = Field(default=("GET",), description="Methods whose answers are kept.")

Defaults are written as parsed values (`60.0`, `65536`, `parse_rate("20/minute")`); documents show them as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema

from gateway.config.problems import did_you_mean
from gateway.core import units
from gateway.core.units import Rate

__all__ = [
    "ConsumerName",
    "Duration",
    "Group",
    "HeaderName",
    "HttpMethod",
    "Name",
    "Network",
    "OrganizationName",
    "Patience",
    "RateText",
    "Room",
    "RouteName",
    "Scope",
    "Secret",
    "Settings",
    "Size",
    "declared",
    "did_you_mean",
    "format_duration",
    "format_size",
]

_COLLECTIONS = frozenset({"tuple", "set", "frozenset"})


def _take_yaml_lists(schema: Any) -> None:
    """Let tuples and sets be read from the lists of YAML, though the model is strict otherwise."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if node.get("type") in _COLLECTIONS:
                node.setdefault("strict", False)
            pending.extend(node.values())
        elif isinstance(node, list | tuple):
            pending.extend(node)


class Settings(BaseModel):
    """The base of every group of settings, a policy's `Config` included.

    Strict (text is not a number, a number is not text), frozen, and an unknown key is an error.  Lists of the
    file become tuples or frozensets where the field says so; choices are a `Literal`.  A field's description is
    the `description` of its `Field`, or the docstring below it.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _take_yaml_lists(schema)
        return schema


# ── units ───────────────────────────────────────────────────────────────────────────────────────


def _shortest(value: float, scale: list[tuple[str, float]]) -> str:
    for suffix, size in scale:
        if value >= size and (value / size).is_integer():
            return f"{int(value / size)}{suffix}"
    return ""


def format_duration(seconds: float) -> str:
    """Seconds as the file writes them: `5s`, `10m`, `90d`, `250ms`."""
    if seconds == 0:
        return "0s"
    scale = [("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
    return _shortest(seconds, scale) or f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def format_size(size: int) -> str:
    """Bytes as the file writes them: `64KiB`, `10MB`, `4096`."""
    for factor, names in ((1024, ("GiB", "MiB", "KiB")), (1000, ("GB", "MB", "KB"))):
        for power, name in zip((3, 2, 1), names, strict=True):
            if size and size % factor**power == 0:
                return f"{size // factor**power}{name}"
    return str(size)


def _duration(value: Any) -> float:
    if isinstance(value, str):
        return units.parse_duration(value)
    if value == 0 and not isinstance(value, bool):
        return 0.0
    raise ValueError("must be a duration with its unit, such as 500ms, 5s, 10m, 1h or 90d")


def _size(value: Any) -> int:
    if isinstance(value, str):
        return units.parse_size(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("must be a size such as 64KiB, 1MB or 4096")


def _rate(value: Any) -> Rate:
    if isinstance(value, Rate):
        return value
    if isinstance(value, str):
        return units.parse_rate(value)
    raise ValueError("must be a rate such as 600/minute, 5000/hour or 20/30s")


def _network(value: Any) -> units.Network:
    if isinstance(value, str):
        return units.parse_network(value)
    raise ValueError("must be an address or a CIDR network, such as 10.0.0.0/8 or 2001:db8::/32")


Duration = Annotated[
    float,
    PlainValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Duration",
            "description": "A duration: 500ms, 5s, 10m, 1h, 90d.",
            "pattern": r"^(0|\d+(\.\d+)?\s*(ms|s|m|h|d))$",
            "examples": ["500ms", "5s", "1h", "90d"],
        }
    ),
]
"""Seconds, written with a unit (`5s`)."""


def _more_than_nothing(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


Patience = Annotated[Duration, AfterValidator(_more_than_nothing)]
"""Seconds, written with a unit, and more than none: what nobody is given time for can never succeed."""

Size = Annotated[
    int,
    PlainValidator(_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "type": ["string", "integer"],
            "title": "Size",
            "description": "A size in bytes: 4096, 64KiB, 1MB.",
            "pattern": r"^\d+(\.\d+)?\s*([KMGTkmgt][iI]?)?[Bb]?$",
            "minimum": 0,
            "examples": ["64KiB", "1MB", 4096],
        }
    ),
]
"""Bytes, written with or without a unit (`64KiB`)."""

Room = Annotated[Size, AfterValidator(_more_than_nothing)]
"""Bytes, and more than none: where there is room for nothing, nothing can ever be right."""

RateText = Annotated[
    Rate,
    PlainValidator(_rate),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Rate",
            "description": "At most so many in a window: 600/minute, 5000/hour, 10/second, 1000/day, 20/30s.",
            "pattern": r"^\d+\s*/\s*(second|minute|hour|day|\d+\s*[smhd])$",
            "examples": ["600/minute", "5000/hour", "20/30s"],
        }
    ),
]
"""A `Rate`, written `600/minute`."""

Network = Annotated[
    units.Network,
    PlainValidator(_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Network",
            "description": "An address or a CIDR network.",
            "examples": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"],
        }
    ),
]
"""An IPv4 or IPv6 network, written `10.0.0.0/8`; a single address is a network of one."""


# ── names ───────────────────────────────────────────────────────────────────────────────────────


def _matching(pattern: str, wanted: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(wanted)
        return value

    return check


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.~@+:\-]{0,127}"
_FIELD_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,128}"
_METHOD = r"[A-Z][A-Z0-9_\-]{0,31}"
_SCOPE = r"[!#-\[\]-~]{1,128}"


def _method(value: str) -> str:
    if value.upper() in {"TRACE", "CONNECT"}:
        raise ValueError(f"the gateway refuses {value.upper()} everywhere (405)")
    if re.fullmatch(_METHOD, value) is None:
        raise ValueError("must be an HTTP method in capitals, such as GET or POST")
    return value


_WELL_NAMED = AfterValidator(
    _matching(_NAME, "must be a name of 1 to 128 letters, digits and _ . ~ @ + : -, starting with no punctuation")
)

Name = Annotated[
    str,
    _WELL_NAMED,
    WithJsonSchema(
        {
            "type": "string",
            "title": "Name",
            "description": "A name: 1 to 128 letters, digits and _ . ~ @ + : -",
            "pattern": f"^{_NAME}$",
            "examples": ["lms", "mobile_app"],
        }
    ),
]
"""The name of a service, route, consumer, organization or rule."""

Group = Annotated[
    str,
    AfterValidator(
        _matching(_NAME, "must be a group of 1 to 128 letters, digits and _ . ~ @ + : -, starting with no punctuation")
    ),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Group",
            "description": "An ACL group: 1 to 128 letters, digits and _ . ~ @ + : -",
            "pattern": f"^{_NAME}$",
            "examples": ["contentUser", "contentAdmin"],
        }
    ),
]
"""An ACL group; it need not be declared anywhere."""

Scope = Annotated[
    str,
    AfterValidator(_matching(_SCOPE, "must be a scope of printable ASCII without spaces, quotes and backslashes")),
    WithJsonSchema({"type": "string", "title": "Scope", "pattern": f"^{_SCOPE}$", "examples": ["courses:read"]}),
]
"""A scope (RFC 6749 §3.3): what a key or a token may be used for; it need not be declared anywhere."""

HttpMethod = Annotated[
    str,
    AfterValidator(_method),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Method",
            "description": "An HTTP method in capitals; TRACE and CONNECT are refused everywhere.",
            "pattern": f"^{_METHOD}$",
            "examples": ["GET", "POST"],
        }
    ),
]
"""An HTTP method, in capitals."""

HeaderName = Annotated[
    str,
    AfterValidator(_matching(_FIELD_NAME, "must be the name of a header, such as X-Request-ID")),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Header name",
            "description": "The name of a header (an RFC 9110 token); case makes no difference.",
            "pattern": f"^{_FIELD_NAME}$",
            "examples": ["X-Request-ID"],
        }
    ),
]
"""The name of a header, as written; case makes no difference."""


Secret = Annotated[SecretStr, WithJsonSchema({"type": "string", "title": "Secret"})]
"""Text that no repr, dump or report shows: `get_secret_value()` is the text."""


# ── references ──────────────────────────────────────────────────────────────────────────────────


def declared(kind: str, also: frozenset[str] = frozenset()) -> Callable[[str, ValidationInfo], str]:
    """A check that something of this kind and name is declared in the file, where the loader says what is.

    `also` are further words that may stand there.
    """

    def check(value: str, info: ValidationInfo) -> str:
        names = (info.context or {}).get("names", {}).get(kind)
        if names is not None and value not in names and value not in also:
            raise ValueError(f"no {kind} is called {value!r}{did_you_mean(value, names | also)}")
        return value

    return check


def _reference_schema(kind: str, article: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "string",
            "title": f"{kind} name",
            "description": f"The name of {article} {kind} of this file.",
            "pattern": f"^{_NAME}$",
        }
    )


ConsumerName = Annotated[str, _WELL_NAMED, AfterValidator(declared("consumer")), _reference_schema("consumer", "a")]
"""The username of a consumer that the file declares; another one is an error."""

OrganizationName = Annotated[
    str, _WELL_NAMED, AfterValidator(declared("organization")), _reference_schema("organization", "an")
]
"""The name of an organization that the file declares; another one is an error."""

RouteName = Annotated[str, _WELL_NAMED, AfterValidator(declared("route")), _reference_schema("route", "a")]
"""The name of a route that the file declares; another one is an error."""
