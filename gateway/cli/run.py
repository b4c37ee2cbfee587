"""`postern run`: serve, until a signal says stop."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.core.errors import StartError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(run)


def run(
    config: Annotated[Path, typer.Option(help="The configuration file.")] = Path("config.yaml"),
    demo: Annotated[
        bool, typer.Option("--demo", help="Also start the stub LMS, and print a curl line with a fresh key.")
    ] = False,
    access_log: Annotated[
        str, typer.Option(metavar="-|off|FILE", help="Where access lines go: standard output, nowhere, or a file.")
    ] = "-",
    log_format: Annotated[str, typer.Option(metavar="auto|json|console", help="How events are written.")] = "auto",
    log_level: Annotated[
        str, typer.Option(metavar="debug|info|warning|error", help="Which events are written.")
    ] = "info",
) -> None:
    """Start the gateway.

    SIGTERM and SIGINT finish what is in flight and end it, SIGHUP reloads the configuration, SIGUSR2 puts fresh
    workers into the place of those that serve.
    """
    # Until the loop hears signals: nothing is in flight, and the file is read anyway.
    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)

    import uvloop

    from gateway.app import App, Options
    from gateway.telemetry import events, turns

    if log_format not in ("auto", "json", "console"):
        raise typer.BadParameter("must be auto, json or console", param_hint="--log-format")
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("must be debug, info, warning or error", param_hint="--log-level")
    events.configure(log_format, log_level)  # type: ignore[arg-type]  # judged two lines above
    on_ready = None
    if demo:
        from gateway.cli.demo import Demo

        on_ready = Demo().start
    # Workers write to the same stream.
    lock = turns.make_lock()
    app = App(Options(config, _descriptor(access_log), log_format, log_level, lock, on_ready))
    events.configure(log_format, log_level, secret_prefix=app.config.credentials.secret_prefix, lock=lock)  # type: ignore[arg-type]  # as above
    uvloop.run(app.run())


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _descriptor(access_log: str) -> int | None:
    """The file descriptor that access lines go to, None for nowhere."""
    if access_log == "off":
        return None
    if access_log == "-":
        return sys.stdout.fileno()
    try:
        return os.open(access_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StartError(f"cannot write the access log {access_log}: {error.strerror}") from error
