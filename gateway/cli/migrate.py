"""`postern migrate`: brings the store's schema up to date, and does nothing else."""

from __future__ import annotations

import asyncio

import typer

from gateway.cli.control import DEFAULT_CONFIG, ConfigOption
from gateway.cli.output import Output, OutputOption, print_record


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(migrate)


def migrate(config: ConfigOption = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Migrate the store that the configuration names; `postern run` does so by itself when it starts."""
    from gateway.config.loader import load

    asyncio.run(_migrate(load(config).config.store, output))


async def _migrate(url: str, output: Output) -> None:
    from gateway.store.store import Store

    store = await Store.open(url)
    try:
        print_record({"from": store.migrated.before, "to": store.migrated.after}, output)
    finally:
        await store.close()
