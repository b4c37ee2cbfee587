"""`request-transformer`: other headers and query parameters for the upstream than the client sent.

What may be written is settled when the file is loaded: nothing that the gateway says itself, nothing that would
end a line, nothing that a read-only key could turn into another method.  What happens to a request stands in
`_request_transform.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.config.types import HeaderName, Settings
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision
from gateway.core.http import Kind, classify, fold
from gateway.core.policy import Environment, Phase, Policy
from policies._request_transform import ADD, APPEND, REMOVE, RENAME, REPLACE, HeaderSteps, QuerySteps, Step

Pairs = tuple[tuple[str, str], ...]
Check = Callable[[str], str]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,128}")
_ON_A_LINE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
#: What PHP makes of a parameter's name.
_PHP_NAME = str.maketrans(" .", "__")

_FAULTS = {
    Kind.IDENTITY: "{} is a header that the gateway alone writes (or another spelling of one)",
    Kind.OWN: "{} is a header that the gateway alone writes",
    Kind.HOP: "{} is a header that ends at each hop, and is never forwarded",
    Kind.TRUSTED: "{} is a header that is believed from trusted proxies only",
}


# ── headers ─────────────────────────────────────────────────────────────────────────────────────


def _removable(name: str) -> str:
    kind = classify(name.encode("ascii"))
    if kind in _FAULTS and kind is not Kind.TRUSTED:
        raise ValueError(_FAULTS[kind].format(name))
    return name


def _header(name: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError("must be the name of a header, such as X-School")
    kind = classify(name.encode("ascii"))
    if kind in _FAULTS:
        raise ValueError(_FAULTS[kind].format(name))
    return name


def _header_value(value: str) -> str:
    value = value.strip(" \t")
    if _ON_A_LINE.fullmatch(value) is None:
        raise ValueError("must fit on one line, in Latin letters")
    return _literal(value)


def _literal(value: str) -> str:
    if "$(" in value:
        raise ValueError("holds a template, $(…), which is not filled in here: values are literal")
    return value


# ── parameters ──────────────────────────────────────────────────────────────────────────────────


def _parameter(name: str) -> str:
    if not name or _CONTROL.search(name):
        raise ValueError("must be the name of a query parameter")
    return name


def _writable_parameter(name: str) -> str:
    _parameter(name)
    if name.lstrip(" ").partition("[")[0].translate(_PHP_NAME).lower() == "_method":
        raise ValueError("may turn a request into one of another method, which no policy would judge")
    return name


def _parameter_value(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not hold control characters")
    return _literal(value)


# ── the two ways to write pairs ─────────────────────────────────────────────────────────────────


def _pairs(
    check_name: Check, check_value: Check, key: Callable[[str], object], wanted: str, repeat: bool = False
) -> Any:
    """A validator of `{NAME: VALUE}`, or of Kong's `["NAME:VALUE"]`; without `repeat` each name stands once."""

    def read(value: Any) -> Pairs:
        pairs: list[tuple[str, str]] = []
        errors: list[InitErrorDetails] = []
        seen: set[object] = set()
        for place, name, text in _entries(value, wanted):
            try:
                if name is None or not isinstance(text, str):
                    raise ValueError("must be text: put it in quotes" if name is not None else f"must be {wanted}")
                pair = (check_name(name), check_value(text))
                if not repeat and key(name) in seen:
                    raise ValueError(f"names {name} twice")
                seen.add(key(name))
                pairs.append(pair)
            except ValueError as error:
                fault = PydanticCustomError("value_error", "{text}", {"text": str(error)})
                errors.append(InitErrorDetails(type=fault, loc=(place,), input=None))
        if errors:
            raise ValidationError.from_exception_data("pairs", errors)
        return tuple(pairs)

    return read


