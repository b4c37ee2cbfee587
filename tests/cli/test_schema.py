"""`postern schema` prints the JSON Schema, and nothing else."""

from __future__ import annotations

import json

import pytest

from gateway.cli import schema
from gateway.cli.main import main


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"], commands=[schema]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"acl", "auth", "rate-limiting"} <= set(printed["$defs"]["policies"]["properties"])
