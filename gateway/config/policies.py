"""`policies:` at the three levels: names looked up in the registry, settings validated with each policy's `Config`.

Law 6: no policy is known here by name.  What the file says becomes instances of the `Config`, or `OFF`;
`effective` says which of them hold on a route.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Final

from pydantic import PlainValidator, TypeAdapter, ValidationError, ValidationInfo, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.config.problems import did_you_mean, listed
from gateway.core.errors import PosternError
from gateway.core.policy import Entry, Policy


class _Off(Enum):
    OFF = "off"

    def __repr__(self) -> str:
        return "OFF"


#: What stands in place of a policy's settings where the file says `NAME: off`.
OFF: Final = _Off.OFF

#: The title by which `gateway.config.schema` finds the places for the registered policies.
SCHEMA_TITLE = "Policies by name"


def is_off(value: Any) -> bool:
    """True for the ways to write `off`: the word, or YAML's `false`."""
    return value is False or (isinstance(value, str) and value == "off")


@lru_cache(maxsize=256)
def adapter(policy: type[Policy]) -> TypeAdapter[Any]:
    """What validates a policy's `Config`, which may be a model or any other type that pydantic knows."""
    return TypeAdapter(policy.Config)


def _validate_one(name: str, value: Any, policies: Mapping[str, type[Policy]], context: Any) -> Any:
    """The settings of one policy; raises ValidationError or PydanticCustomError."""
    if name not in policies:
        hint = did_you_mean(name, policies)
        raise PydanticCustomError("unknown_policy", "unknown policy{hint}", {"hint": hint})
    try:
        policy = policies[name]
    except PosternError as error:
        raise PydanticCustomError("broken_policy", "{text}", {"text": str(error)}) from None
    if is_off(value):
        return OFF
    if isinstance(value, str) and policy.bare:
        if value not in policy.bare:
            words = [*policy.bare, "off"]
            text = f"must be {listed(['a mapping of settings', *words])}{did_you_mean(value, words)}"
            raise PydanticCustomError("bare", "{text}", {"text": text})
        value = policy.bare[value]
    if value is None:
        text = "is empty; write {} for the policy's defaults, or off"
        raise PydanticCustomError("empty", "{text}", {"text": text})
    try:
        return adapter(policy).validate_python(value, context=context)
    except (ValidationError, PydanticCustomError):
        raise
    except Exception as error:  # a third party's validator may raise anything
        text = f"the policy {name} cannot judge its settings: {type(error).__name__}"
        raise PydanticCustomError("broken_policy", "{text}", {"text": text}) from error


def _nested(name: str, error: ValidationError, value: Any) -> Iterator[InitErrorDetails]:
    for item in error.errors(include_url=False, include_input=False):
        facts = {**item.get("ctx", {}), "text": item["msg"]}
        facts.pop("error", None)
        kind = PydanticCustomError(item["type"], "{text}", facts)
        yield InitErrorDetails(type=kind, loc=(name, *item["loc"]), input=value)


def _validate(value: Any, info: ValidationInfo) -> dict[str, Any]:
    context = info.context or {}
    policies: Mapping[str, type[Policy]] = context.get("policies", {})
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "must be a mapping", {})
    settings: dict[str, Any] = {}
    errors: list[InitErrorDetails] = []
    for name, raw in value.items():
        try:
            settings[name] = _validate_one(name, raw, policies, context)
        except ValidationError as error:
            errors += _nested(name, error, raw)
        except PydanticCustomError as error:
            errors.append(InitErrorDetails(type=error, loc=(name,), input=raw))
    if errors:
        raise ValidationError.from_exception_data("policies", errors)
    return settings


Policies = Annotated[
    dict[str, Any],
    PlainValidator(_validate),
    WithJsonSchema({"type": "object", "title": SCHEMA_TITLE}),
]
"""A mapping of policy name to an instance of the policy's `Config`, or to `OFF`.

Validation takes the registry from the context: `{"policies": {...}}`.
"""


def effective(levels: list[tuple[str, str, Mapping[str, Any]]]) -> dict[str, tuple[Entry, ...]]:
    """The entries that hold on a route, by policy name, each outermost first.

    Takes `(level, scope, policies)` from the outermost in, as `Config.levels` gives them.  `off` removes what
    the levels outside it said; an entry further in starts anew.
    """
    holding: dict[str, tuple[Entry, ...]] = {}
    for level, scope, policies in levels:
        for name, config in policies.items():
            if config is OFF:
                holding.pop(name, None)
            else:
                holding[name] = (*holding.get(name, ()), Entry(config, level, scope))
    return holding
