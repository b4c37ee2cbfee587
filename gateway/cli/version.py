"""`postern version`: which Postern this is, and what it runs on."""

from __future__ import annotations

import platform

import typer

import gateway
from gateway.cli.control import DEFAULT_CONFIG, UnreadConfigOption
from gateway.cli.output import Output, OutputOption, print_record
from gateway.compiled import is_compiled


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(version)


def version(
    output: OutputOption = Output.TABLE,
    config: UnreadConfigOption = DEFAULT_CONFIG,
) -> None:
    """Print the version of Postern, of Python, and the platform."""
    print_record(
        {
            "version": gateway.__version__,
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "hot_path": _hot_path(),
            "platform": platform.platform(),
        },
        output,
    )


def _hot_path() -> str:
    return "compiled" if is_compiled() else "interpreted"


def print_and_exit(wanted: bool) -> None:
    """The root's option `--version`: one line, and no more."""
    if wanted:
        print(f"postern {gateway.__version__}")
        raise typer.Exit
