"""The forms of a route's path (contract §2, Paths), read into one shape.

    /a/b                 /a/b and what lies below it at a segment boundary: /a/b/c, not /a/bc; / is everything
    /a/b/                /a/b/ and what lies below it, not /a/b itself (as Kong's prefix would have it)
    = /a/b               /a/b alone
    /a/b*                whatever begins with /a/b, as characters (Kong's rule)
    /orgs/{org}/lessons  {org} takes one segment that is not empty; allowed in every form but the next
    ~^/a/(?<id>\\d+)$     a regular expression (RE2), tried at the beginning of the path

Law: a literal path is brought to the canonical form of `gateway.core.path`, the form in which requests
come, so `/a%62` is `/ab`; a path that no request could have is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import re2

from gateway.core.path import PathError, PathRules, canonical

_capture = re.compile(r"/\{([^{}/]*)\}(?=/|$)")
_is_name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_group_names = re.compile(r"\\.|\(\?P?<([A-Za-z_]\w*)>")


class Form(IntEnum):
    """How a path is compared; the numbers are the order of precedence."""

    EXACT = 0
    EXPRESSION = 1
    PREFIX = 2


class PatternError(ValueError):
    """A route's path that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One path of a route.

    `text` is as written, "" for a route without paths, which matches every path and whose matched part is
    empty.  `segments` are the leading segments of the request's path, None for one that is captured;
    `names` the captures' names in order.  With `tail` a `/` and the text of `tail` must follow them.
    `expression` is the compiled regular expression, over bytes, and `groups` its named groups' numbers.
    """

    text: str
    form: Form = Form.PREFIX
    segments: tuple[str | None, ...] = ()
    names: tuple[str, ...] = ()
    tail: str | None = None
    expression: Any = None  # re2 has no type stubs
    groups: tuple[tuple[str, int], ...] = ()

    @property
    def source(self) -> bytes:
        """The regular expression's text."""
        return self.text[1:].encode("utf-8")

    @property
    def length(self) -> int:
        """How many characters of a path a literal prefix takes."""
        characters = sum(len(segment or "") + 1 for segment in self.segments)
        return characters if self.tail is None else characters + 1 + len(self.tail)

    def measure(self, path: str) -> tuple[int, dict[str, str] | None]:
        """`(matched, captures)` of a canonical path that this pattern is known to match."""
        if self.form is Form.EXPRESSION:
            found = self.expression.match(path.encode("ascii"))
            captures: dict[str, str] = {}
            for name, number in self.groups:
                start, end = found.span(number)
                if start >= 0:
                    captures[name] = path[start:end]
            return found.end(), captures or None
        parts = path[1:].split("/", len(self.segments))[: len(self.segments)]
        values = [part for part, segment in zip(parts, self.segments, strict=True) if segment is None]
        matched = sum(map(len, parts)) + len(parts)
        if self.tail is not None:
            matched += 1 + len(self.tail)
        return matched, dict(zip(self.names, values, strict=True)) or None

    def accepts(self, path: str) -> bool:
        """Whether a canonical path matches: the plain reading of the rules, for explaining, not for speed."""
        if self.form is Form.EXPRESSION:
            return self.expression.match(path.encode("ascii")) is not None
        parts = path[1:].split("/") if self.text else []
        depth = len(self.segments)
        if len(parts) < depth or (self.form is Form.EXACT and len(parts) != depth):
            return False
        for part, segment in zip(parts, self.segments, strict=False):
            if part != segment and (segment is not None or not part):
                return False
        return self.tail is None or (len(parts) > depth and parts[depth].startswith(self.tail))


ANY_PATH = Pattern("")


def parse(text: str, rules: PathRules) -> Pattern:
    """Read one path of a route under the rules that requests are read by; PatternError says what is wrong."""
    if text.startswith("~"):
        return _parse_expression(text)
    if text.startswith("="):
        segments, names = _parse_segments(text[1:].strip(), rules)
        return Pattern(text, Form.EXACT, segments, names)
    if not text.endswith("*"):
        segments, names = _parse_segments(text, rules)
        if segments[-1] == "":
            return Pattern(text, Form.PREFIX, segments[:-1], names, tail="")
        return Pattern(text, Form.PREFIX, segments, names)
    prefix = text[:-1]
    if prefix.rpartition("/")[2] in (".", ".."):
        # Canonical, it would end in / and so match more than it says.
        raise PatternError("a prefix cannot end in a dot segment")
    if prefix.endswith("}"):
        raise PatternError("a capture takes a whole segment: nothing can follow it but /")
    segments, names = _parse_segments(prefix, rules)
    return Pattern(text, Form.PREFIX, segments[:-1], names, tail=segments[-1])


def _parse_segments(text: str, rules: PathRules) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """The segments of a literal path, None for a captured one, and the names of the captures."""
    if not text.startswith("/"):
        raise PatternError("a path begins with / (or with = / or ~ for the other forms)")
    if "{" not in text and "}" not in text:
        return tuple(_canonical(text, rules)[1:].split("/")), ()
    # Splitting by a capturing group gives literal runs and names in turn.
    runs = _capture.split(text)
    names = tuple(runs[1::2])
    segments: list[str | None] = []
    for run in runs[::2]:
        if "{" in run or "}" in run:
            raise PatternError("a capture is a whole segment, as in /orgs/{org}/lessons")
    for run in runs[:-1:2]:
        # The stand-in for the capture makes the run's own last segment an inner one, as it is.
        segments.extend(_canonical(run + "/_", rules)[1:].split("/")[:-1])
        segments.append(None)
    if runs[-1]:
        segments.extend(_canonical(runs[-1], rules)[1:].split("/"))
    for name in names:
        if _is_name(name) is None:
            raise PatternError(f"{{{name}}}: a capture is named by letters, digits and _")
        if names.count(name) > 1:
            raise PatternError(f"{{{name}}} is captured twice")
    return tuple(segments), names


def _canonical(text: str, rules: PathRules) -> str:
    """`canonical` for people: what no request target can hold as it is may be written plainly in a route."""
    raw = text.encode("utf-8")
    if not text.isascii() or " " in text:
        raw = b"".join(b"%%%02X" % byte if byte >= 0x80 or byte == 0x20 else b"%c" % byte for byte in raw)
    try:
        return canonical(raw, rules)
    except PathError as error:
        raise PatternError(str(error)) from None


def _parse_expression(text: str) -> Pattern:
    source = text[1:]
    if not source:
        raise PatternError("the regular expression is empty")
    names = [name for name in _group_names.findall(source) if name]
    for name in names:
        if names.count(name) > 1:
            raise PatternError(f"{name} is captured twice")
    options = re2.Options()
    options.log_errors = False
    try:
        expression = re2.compile(source.encode("utf-8"), options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise PatternError(f"not a regular expression that RE2 can run: {said}") from None
    groups = tuple((name.decode(), number) for name, number in expression.groupindex.items())
    return Pattern(text, Form.EXPRESSION, expression=expression, groups=groups)
