"""YAML into plain values and positions.

libyaml cuts the text into events; this file builds values from them itself, because it must hold what a
general loader does not: no surprises (`off`, `no`, `12:30` and `0x10` are text; only `true`, `false`, `null`,
decimal integers and decimal fractions are anything else), no key twice, keys always text, one document,
bounded depth, bounded aliases, and a position for every value.  Nothing here raises: what is wrong is a `Problem`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import yaml

from gateway.config.interpolate import InterpolationError, Interpolator
from gateway.config.problems import Path, Place, Problem, printable

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 64
#: How many values all aliases together may stand for (a defence against "billion laughs").
MAX_ALIASED = 1_000_000

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_NOT_TEXT = frozenset("+-0123456789")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_STR_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})


def scalar(text: str) -> Any:
    """What an unquoted scalar means: text, unless it is one of YAML 1.2's words or a decimal number."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NOT_TEXT:
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


@dataclass(slots=True)
class Position:
    """Where a value stands, and where what is below it stands: `keys` for a mapping's keys, `below` for values."""

    mark: Any
    keys: dict[str | int, Any] = field(default_factory=dict)
    below: dict[str | int, Any] = field(default_factory=dict)

    def pieces(self, depth: int) -> Iterator[Any]:
        """The positions that lie `depth` levels below, and all above."""
        yield self.mark
        for position in self.below.values():
            if depth > 1 and isinstance(position, Position):
                yield from position.pieces(depth - 1)
            else:
                yield position


@dataclass(slots=True)
class Document:
    """A file's plain value, its positions, and what is wrong with it as YAML.

    `broken` are the paths whose value could not be known, so that nothing more is said about them.
    """

    value: Any = None
    position: Any = None
    problems: list[tuple[Place, Problem]] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    complete: bool = False

    def place(self, path: Path, at_key: bool = False) -> Place:
        """The line and column of the value (or of its key) at a path, or of what is nearest above it."""
        position, mark = self.position, None
        for number, part in enumerate(path, 1):
            if not isinstance(position, Position) or part not in position.below:
                break
            mark = position.keys.get(part) if at_key and number == len(path) else None
            position = position.below[part]
        if mark is None:
            mark = position.mark if isinstance(position, Position) else position
        return Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)


class _UnreadableError(Exception):
    """The document cannot be read any further; the problem has been noted."""


class _Frame:
    """A mapping or a list that is being filled."""

    __slots__ = ("anchor", "container", "height", "key", "key_mark", "merges", "position", "size_before")

    def __init__(self, container: Any, mark: Any, anchor: str | None, size: int) -> None:
        self.container = container
        self.position = Position(mark)
        self.anchor = anchor
        self.size_before = size
        self.height = 0
        self.key: str | None = None
        self.key_mark: Any = None
        self.merges: list[tuple[Any, Any]] | None = None


