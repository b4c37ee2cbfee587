"""Is the hot path compiled, and from the sources that lie beside it?

The compiled build (`setup.py`) leaves a manifest of what it was made from.  Law: a compiled module that is older
than its source is never run in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

MANIFEST = "gateway/_compiled.json"


def is_compiled() -> bool:
    """True when the data plane that would be imported is compiled; imports nothing to find out."""
    spec = find_spec("gateway.proxy.http1")
    return spec is not None and not str(spec.origin).endswith(".py")


def write_manifest(root: Path, sources: Sequence[str]) -> None:
    """Note what compiled modules are being made from; `sources` are paths below `root`."""
    (root / MANIFEST).write_text(json.dumps({source: _digest(root / source) for source in sources}, indent=1) + "\n")


def stale(root: Path | None = None) -> list[str]:
    """The sources that have changed since they were compiled; none where nothing is compiled."""
    root = root or Path(__file__).parent.parent
    try:
        made_from = json.loads((root / MANIFEST).read_text())
    except FileNotFoundError:
        return []
    return [
        source
        for source, digest in made_from.items()
        if any((root / source).parent.glob(f"{Path(source).stem}.*.so")) and _digest(root / source) != digest
    ]


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