def _entries(value: Any, wanted: str) -> list[tuple[str | int, str | None, Any]]:
    """`(place, name, text)` of each pair; the name is None for an item that is none."""
    if isinstance(value, dict):
        return [(str(name), str(name), text) for name, text in value.items()]
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("pairs", "{text}", {"text": f"must be a mapping, or a list of {wanted}"})
    entries: list[tuple[str | int, str | None, Any]] = []
    for number, item in enumerate(value):
        name, colon, text = item.partition(":") if isinstance(item, str) else ("", "", "")
        entries.append((number, name.strip() if colon else None, text))
    return entries


def _schema(wanted: str, example: str) -> WithJsonSchema:
    values = {"type": "string"}
    return WithJsonSchema(
        {
            "title": f"mapping, or list of {wanted}",
            "anyOf": [{"type": "object", "additionalProperties": values}, {"type": "array", "items": values}],
            "examples": [dict([example.split(":")]), [example]],
        }
    )


def _folded(name: str) -> bytes:
    return fold(name.encode("ascii"))


def _unique_headers(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[bytes] = set()
    for name in names:
        if _folded(name) in seen:
            raise ValueError(f"holds {name} twice")
        seen.add(_folded(name))
    return names


def _written(pairs: Pairs) -> list[str]:
    return [f"{name}:{text}" for name, text in pairs]


_RENAME, _VALUE = "OLD:NEW", "NAME:VALUE"
_AS_TEXT = PlainSerializer(_written, return_type=list[str])

Removed = Annotated[HeaderName, AfterValidator(_removable)]
Parameter = Annotated[str, AfterValidator(_parameter)]
HeaderNames = Annotated[
    Pairs, PlainValidator(_pairs(_header, _header, _folded, _RENAME)), _AS_TEXT, _schema(_RENAME, "X-A:X-B")
]
QueryNames = Annotated[
    Pairs, PlainValidator(_pairs(_parameter, _writable_parameter, str, _RENAME)), _AS_TEXT, _schema(_RENAME, "a:b")
]
HeaderValues = Annotated[
    Pairs,
    PlainValidator(_pairs(_header, _header_value, _folded, _VALUE)),
    _AS_TEXT,
    _schema(_VALUE, "X-School:springfield"),
]
QueryValues = Annotated[
    Pairs,
    PlainValidator(_pairs(_writable_parameter, _parameter_value, str, _VALUE)),
    _AS_TEXT,
    _schema(_VALUE, "lang:en"),
]
MoreHeaders = Annotated[
    Pairs,
    PlainValidator(_pairs(_header, _header_value, _folded, _VALUE, repeat=True)),
    _AS_TEXT,
    _schema(_VALUE, "X-School:springfield"),
]
MoreQuery = Annotated[
    Pairs,
    PlainValidator(_pairs(_writable_parameter, _parameter_value, str, _VALUE, repeat=True)),
    _AS_TEXT,
    _schema(_VALUE, "lang:en"),
]

_KONGS = "Kong's word for `query`."


class _Sides(Settings):
    """What happens to the headers, and what to the query."""

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if "query" in self.model_fields_set and "querystring" in self.model_fields_set:
            raise ValueError("query and querystring are the same: write one of them")
        return self


class Removals(_Sides):
    """What does not go on to the upstream."""

    headers: Annotated[tuple[Removed, ...], AfterValidator(_unique_headers)] = Field(
        default=(), description="Their names."
    )
    query: tuple[Parameter, ...] = Field(default=(), description="Names of parameters.")
    querystring: tuple[Parameter, ...] = Field(default=(), description=_KONGS)


class Renames(_Sides):
    """What goes on under another name, in place of whatever had that name; only where the old one is there."""

    headers: HeaderNames = Field(default=(), description="Old names and new ones.")
    query: QueryNames = Field(default=(), description="Old names and new ones, of parameters.")
    querystring: QueryNames = Field(default=(), description=_KONGS)


class Replacements(_Sides):
    """What gets another value; only where the name is there."""

    headers: HeaderValues = Field(default=(), repr=False, description="Names and their new values.")
    query: QueryValues = Field(default=(), repr=False, description="Names and new values of parameters.")
    querystring: QueryValues = Field(default=(), repr=False, description=_KONGS)


class Additions(_Sides):
    """What is put in; only where the name is not there."""

    headers: HeaderValues = Field(default=(), repr=False, description="Names and values.")
    query: QueryValues = Field(default=(), repr=False, description="Names and values of parameters.")
    querystring: QueryValues = Field(default=(), repr=False, description=_KONGS)


class Appendages(_Sides):
    """What is put in beside whatever is there; a name may stand twice in the list."""

    headers: MoreHeaders = Field(default=(), repr=False, description="Names and values.")
    query: MoreQuery = Field(default=(), repr=False, description="Names and values of parameters.")
    querystring: MoreQuery = Field(default=(), repr=False, description=_KONGS)


class RequestTransformer(Policy):
    """Change the headers and the query parameters that the upstream gets.

    The keys are Kong's, and so is what they do.  The steps happen in the order remove, rename, replace, add, append,
    each on what the one before it left, and within a step in the order of the file.  Names and values are written as a
    mapping (`{X-School: springfield}`) or as Kong does (`["X-School:springfield"]`).  Values are literal: Kong's
    templates, `$(…)`, are refused.  Bodies, the method and the path are not changed.

    Header names are compared as the loosest server would read them: case makes no difference, nor does `_` for `-`, so
    that `X_School` is removed, replaced or renamed with `X-School`.  All lines of a repeated header are meant.
    A header or parameter that another policy keeps from the upstream (a key that `auth` hides) is not there for any
    step: renaming it moves nothing, and adding it, `Authorization` for example, puts in the LMS's own.  What the
    gateway itself writes (`Host`, `X-Consumer-*`, `X-Forwarded-*`, `X-Request-ID`, framing) and what ends at each hop
    cannot be named.

    Parameter names are compared decoded (`%61` and `a` are one) and exactly; parameters that no step names go on byte
    for byte and in their order, and where none is left the `?` goes too.  Only `&` separates parameters.
    The policies before this one (`organization` among them) have judged the request as the client sent it.
    """

    name = "request-transformer"
    phase = Phase.REQUEST_TRANSFORMER

    class Config(Settings):
        """At least one step."""

        remove: Removals = Field(default=Removals(), description="Drop headers and parameters.")
        rename: Renames = Field(default=Renames(), description="Give them other names.")
        replace: Replacements = Field(default=Replacements(), description="Give those that are there another value.")
        add: Additions = Field(default=Additions(), description="Put in those that are not there.")
        append: Appendages = Field(default=Appendages(), description="Put in one more, whether or not there are any.")

        @model_validator(mode="after")
        def _does_something(self) -> Self:
            if not _header_steps(self) and not _query_steps(self):
                raise ValueError("must remove, rename, replace, add or append something")
            return self

    def __init__(self, config: Config, environment: Environment) -> None:
        headers, query = _header_steps(config), _query_steps(config)
        self._headers = HeaderSteps(headers) if headers else None
        self._query = QuerySteps(query) if query else None

    def check(self, context: Context) -> Decision:
        """`ALLOW`, always; what the upstream gets is left in the context."""
        if self._headers is not None:
            self._headers.apply(context)
        if self._query is not None:
            self._query.apply(context)
        return ALLOW


def _header_steps(config: RequestTransformer.Config) -> list[Step]:
    return [
        *((REMOVE, name, "") for name in config.remove.headers),
        *((RENAME, old, new) for old, new in config.rename.headers),
        *((REPLACE, name, value) for name, value in config.replace.headers),
        *((ADD, name, value) for name, value in config.add.headers),
        *((APPEND, name, value) for name, value in config.append.headers),
    ]


def _query_steps(config: RequestTransformer.Config) -> list[Step]:
    remove, rename, replace, add, append = config.remove, config.rename, config.replace, config.add, config.append
    return [
        *((REMOVE, name, "") for name in remove.query or remove.querystring),
        *((RENAME, old, new) for old, new in rename.query or rename.querystring),
        *((REPLACE, name, value) for name, value in replace.query or replace.querystring),
        *((ADD, name, value) for name, value in add.query or add.querystring),
        *((APPEND, name, value) for name, value in append.query or append.querystring),
    ]
