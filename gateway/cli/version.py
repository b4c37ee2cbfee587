"""`postern version`: which Postern this is, and what it runs on."""

from __future__ import annotations

import platform

import typer

import gateway
from gateway.cli.output import Output, OutputOption, print_record


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(version)


def version(output: OutputOption = Output.TABLE) -> None:
    """Print the version of Postern, of Python, and the platform."""
    print_record(
        {
            "version": gateway.__version__,
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "platform": platform.platform(),
        },
        output,
    )


def print_and_exit(wanted: bool) -> None:
    """The root's option `--version`: one line, and no more."""
    if wanted:
        print(f"postern {gateway.__version__}")
        raise typer.Exit
