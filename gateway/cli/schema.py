"""`postern schema`: the JSON Schema of `config.yaml`, with every installed policy, for editors."""

from __future__ import annotations

import json

import typer

from gateway.cli.control import DEFAULT_CONFIG, UnreadConfigOption


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(schema)


def schema(config: UnreadConfigOption = DEFAULT_CONFIG) -> None:
    """Print the JSON Schema (2020-12) of config.yaml."""
    from gateway.config.schema import config_schema
    from gateway.registry import policies

    print(json.dumps(config_schema(policies()), indent=2, ensure_ascii=False))
