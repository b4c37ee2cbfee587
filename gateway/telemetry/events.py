"""Events: what happened to the gateway itself, as opposed to the requests that it served (those are the access log's).

structlog writes them to standard error, as JSON or for a person to read, through a thread (`writer.py`) so that a
pipe that nobody reads never stops the event loop.  The libraries' own logging joins them from WARNING upwards.
Every value passes a redactor before it is rendered: a secret does not reach a log by way of an error's text.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Literal, cast

from gateway.telemetry.redact import TextRedactor
from gateway.telemetry.writer import StreamWriter

# structlog takes rich along where it is installed: 4 MiB for coloured tracebacks that are never printed here.
_hide_rich = "rich" not in sys.modules
if _hide_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]  # documented: None makes an import fail
try:
    import structlog
finally:
    if _hide_rich:
        del sys.modules["rich"]

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

Kind = Literal["json", "console", "auto"]
Level = Literal["debug", "info", "warning", "error"]

#: How much may wait for a stream that does not take it, in bytes.
_BACKLOG = 1024 * 1024

#: How long the end of the process waits for the last events, in seconds.
_LAST_WORDS = 1.0

_STANDARD_ERROR = 2

#: The fields that every event has (`worker` in workers), in the order in which they stand.
_FIRST_FIELDS = ("time", "level", "logger", "worker", "event")


class _Sink:
    """Where rendered events go; another one may take its place while loggers hold on to this object."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._writer = StreamWriter(_STANDARD_ERROR, _BACKLOG, "events")

    def redirect(self, descriptor: int, lock: int | None) -> None:
        # A process that was forked has the writer of its parent, and not its thread: that one writes what is in it.
        if self._owner == os.getpid():
            self._writer.close(_LAST_WORDS)
        self._owner = os.getpid()
        self._writer = StreamWriter(descriptor, _BACKLOG, "events", lock)

    def write(self, text: str) -> None:
        self._writer.write(f"{text}\n".encode("utf-8", "backslashreplace"), 1)

    def drain(self, timeout: float) -> bool:
        return self._writer.drain(timeout)


_sink = _Sink()


class _Output:
    """What structlog hands a named logger's rendered events to."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.msg = self.log = self.debug = self.info = self.warning = self.warn = _sink.write
        self.error = self.err = self.exception = self.critical = self.fatal = self.failure = _sink.write


class _LibraryHandler(logging.Handler):
    """Lets what is logged through `logging` become events: libraries' warnings, of our own rooms all but details."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger(record.name)
        if record.levelno >= logging.ERROR:
            speak = logger.error
        else:
            speak = logger.warning if record.levelno >= logging.WARNING else logger.info
        speak(record.getMessage(), exc_info=record.exc_info)


_OURS = "postern"


def _wanted(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.startswith(f"{_OURS}.")


_library_handler = _LibraryHandler(logging.INFO)
_library_handler.addFilter(_wanted)


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger of a module: `get_logger(__name__).warning("upstream_failed", service="lms")`.

    May be asked for before `configure`: how it writes is decided each time it speaks.
    """
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def configure(
    kind: Kind,
    level: Level = "info",
    *,
    secret_prefix: str = "pnsec_",
    descriptor: int = _STANDARD_ERROR,
    lock: int | None = None,
    worker: int | None = None,
) -> None:
    """Say how events are written from now on, and let the libraries' warnings join them.

    `auto` is for a person where the descriptor is a terminal, else JSON.  `secret_prefix` is that of our keys'
    secret parts.  `lock` is the stream's where other processes write to it, too (`turns.make_lock`); `worker` is the
    slot of this process, which stands in each of its events.  Before the first call, warnings and errors alone are
    written, as `auto` would.
    """
    _sink.redirect(descriptor, lock)
    _configure_structlog(kind, level, secret_prefix, descriptor, worker)
    root = logging.getLogger()
    if _library_handler not in root.handlers:
        root.addHandler(_library_handler)
    logging.getLogger(_OURS).setLevel(logging.INFO)
    logging.captureWarnings(True)


def flush(timeout: float = _LAST_WORDS) -> bool:
    """Wait at most `timeout` seconds until all events are written; True if they are."""
    return _sink.drain(timeout)


def _configure_structlog(
    kind: Kind, level: Level, secret_prefix: str, descriptor: int, worker: int | None = None
) -> None:
    terminal = _is_terminal(descriptor)
    console = terminal if kind == "auto" else kind == "console"
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_name,
            *([] if worker is None else [_adds_worker(worker)]),
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _redaction(TextRedactor(secret_prefix)),
            _console_renderer(terminal) if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Output,
        # Loggers are made when modules are imported, before anybody knows how to write.
        cache_logger_on_first_use=False,
    )


def _console_renderer(colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )


def _add_name(logger: _Output, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["logger"] = logger.name
    return event


def _adds_worker(worker: int) -> Processor:
    def add(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("worker", worker)
        return event

    return add


def _redaction(redactor: TextRedactor) -> Processor:
    def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        ordered = {name: event.pop(name) for name in _FIRST_FIELDS if name in event}
        return {name: redactor.field(name, value) for name, value in (ordered | dict(event)).items()}

    return redact


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


_configure_structlog("auto", "warning", "pnsec_", _STANDARD_ERROR)
atexit.register(flush)
