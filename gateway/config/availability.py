"""What the contract has and this version has not: each row is refused with `… is not available yet`.

Law: nothing is accepted silently.  An issue that builds one of these deletes its row, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.config.problems import Path, Problem


def _given(value: Any) -> bool:
    return value is not None


def _filled(value: Any) -> bool:
    return bool(value)


def _starts(*prefixes: str) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, str) and value.startswith(prefixes)

    return check


@dataclass(frozen=True, slots=True)
class Gate:
    """One row: `path` in the file (`[]` stands for every item), when it counts as used, and what it is called."""

    path: str
    used: Callable[[Any], bool]
    what: str


GATES = (
    Gate("store", _starts("postgres"), "a PostgreSQL store"),
    Gate("audit", _given, "the audit log"),
    Gate("oauth", _given, "OAuth"),
    Gate("issuers", _filled, "trusting other issuers"),
    Gate("clients", _filled, "OAuth clients"),
    Gate("admin.sunbird", _given, "Sunbird's consumer API"),
    Gate("self_service", _given, "self-service"),
)


def _values(data: Any, parts: list[str], path: Path) -> Iterator[tuple[Path, Any]]:
    if not parts:
        yield path, data
        return
    name, rest = parts[0], parts[1:]
    if name == "[]":
        if isinstance(data, list):
            for index, item in enumerate(data):
                yield from _values(item, rest, (*path, index))
    elif isinstance(data, dict) and name in data:
        yield from _values(data[name], rest, (*path, name))


def unavailable(data: Any) -> Iterator[Problem]:
    """Every use of what is not there yet, in plain data of any shape."""
    for gate in GATES:
        parts = gate.path.replace("[]", ".[]").split(".")
        for path, value in _values(data, parts, ()):
            if gate.used(value):
                yield Problem(path, f"{gate.what} is not available yet", ours=True)
