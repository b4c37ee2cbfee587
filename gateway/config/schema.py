"""The JSON Schema (2020-12) of `config.yaml`, for editors and for the documentation.

Generated from the models and from the `Config` of every policy that is registered; defaults are shown as the
file would write them.  `${…}` may stand wherever a value may, so the schema takes it there too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gateway.config.model import Config
from gateway.config.policies import SCHEMA_TITLE, adapter
from gateway.core.policy import Policy

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_HOISTED = ("title", "description", "default", "examples")


class _Generator(GenerateJsonSchema):
    """pydantic's generator, less the titles that it makes up, with defaults as text."""

    schema_dialect = DIALECT

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        generated = super().model_schema(schema)
        model = schema["cls"]
        if "properties" not in generated:
            return generated
        defaults = _defaults(model)
        for name, described in generated["properties"].items():
            if "default" in described:
                described["default"] = defaults.get(name)
                if described["default"] is None:
                    del described["default"]
        return generated


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """A model's defaults as the file would write them; no validator of the model runs."""
    values = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    instance = model.__new__(model)
    state = {"__dict__": values, "__pydantic_fields_set__": set(values), "__pydantic_extra__": None}
    for name, value in {**state, "__pydantic_private__": None}.items():
        object.__setattr__(instance, name, value)
    with warnings.catch_warnings():
        # Required fields are missing in what is dumped here.
        warnings.simplefilter("ignore")
        return instance.model_dump(mode="json", by_alias=True)


def policy_schema(name: str, policy: type[Policy]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(schema, definitions)` of one policy's settings; the definitions' names begin with the policy's."""
    template = f"#/$defs/{name}.{{model}}"
    schema = adapter(policy).json_schema(ref_template=template, schema_generator=_Generator)
    definitions = {f"{name}.{model}": body for model, body in schema.pop("$defs", {}).items()}
    schema.pop("$schema", None)
    schema.pop("title", None)
    return schema, definitions


def plain_schema(policies: Mapping[str, type[Policy]]) -> dict[str, Any]:
    """The schema as the documentation reads it: without `${…}`."""
    schema: dict[str, Any] = _with_policies(Config.model_json_schema(schema_generator=_Generator))
    definitions = schema.setdefault("$defs", {})
    properties: dict[str, Any] = {}
    for name in policies:
        policy = policies[name]
        settings, more = policy_schema(name, policy)
        definitions.update(more)
        choices: list[Any] = [settings]
        if policy.bare:
            choices.append({"enum": list(policy.bare)})
        choices.append({"enum": ["off", False], "description": "Ends what outer levels said."})
        properties[name] = {"anyOf": choices, "description": summary(policy)}
    definitions["policies"] = {
        "type": "object",
        "description": "Policies by name; the innermost entry of a name holds, `off` removes it.",
        "properties": properties,
        "additionalProperties": False,
    }
    return schema


def _with_policies(node: Any) -> Any:
    """The schema with a reference wherever policies stand."""
    if isinstance(node, list):
        return [_with_policies(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("title") == SCHEMA_TITLE:
        return {"$ref": "#/$defs/policies", **{key: node[key] for key in ("description", "default") if key in node}}
    return {key: _with_policies(value) for key, value in node.items()}


def summary(policy: type[Policy]) -> str:
    """The first line of a policy's docstring."""
    return (policy.__doc__ or policy.name).strip().splitlines()[0]


def config_schema(policies: Mapping[str, type[Policy]]) -> dict[str, Any]:
    """The JSON Schema of the whole file with these policies, ready to be printed."""
    schema: dict[str, Any] = _with_interpolation(plain_schema(policies))
    schema["$defs"]["interpolated"] = {
        "type": "string",
        "description": "Filled in from the environment or from a file.",
        "pattern": r"\$\{[^{}]*\}",
    }
    return {"$schema": DIALECT, **schema, "title": "Postern configuration"}


def _is_narrow_scalar(node: dict[str, Any]) -> bool:
    """True where a text with `${…}` would not pass for a value."""
    kinds = node.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds or []
    narrowing = {"pattern", "enum", "const", "format", "maxLength"}
    if not kinds:
        return "enum" in node or "const" in node
    if {"integer", "number", "boolean"} & set(kinds):
        return True
    return "string" in kinds and bool(narrowing & node.keys())


def _with_interpolation(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_interpolation(item) for item in node]
    if not isinstance(node, dict):
        return node
    if _is_narrow_scalar(node):
        narrow = {key: value for key, value in node.items() if key not in _HOISTED}
        hoisted = {key: value for key, value in node.items() if key in _HOISTED}
        return {**hoisted, "anyOf": [narrow, {"$ref": "#/$defs/interpolated"}]}
    kept = {"propertyNames", "default", "examples", "enum", "const", "required"}
    return {
        key: (
            value
            if key in kept
            else {name: _with_interpolation(item) for name, item in value.items()}
            if key in {"properties", "patternProperties", "$defs"}
            else _with_interpolation(value)
        )
        for key, value in node.items()
    }
