"""The scripts that decide, as Redis is given them: Lua, put together from the files beside this one.

A script that takes holds those algorithms alone that its demands name, since Redis runs all of its text each time; what
mixes algorithms, and what is undone, holds all.  A script is called by the digest of its text (EVALSHA), so a gateway
of another version calls its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Final

#: The files of each algorithm, by the letter that names it in keys and arguments.
_ALGORITHMS: Final = {"s": ("sliding",), "f": ("flat", "fixed"), "t": ("flat", "bucket")}
_ALL: Final = ("sliding", "flat", "fixed", "bucket")


@dataclass(frozen=True)
class Script:
    """A script's text, and the SHA-1 digest (in hexadecimal digits) by which Redis knows it."""

    text: bytes
    digest: bytes


def _script(*names: str) -> Script:
    folder = files(__package__)
    text = b"\n".join(folder.joinpath(f"{name}.lua").read_bytes() for name in names)
    # The name that EVALSHA wants; nothing is kept secret by it.
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


_TAKES: Final = {letter: _script("common", *names, "demands", "take") for letter, names in _ALGORITHMS.items()}
_TAKE: Final = _script("common", *_ALL, "demands", "take")
#: What takes back a request that was counted.
UNDO: Final = _script("common", *_ALL, "demands", "back", "undo")
SCRIPTS: Final = (*_TAKES.values(), _TAKE, UNDO)


def take_for(letters: set[str]) -> Script:
    """What counts demands by these algorithms."""
    return _TAKES[next(iter(letters))] if len(letters) == 1 else _TAKE