class _Builder:
    def __init__(self, interpolator: Interpolator | None) -> None:
        self.document = Document()
        self._interpolator = interpolator
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, Any, int, int] | None] = {}
        self._size = 0
        self._aliased = 0

    # ── reporting ───────────────────────────────────────────────────────────────────────────────

    def path(self) -> Path:
        """The path of the value that is expected now."""
        parts: list[str | int] = []
        for frame in self._stack:
            if isinstance(frame.container, list):
                parts.append(len(frame.container))
            elif frame.key is not None:
                parts.append(frame.key)
        return tuple(parts)

    def complain(self, mark: Any, text: str) -> None:
        place = Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
        path = self.path()
        self.document.problems.append((place, Problem(path, text)))
        self.document.broken.add(path)

    def stop(self, mark: Any, text: str) -> _UnreadableError:
        self.complain(mark, text)
        return _UnreadableError()

    # ── building ────────────────────────────────────────────────────────────────────────────────

    def run(self, loader: Any) -> None:
        next_event = loader.get_event
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self.scalar(event)
            elif kind is yaml.MappingStartEvent:
                self.start(event, {})
            elif kind is yaml.SequenceStartEvent:
                self.start(event, [])
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self.end()
            elif kind is yaml.AliasEvent:
                self.alias(event)
            elif kind is yaml.DocumentStartEvent:
                if self.document.complete:
                    raise self.stop(event.start_mark, "the file holds a second document; one is all there may be")
            elif kind is yaml.DocumentEndEvent:
                self.document.complete = True
            elif kind is yaml.StreamEndEvent:
                return

    def scalar(self, event: Any) -> None:
        text: str = event.value
        frame = self._stack[-1] if self._stack else None
        plain = not event.style
        if event.tag not in _STR_TAGS:
            raise self.stop(event.start_mark, f"the tag {printable(event.tag)} has no meaning here; write plain values")
        if frame is not None and frame.key is None and isinstance(frame.container, dict):
            self.key(frame, text, event.start_mark, merge=plain and text == "<<")
            return
        self._size += 1
        value: Any
        if "$" in text and self._interpolator is not None and "${" in text:
            try:
                value = self._interpolator.expand(text)
            except InterpolationError as error:
                self.complain(event.start_mark, str(error))
                value = ""
        else:
            value = scalar(text) if plain and event.tag is None else text
        if "\0" in text:
            self.complain(event.start_mark, "holds a NUL character")
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, event.start_mark, 1, 0)
        self.put(value, event.start_mark, 0)

    def key(self, frame: _Frame, text: str, mark: Any, merge: bool) -> None:
        frame.key, frame.key_mark = text, mark
        if merge:
            frame.merges = frame.merges or []
        elif text in frame.container:
            first = frame.position.keys[text]
            place = f"line {first.line + 1}, column {first.column + 1}"
            self.document.problems.append(
                (Place(mark.line + 1, mark.column + 1), Problem(self.path(), f"stands twice; the first is at {place}"))
            )
        elif "\0" in text:
            raise self.stop(mark, "a key holds a NUL character")

    def start(self, event: Any, container: Any) -> None:
        if self._stack:
            frame = self._stack[-1]
            if frame.key is None and isinstance(frame.container, dict):
                raise self.stop(event.start_mark, "a key must be text, not a list or a mapping")
        if event.tag is not None:
            raise self.stop(event.start_mark, f"the tag {printable(event.tag)} has no meaning here; write plain values")
        if len(self._stack) >= MAX_DEPTH:
            raise self.stop(event.start_mark, f"is nested deeper than {MAX_DEPTH} levels")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Frame(container, event.start_mark, event.anchor, self._size))
        self._size += 1

    def end(self) -> None:
        frame = self._stack.pop()
        if frame.merges is not None:
            self.merge(frame)
        if frame.anchor is not None:
            size = self._size - frame.size_before
            self._anchors[frame.anchor] = (frame.container, frame.position, size, frame.height + 1)
        self.put(frame.container, frame.position, frame.height + 1)

    def alias(self, event: Any) -> None:
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.key is None and isinstance(frame.container, dict):
            raise self.stop(event.start_mark, "a key must be text, not an alias")
        if event.anchor not in self._anchors:
            raise self.stop(event.start_mark, f"the alias *{event.anchor} has no anchor &{event.anchor} above it")
        found = self._anchors[event.anchor]
        if found is None:
            raise self.stop(event.start_mark, f"the alias *{event.anchor} stands inside its own anchor")
        value, position, size, height = found
        self._size += size
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            raise self.stop(event.start_mark, f"aliases stand for more than {MAX_ALIASED} values")
        if len(self._stack) + height > MAX_DEPTH:
            raise self.stop(event.start_mark, f"is nested deeper than {MAX_DEPTH} levels")
        self.put(value, position, height)

    def put(self, value: Any, position: Any, height: int) -> None:
        if not self._stack:
            self.document.value, self.document.position = value, position
            return
        frame = self._stack[-1]
        frame.height = max(frame.height, height)
        container = frame.container
        if isinstance(container, list):
            frame.position.below[len(container)] = position
            container.append(value)
            return
        key = frame.key
        frame.key = None
        if key == "<<" and frame.merges is not None:
            frame.merges.append((value, position))
        elif key is not None and key not in container:
            container[key] = value
            frame.position.keys[key] = frame.key_mark
            frame.position.below[key] = position

    def merge(self, frame: _Frame) -> None:
        """Add what `<<` names, below the mapping's own keys; of several, the first that has a key gives it."""
        for merged, merged_position in frame.merges or ():
            pairs = [(merged, merged_position)]
            if isinstance(merged, list):
                pairs = [(item, merged_position.below[index]) for index, item in enumerate(merged)]
            for source, position in pairs:
                if not isinstance(source, dict):
                    mark = position.mark if isinstance(position, Position) else position
                    raise self.stop(mark, "the merge key << takes a mapping or a list of mappings")
                for key, value in source.items():
                    if key not in frame.container:
                        frame.container[key] = value
                        frame.position.keys[key] = position.keys[key]
                        frame.position.below[key] = position.below[key]


