"""The root of the command line: collects the commands, and turns every end into an exit status (contract §5).

0 good, 1 a check failed, 2 bad input, 3 could not run.  Law kept here: nobody who runs a command sees a traceback
(`POSTERN_DEBUG=1` shows it to who hunts a bug), and what a command does not need is not imported for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Protocol

import typer

from gateway.cli import check, keys, migrate, run, schema, version
from gateway.core.errors import ConfigError, ConflictError, InvalidInputError, NotFoundError, PosternError


class Command(Protocol):
    """A module of this package that holds one command."""

    def register(self, app: typer.Typer) -> None:
        """Add the command to the application."""
        ...


#: In the order in which `--help` lists them.
COMMANDS: tuple[Command, ...] = (run, check, keys, schema, migrate, version)

#: Exit statuses of contract §5, and those of a shell for an interrupted command.
GOOD, CHECK_FAILED, BAD_INPUT, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 3, 130

_BAD_INPUT = (ConfigError, InvalidInputError, NotFoundError, ConflictError)


def build(commands: Sequence[Command] = COMMANDS) -> typer.Typer:
    """The application with its commands."""
    # Without markup and pretty tracebacks, rich (4 MiB) stays out of the process that serves.
    app = typer.Typer(
        name="postern",
        help="An API gateway and reverse-proxy sidecar for learning platforms.",
        epilog="Exit status: 0 good, 1 a check failed, 2 bad input, 3 could not run.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for command in commands:
        command.register(app)
    return app


def main(arguments: Sequence[str], commands: Sequence[Command] = COMMANDS) -> int:
    """Run one command line (without the program's name); returns the exit status, whatever happens."""
    try:
        status = _run(build(commands), arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Who read our output has gone.  Python would complain once more when it flushes at exit: give it nowhere to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CHECK_FAILED


def _run(app: typer.Typer, arguments: Sequence[str]) -> int:
    try:
        app(args=list(arguments), prog_name="postern")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else GOOD
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("POSTERN_DEBUG"):
            raise
        return _tell(error)
    return GOOD


def _tell(error: Exception) -> int:
    """Print what went wrong on standard error; returns the exit status that says so."""
    if isinstance(error, OSError):
        print(f"postern: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
        return COULD_NOT_RUN
    if not isinstance(error, PosternError):
        print(
            f"postern: an unexpected error occurred: {type(error).__name__}: {error} (POSTERN_DEBUG=1 shows where)",
            file=sys.stderr,
        )
        return COULD_NOT_RUN
    # A configuration's problems already begin with the file's name.
    print(error if isinstance(error, ConfigError) else f"postern: {error}", file=sys.stderr)
    for name, problem in getattr(error, "fields", {}).items():
        print(f"  {name}: {problem}", file=sys.stderr)
    return BAD_INPUT if isinstance(error, _BAD_INPUT) else COULD_NOT_RUN


def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=version.print_and_exit, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """The root takes no action of its own."""
