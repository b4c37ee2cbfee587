"""The import rules of docs/ARCHITECTURE.md: which room may know which, and who stands at the door of each library.

Read from the source by `ast`, imports inside functions and under TYPE_CHECKING included: what a file names it knows.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("gateway", "policies", "upstream_stub")

#: What each room of `gateway` may import of ours, beside itself.  A name stands for the module and all below it.
ROOMS: dict[str, tuple[str, ...]] = {
    "core": (),
    "config": ("core", "registry"),  # the loader asks which policies there are
    "routing": ("core",),
    "compiled": (),
    "pipeline": ("core", "snapshot"),
    "snapshot": ("core",),
    "registry": ("core",),
    "credentials": ("core",),
    "issuers": ("core",),
    "counters": ("core",),
    "store": ("core",),
    "cache": ("core",),
    "audit": ("core",),
    "telemetry": ("core",),
    # What a head may hold, and which of its lines are secret; one process's share of the node's limits.
    "build": (
        "core",
        "config",
        "control.share",
        "routing",
        "registry",
        "snapshot",
        "proxy.http1",
        "proxy.lines",
        "proxy.tls",
    ),
    # What one process serves with: it puts together what the request's way runs through, and knows no store.
    "data_plane": ("core", "config", "control.share", "build", "cache", "issuers", "proxy", "snapshot", "telemetry"),
    "reload": ("core", "config", "build", "snapshot", "registry", "telemetry"),
    # What would become of a request: read and judged by the parts that serve it, over ports of its own.
    "analysis": (
        "core",
        "config",
        "routing",
        "registry",
        "snapshot",
        "build",
        "pipeline",
        "counters.memory",
        "credentials.declared",
        "proxy.http1",
        "proxy.messages",
    ),
    "importers": ("core", "config"),
    "proxy": ("core", "pipeline", "snapshot", "telemetry"),
    "oauth": ("core", "config", "telemetry"),
    "admin": ("core", "config", "telemetry"),
}

#: The rooms that may import anything of ours; of these alone may import `gateway.app`.
COMPOSERS = ("app", "cli", "control", "__main__")

#: A policy sees these, and the other files of its own package.
POLICIES_SEE = ("gateway.core", "gateway.config.types")

#: Law 5: who stands at the door of a library.  Nobody else imports it.
DOORS: dict[str, tuple[str, ...]] = {
    "sqlalchemy": ("gateway.store",),
    "alembic": ("gateway.store",),
    "aiosqlite": ("gateway.store",),
    "asyncpg": ("gateway.store",),
    "aiocache": ("gateway.cache",),
    "redis": ("gateway.counters",),
    "hiredis": ("gateway.counters",),
    "authlib": ("gateway.oauth",),
    "joserfc": ("gateway.oauth", "gateway.issuers", "gateway.credentials"),
    "bcrypt": ("gateway.credentials",),
    "cryptography": ("gateway.credentials", "gateway.proxy.tls", "gateway.oauth"),
    "httptools": ("gateway.proxy.http1",),
    "aiodns": ("gateway.proxy.resolver",),
    "pycares": ("gateway.proxy.resolver",),
    "aiohttp": ("gateway.admin", "gateway.oauth", "gateway.telemetry.status", "gateway.issuers", "upstream_stub"),
    "prometheus_client": ("gateway.telemetry.exposition",),
    "yaml": ("gateway.config",),
    "uvloop": ("gateway.app", "gateway.cli", "gateway.control", "gateway.__main__", "upstream_stub"),
    "typer": ("gateway.cli", "gateway.__main__"),
    "rich": ("gateway.cli", "gateway.__main__"),
}


@dataclass(frozen=True)
class Import:
    """`importer` names `imported` (a module, or a name in one) in `file` at `line`."""

    importer: str
    imported: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.imported}"


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    importer, file = module_name(path), str(path.relative_to(ROOT))
    package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"), file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, file, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                # `from gateway import core` names gateway.core; `from gateway.core import units` too.
                yield Import(importer, f"{base}.{alias.name}", file, node.lineno)


IMPORTS = [
    found
    for top in OURS
    for path in sorted((ROOT / top).rglob("*.py"))
    for found in imports_of(path)
    if not within(found.imported, ("__future__",))
]


def room_of(module: str) -> str:
    """`core` of gateway.core.units; the empty text of `gateway` itself."""
    return module.partition(".")[2].partition(".")[0]


def ours(found: Import) -> bool:
    return within(found.imported, OURS)


def report(rule: str, broken: list[Import]) -> None:
    assert not broken, f"{rule}\n" + "\n".join(f"  {found}" for found in broken)


def test_the_source_is_read() -> None:
    assert len(IMPORTS) > 100
    assert any(found.imported.startswith("gateway.core.") for found in IMPORTS)


def test_core_imports_the_standard_library_and_itself() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.importer, ("gateway.core",))
        and not within(found.imported, ("gateway.core",))
        and found.imported.partition(".")[0] not in sys.stdlib_module_names
    ]
    report("gateway/core imports nothing but the standard library and itself:", broken)


def test_every_room_has_its_rule() -> None:
    rooms = {path.stem if path.is_file() else path.name for path in (ROOT / "gateway").iterdir()}
    rooms = {room for room in rooms if (ROOT / "gateway" / room).is_dir() or (ROOT / "gateway" / f"{room}.py").exists()}
    unruled = rooms - set(ROOMS) - set(COMPOSERS) - {"__init__", "__pycache__"}
    assert not unruled, f"say in tests/test_architecture.py (and docs/ARCHITECTURE.md) what these may import: {unruled}"


def test_the_page_says_the_same() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*)\|$", page, re.MULTILINE)
    told = {room: set(re.findall(r"`([\w.]+)`", allowed)) for room, allowed in rows}
    standing = {
        room for room in ROOMS if (ROOT / "gateway" / room).is_dir() or (ROOT / "gateway" / f"{room}.py").exists()
    }
    assert told == {room: set(ROOMS[room]) for room in standing}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_its_neighbours(room: str) -> None:
    allowed = (f"gateway.{room}", *(f"gateway.{neighbour}" for neighbour in ROOMS[room]))
    broken = [
        found
        for found in IMPORTS
        if within(found.importer, (f"gateway.{room}",))
        and ours(found)
        and not within(found.imported, allowed)
        and found.imported not in {"gateway", "gateway.__version__"}
    ]
    report(f"gateway/{room} may import, of ours, only {', '.join(allowed)}:", broken)


def test_policies_know_the_core_and_the_settings_types_alone() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.importer, ("policies",))
        and ours(found)
        and not within(found.imported, POLICIES_SEE)
        and not _same_policy(found)
    ]
    report("policies import gateway.core and gateway.config.types alone, and never another policy:", broken)


def _same_policy(found: Import) -> bool:
    """A package knows its own files; a private module (`policies._x`) and the policy that uses it know each other."""
    if not within(found.imported, ("policies",)):
        return False
    its, other = room_of(found.importer), room_of(found.imported)
    used_by_other = any(
        room_of(use.importer) == other and within(use.imported, (f"policies.{its}",)) for use in IMPORTS
    )
    return its == other or other.startswith("_") or (its.startswith("_") and used_by_other)


def test_the_gateway_knows_no_policy() -> None:
    broken = [
        found for found in IMPORTS if within(found.importer, ("gateway",)) and within(found.imported, ("policies",))
    ]
    report("the gateway finds policies in the registry and imports none by name (law 6):", broken)


def test_only_the_composers_know_the_composition_root() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.imported, ("gateway.app",))
        and not within(found.importer, tuple(f"gateway.{room}" for room in COMPOSERS))
    ]
    report("only __main__, cli and control import gateway.app:", broken)


def test_the_stub_is_a_program_of_its_own() -> None:
    broken = [
        found
        for found in IMPORTS
        if within(found.importer, ("upstream_stub",)) and within(found.imported, ("gateway", "policies"))
    ]
    report("upstream_stub stands for a foreign LMS and imports nothing of the gateway:", broken)
    known = [
        found
        for found in IMPORTS
        if within(found.importer, ("gateway", "policies"))
        and within(found.imported, ("upstream_stub",))
        and not within(found.importer, tuple(f"gateway.{room}" for room in COMPOSERS))
    ]
    report("only `postern run --demo` starts the stub:", known)


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_has_one_door(library: str) -> None:
    broken = [
        found for found in IMPORTS if within(found.imported, (library,)) and not within(found.importer, DOORS[library])
    ]
    report(f"{library} is imported only in {', '.join(DOORS[library])} (law 5):", broken)
