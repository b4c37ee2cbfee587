"""Faults: what broke, as opposed to what was refused (law 3).

Each door to a foreign thing (law 5) translates its library's exceptions into one of these.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path


class PosternError(Exception):
    """The parent of every fault that Postern names itself; its text is fit for an operator to read."""


class ConfigError(PosternError):
    """A configuration that cannot be used; `problems` holds every line of the report, in file order.

    `files` are those that it fills in, there or not.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.files: tuple[Path, ...] = ()


class StartError(PosternError):
    """The gateway cannot run: a port in use, a data folder that cannot be written, a missing secret (exit status 3)."""


def cannot_listen(setting: str, host: str, port: int, error: OSError) -> StartError:
    """What to say of an address that a listener cannot have; `setting` is where the file names it."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, socket.gaierror) or not error.errno:
        cause = error.strerror or str(error)
    else:
        cause = os.strerror(error.errno).lower()
    if error.errno == errno.EADDRINUSE:
        cause += " (is another gateway running?)"
    return StartError(f"{setting}: cannot listen on {address}: {cause}")


class StoreError(PosternError):
    """The identity store cannot be asked."""


class CountersError(PosternError):
    """The rate-limit counters cannot be asked."""


class OverloadError(PosternError):
    """More work is waiting than the gateway takes on; the client should come back after `retry_after` seconds."""

    def __init__(self, text: str, retry_after: int = 1) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class IssuerError(PosternError):
    """Another issuer cannot be asked, or what it answers cannot be used; ask again after `retry_after` seconds."""

    def __init__(self, text: str, retry_after: int = 1) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class NotFoundError(PosternError):
    """No such organization, consumer or credential."""


class ConflictError(PosternError):
    """The thing exists already, or its state forbids the change."""


class InvalidInputError(PosternError):
    """Bad input to a command or an endpoint; `fields` names what is wrong, field by field."""

    def __init__(self, text: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.fields = fields or {}
