"""`${NAME}`, `${NAME:-default}` and `${file:PATH}` inside values.

What is filled in may be a secret, so it travels as `Interpolated`, which remembers how it was written:
a report shows that, never the value.  What was filled in is not looked into again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.DOTALL)

#: The largest file that may be filled in, in bytes.
MAX_FILE = 1024 * 1024


class Interpolated(str):
    """Text that came, whole or in part, from outside the file.

    `source` is what the file says, `pieces` is what was filled in from there (a default was not).  Where a setting
    wants a number or a boolean, such a text is read as one, quoted or not (inside `{…}` YAML demands the quotes).
    """

    __slots__ = ("pieces", "source")

    source: str
    pieces: tuple[str, ...]

    @classmethod
    def of(cls, text: str, source: str, pieces: tuple[str, ...]) -> Interpolated:
        """Such a text with its origin."""
        made = cls(text)
        made.source, made.pieces = source, pieces
        return made


class InterpolationError(ValueError):
    """A reference that cannot be filled in; the text says why and holds no value."""


class Interpolator:
    """Fills references in from an environment and from files relative to `directory`; `files` are those it read,
    `named` all that it was to read.  Without `pipes` one is refused: who has read it once may wait for ever."""

    def __init__(self, environ: Mapping[str, str], directory: Path, *, pipes: bool = True) -> None:
        self._environ = environ
        self._directory = directory
        self._pipes = pipes
        self.files: dict[Path, str] = {}
        self.named: set[Path] = set()

    def expand(self, text: str) -> str:
        """The text with its references filled in.  Raises InterpolationError.

        Without any reference the text comes back as a plain string, `$${` turned into `${`.
        """
        pieces: list[str] = []
        filled = False

        def fill(match: re.Match[str]) -> str:
            nonlocal filled
            if match[0] == "$${":
                return "${"
            if not match[2]:
                raise InterpolationError("has a ${ without its }; write $${ for the two characters themselves")
            filled = True
            piece, from_outside = self._resolve(match[1])
            if from_outside:
                pieces.append(piece)
            return piece

        expanded = _REFERENCE.sub(fill, text)
        return Interpolated.of(expanded, text, tuple(pieces)) if filled else expanded

    def _resolve(self, reference: str) -> tuple[str, bool]:
        """What a reference stands for, and whether that came from outside: a default stands in the file."""
        if reference.startswith("file:"):
            return self._read(reference[5:]), True
        match = _NAME.fullmatch(reference)
        if match is None:
            raise InterpolationError("has a ${…} that is neither ${NAME}, ${NAME:-default} nor ${file:PATH}")
        value = self._environ.get(match[1])
        if match[2] and not value:
            return match[3], False
        if value is None:
            raise InterpolationError(f"the environment variable {match[1]} is not set")
        # An environment may hold bytes that are no text, and a value never holds NUL.
        if "\0" in value or not _encodable(value):
            raise InterpolationError(f"the environment variable {match[1]} is not UTF-8 text")
        return value, True

    def _read(self, name: str) -> str:
        if not name or "\0" in name:
            raise InterpolationError("names no file in ${file:PATH}")
        path = self._directory / name
        self.named.add(path)
        if path in self.files:
            return self.files[path]
        try:
            if not self._pipes and path.is_fifo():
                raise InterpolationError(f"the file {name!r} cannot be read again: it is not a regular file")
            with path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
        except InterpolationError:
            raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable file name"
            raise InterpolationError(f"the file {name!r} cannot be read: {reason}") from None
        if len(content) > MAX_FILE:
            raise InterpolationError(f"the file {name!r} is larger than {MAX_FILE // 1024} KiB")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            raise InterpolationError(f"the file {name!r} is not UTF-8 text") from None
        if "\0" in text:
            raise InterpolationError(f"the file {name!r} holds a NUL character")
        self.files[path] = text = text.removesuffix("\n").removesuffix("\r")
        return text


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
