"""`docs/CONFIGURATION.md`, generated: `python -m gateway.config.docs > docs/CONFIGURATION.md`.

Every setting comes from its model by way of the JSON Schema, every policy from its docstring and `Config`; what
no model can say (paths, units, filling in) stands in `docs_text.py`.  A test fails when the file is stale.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config import docs_text
from gateway.config.availability import GATES
from gateway.config.schema import plain_schema
from gateway.core.policy import Policy
from gateway.registry import policies

Schema = dict[str, Any]

#: How the schema's kinds read in the column "Type".
_KINDS = {"string": "text", "integer": "number", "number": "number", "boolean": "true or false", "null": ""}


def _definition(node: Schema, definitions: Mapping[str, Schema]) -> tuple[str, Schema] | None:
    """The name and body of what a node refers to, itself or as one of its choices."""
    reference = node.get("$ref", "")
    if reference:
        name = reference.rpartition("/")[2]
        return name, definitions[name]
    for choice in [node.get("items"), node.get("additionalProperties"), *node.get("anyOf", [])]:
        found = _definition(choice, definitions) if isinstance(choice, dict) else None
        if found is not None:
            return found
    return None


def _kind(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """What a setting takes, in a few words."""
    if "$ref" in node:
        return "mapping"
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(kind for choice in node["anyOf"] if (kind := _kind(choice, definitions))))
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{json.dumps(value) if value is False else value}`" for value in node["enum"])
    if "title" in node:
        return str(node["title"]) if node["title"] == "URL" else str(node["title"]).lower()
    types: Any = node.get("type", [])
    if types == "array":
        return f"list of {_kind(node.get('items', {}), definitions) or 'values'}"
    if types == "object":
        values = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
        inner = [_kind(value, definitions) for value in values if isinstance(value, dict)]
        return f"mapping of {inner[0]}" if inner else "mapping"
    return " or ".join(_KINDS.get(each, each) for each in ([types] if isinstance(types, str) else types))


def _default(name: str, node: Schema, required: list[str]) -> str:
    if name in required:
        return "required"
    default = node.get("default")
    if default is None or (isinstance(default, dict) and default):
        return ""
    if isinstance(default, str):
        return f"`{default}`" if default else "empty"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[str]:
    """The lines of a Markdown table of a mapping's settings."""
    yield "| Setting | Type | Default | What it does |"
    yield "|---|---|---|---|"
    required = schema.get("required", [])
    for name, node in schema.get("properties", {}).items():
        described = node.get("description", "")
        if not described:
            found = _definition(node, definitions)
            described = found[1].get("description", "") if found else ""
        cells = [f"`{name}`", _kind(node, definitions), _default(name, node, required), described]
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _suffix(node: Schema) -> str:
    """How a path goes on into the items of a list: `services[]`."""
    choices = [node, *node.get("anyOf", [])]
    return "[]" if any(choice.get("type") == "array" for choice in choices) else ""


def sections(schema: Schema, definitions: Mapping[str, Schema], prefix: str, level: int) -> Iterator[str]:
    """A heading, a sentence and a table for every mapping below a schema."""
    for name, node in schema.get("properties", {}).items():
        found = _definition(node, definitions)
        if found is None or found[0] == "policies" or "properties" not in found[1]:
            continue
        path = f"{prefix}{name}{_suffix(node)}"
        yield f"{'#' * level} `{path}`\n"
        if found[1].get("description"):
            yield f"{found[1]['description']}\n"
        yield from table(found[1], definitions)
        yield ""
        yield from sections(found[1], definitions, f"{path}.", level)


def _objects(node: Schema, definitions: Mapping[str, Schema]) -> Iterator[Schema]:
    """The mappings that a policy's settings may be."""
    if "$ref" in node:
        yield from _objects(definitions[node["$ref"].rpartition("/")[2]], definitions)
    elif "properties" in node:
        yield node
    else:
        for choice in [node.get("items"), *node.get("anyOf", [])]:
            if isinstance(choice, dict):
                yield from _objects(choice, definitions)


def _policy(name: str, policy: type[Policy], schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[str]:
    yield f"### `{name}`\n"
    yield inspect.cleandoc(policy.__doc__ or "") + "\n"
    if policy.bare:
        words = ", ".join(f"`{name}: {word}`" for word in policy.bare)
        yield f"Short for a mapping: {words}.\n"
    shown: list[Schema] = []
    for settings in _objects(schema, definitions):
        if settings in shown or not settings["properties"]:
            continue
        shown.append(settings)
        yield from table(settings, definitions)
        yield ""
        yield from sections(settings, definitions, f"{name}.", 4)


def _later() -> Iterator[str]:
    yield "## Not available yet\n"
    yield "These are part of the format, and are refused with `… is not available yet`:\n"
    for gate in GATES:
        yield f"- `{gate.path}`: {gate.what}"
    yield "- what the tables of the policies above say so of\n"
    yield "These refuse nothing and do nothing yet:\n"
    yield "- the admin listener: `admin` and `listen.admin` are read and checked, but nothing is served there"
    yield "- the use of keys: `last_used_at` of a key stays empty\n"


def render(registered: Mapping[str, type[Policy]]) -> str:
    """The whole document."""
    schema = plain_schema(registered)
    definitions = schema["$defs"]
    entries = definitions["policies"]["properties"]
    lines = [docs_text.OPENING, docs_text.VALUES, docs_text.PATHS, "## Settings\n"]
    lines += [*table(schema, definitions), "", *sections(schema, definitions, "", 3)]
    lines += [docs_text.CONNECTIONS, docs_text.POLICIES]
    for name in registered:
        lines += _policy(name, registered[name], entries[name], definitions)
    lines += [docs_text.BEYOND, *_later()]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(policies()))
