"""The JSON Schema: what editors are told is what the loader takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.schema import DIALECT, config_schema
from gateway.registry import policies
from tests.config.fakes import POLICIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return config_schema(policies())


def _violations(schema: dict[str, Any], node: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    """What a value breaks: a checker of just the keywords that the schema uses."""
    if "$ref" in node:
        yield from _violations(schema, schema["$defs"][node["$ref"].rpartition("/")[2]], value, path)
    if "anyOf" in node and all(any(_violations(schema, each, value, path)) for each in node["anyOf"]):
        yield f"{path}: none of anyOf"
    if "enum" in node and value not in node["enum"]:
        yield f"{path}: enum"
    if "const" in node and value != node["const"]:
        yield f"{path}: const"
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "integer": int,
        "number": (int, float),
    }
    wanted = node.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted and not any(isinstance(value, kinds[kind]) for kind in wanted):  # type: ignore[arg-type]  # a table
        yield f"{path}: type"
    if isinstance(value, str) and "pattern" in node and not re.search(node["pattern"], value):
        yield f"{path}: pattern"
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _violations(schema, node.get("items", {}), item, f"{path}[{number}]")
    if isinstance(value, dict):
        properties = node.get("properties", {})
        for name in node.get("required", []):
            if name not in value:
                yield f"{path}.{name}: required"
        for name, item in value.items():
            if name in properties:
                yield from _violations(schema, properties[name], item, f"{path}.{name}")
            elif node.get("additionalProperties") is False:
                yield f"{path}.{name}: additional"


def test_the_shipped_schema_is_fresh(schema: dict[str, Any]) -> None:
    """Regenerate with `postern schema > docs/config.schema.json`."""
    assert json.loads((ROOT / "docs/config.schema.json").read_text("utf-8")) == schema


def test_the_shipped_file_fits(schema: dict[str, Any]) -> None:
    value = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    assert list(_violations(schema, schema, value, "")) == []


@pytest.mark.parametrize(
    "text",
    [
        "limits: {headers: '${N}'}",
        "services: [{name: s, url: '${URL}'}]",
        "policies: {auth: none}",
        "policies: {auth: 'off', acl: {allow: [a]}}",
        "policies: {rate-limiting: {limits: [5/second]}}",
        "policies: {rate-limiting: [{limits: [5/second]}]}",
        "workers: auto",
        "limits: {header_bytes: 4096}",
    ],
)
def test_fits(schema: dict[str, Any], text: str) -> None:
    assert list(_violations(schema, schema, yaml.safe_load(text), "")) == []


@pytest.mark.parametrize(
    "text",
    [
        "lisen: {}",
        "version: 2",
        "limits: {headers: many}",
        "limits: {header_timeout: 5}",
        "policies: {acll: {}}",
        "policies: {auth: nobody}",
        "services: [{url: http://x}]",
        "services: [{name: s, url: ftp://x}]",
        "workers: many",
    ],
)
def test_does_not_fit(schema: dict[str, Any], text: str) -> None:
    assert list(_violations(schema, schema, yaml.safe_load(text), "")) != []


def test_references_resolve_and_everything_is_described(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == DIALECT
    references: set[str] = set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(schema)))
    assert references <= set(schema["$defs"])
    for name, definition in {"": schema, **schema["$defs"]}.items():
        for key, node in definition.get("properties", {}).items():
            target = schema["$defs"].get(node.get("$ref", "").rpartition("/")[2], {})
            assert node.get("description") or target.get("description"), f"{name}.{key}"


def test_defaults_are_written_as_in_the_file(schema: dict[str, Any]) -> None:
    limits = schema["$defs"]["Limits"]["properties"]
    assert limits["header_bytes"]["default"] == "32KiB"
    assert limits["idle_timeout"]["default"] == "75s"
    assert schema["$defs"]["Guesses"]["properties"]["failures"]["default"] == "20/minute"


def test_any_kind_of_config_has_its_place() -> None:
    places = config_schema(POLICIES)["$defs"]["policies"]["properties"]
    assert set(places) == set(POLICIES)
    assert {"enum": ["off", False]} in places["numbers"]["anyOf"][-1]["anyOf"]
    assert places["numbers"]["anyOf"][0]["type"] == "array"
