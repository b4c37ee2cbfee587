"""`postern keys`: makes, lists and revokes API keys, while the gateway runs or not.

A key is printed once, when it is made; no command takes one as an argument.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from gateway.cli.control import DEFAULT_CONFIG, ConfigOption, identities
from gateway.cli.output import Output, OutputOption, print_record, print_rows
from gateway.core.errors import InvalidInputError
from gateway.core.units import parse_duration

_COLUMNS = (
    "id",
    "consumer",
    "name",
    "public",
    "status",
    "read_only",
    "scopes",
    "created_at",
    "expires_at",
    "last_used_at",
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)
    keys.command("create")(create)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")


def create(
    consumer: Annotated[str, typer.Option("--consumer", help="The consumer who gets it.")],
    name: Annotated[str, typer.Option("--name", help="What it is for.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="It may only read; fixed for its life.")] = False,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="A scope that it grants; may be repeated.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="Ends after this time, such as 90d.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a key and print it, this once."""
    body: dict[str, Any] = {"name": name, "scopes": scope or [], "read_only": read_only}
    if expires is not None:
        body["expires_at"] = _moment(expires)
    made = identities(config).create_key(consumer, body)
    print_record(made, output)
    if output is Output.TABLE:
        print("Keep the key: it is not shown again.", file=sys.stderr)


def list_keys(
    consumer: Annotated[str | None, typer.Option("--consumer", help="Only this consumer's.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = Output.TABLE,
) -> None:
    """List keys, declared ones first, then by age."""
    source = identities(config)
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = source.keys(consumer, cursor)
        rows += page["data"]
        cursor = page["next"]
        if cursor is None:
            break
    print_rows(rows, _COLUMNS, output)


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` prints it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a key for good; when the command returns, the gateway refuses it."""
    print_record(identities(config).revoke_key(key_id), output)


def _moment(duration: str) -> str:
    try:
        ends = datetime.fromtimestamp(time.time() + parse_duration(duration), UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError("the input is not valid", {"--expires": str(error)}) from None
    return ends.isoformat(timespec="seconds").replace("+00:00", "Z")