class _End(NamedTuple):
    """The end of the text, as a mark."""

    line: int
    column: int


def _within(text: str, mark: Any) -> Any:
    """The mark, or the end of the text's last line where libyaml points behind it."""
    lines = text.splitlines()
    if mark is None or mark.line < len(lines) or not lines:
        return mark
    return _End(len(lines) - 1, len(lines[-1]))


def _syntax(error: yaml.YAMLError, text: str, mark: Any) -> str:
    line = "" if mark is None else next(islice(text.splitlines(), mark.line, None), "")
    problem = str(getattr(error, "problem", None) or "is not YAML")
    if "${" in line and problem.startswith("did not find expected"):
        problem = "inside {…} and […] a value with ${…} wants quotes"
    elif problem == "found character that cannot start any token":
        problem = "a character that cannot stand here: a tab for indentation, or a value that wants quotes"
    elif problem.startswith("mapping values are not allowed"):
        problem = "a colon that cannot stand here: a value with a colon wants quotes, or the indentation is off"
    context = getattr(error, "context", None)
    return printable(f"the YAML breaks here: {problem}" + (f" ({context})" if context else ""))


def _decode(content: bytes) -> tuple[str, tuple[Place, str] | None]:
    """The text of a file, or where and why it is none."""
    if len(content) > MAX_BYTES:
        return "", (Place(1, 1), f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "", (Place(1, 1), "the file is UTF-16; save it as UTF-8")
    if content.startswith(b"\xef\xbb\xbf"):
        return "", (Place(1, 1), "the file starts with a byte order mark; save it as UTF-8 without one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return "", (Place(line, column), f"the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8")
    match = _FORBIDDEN.search(text)
    if match is not None:
        line, column = text.count("\n", 0, match.start()) + 1, match.start() - text.rfind("\n", 0, match.start())
        what = "a NUL character" if match[0] == "\0" else f"the control character U+{ord(match[0]):04X}"
        return "", (Place(line, column), f"{what} cannot stand in the file")
    return text, None


def parse(content: bytes, interpolator: Interpolator | None = None) -> Document:
    """Read a file's bytes.  Takes an interpolator for `${…}` (None: leave them); returns a `Document`, never raises.

    Problems that end the reading leave `complete` false; of the others there may be several.
    """
    builder = _Builder(interpolator)
    document = builder.document
    text, failure = _decode(content)
    if failure is not None:
        document.problems.append((failure[0], Problem((), failure[1])))
        return document
    loader = yaml.CSafeLoader(text)
    try:
        builder.run(loader)
    except _UnreadableError:
        document.complete = False
    except yaml.YAMLError as error:
        document.complete = False
        mark = _within(text, getattr(error, "problem_mark", None) or getattr(error, "context_mark", None))
        builder.complain(mark, _syntax(error, text, mark))
    finally:
        loader.dispose()
    return document
