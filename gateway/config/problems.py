"""What is wrong with a configuration, as values: where it stands, which key, what, and what was probably meant.

A `Problem` names its place by key path; `Report` gathers them, and turns paths into lines and columns at the
end, so that a file without problems never pays for that.  Every problem is reported at once, in file order.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

#: The keys and indices that lead to a value: `("services", 0, "name")`.
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `path` is where, `text` is what; `at_key` points to the key, not to its value.

    `ours` says that no word of the text comes from the file, so that nothing in it need be hidden.
    """

    path: Path
    text: str
    at_key: bool = False
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the file, both from 1."""

    line: int
    column: int


def printable(text: str) -> str:
    """The text on one line: what would break a terminal or a log is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def format_path(path: Path) -> str:
    """A key path as people write it: `services[0].routes[1].policies.acl`; the whole document is `(document)`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += f".{printable(part)}" if out else printable(part)
    return out or "(document)"


#: Among more names than this only those with the same first letter are compared, and no more than so many.
_MANY = 500


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` with the nearest of the known words, or nothing where none is near."""
    folded = word[:200].casefold()
    candidates = {name.casefold(): name for name in known}
    if len(candidates) > _MANY:
        candidates = dict(islice(((key, name) for key, name in candidates.items() if key[:1] == folded[:1]), _MANY))
    near = difflib.get_close_matches(folded, candidates, n=1, cutoff=0.6)
    return f" (did you mean {printable(candidates[near[0]])}?)" if near else ""


def listed(names: Iterable[str], word: str = "or") -> str:
    """`a, b or c`, for a sentence."""
    every = list(names)
    if len(every) < 2:
        return "".join(every)
    return f"{', '.join(every[:-1])} {word} {every[-1]}"


def value_at(data: Any, path: Path) -> Any:
    """The plain value at a path, or None where there is nothing."""
    for part in path:
        if isinstance(part, int):
            if not isinstance(data, list) or not -1 < part < len(data):
                return None
            data = data[part]
        elif isinstance(data, dict):
            data = data.get(part)
        else:
            return None
    return data
