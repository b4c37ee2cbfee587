"""pydantic's errors as problems in Postern's words: key path, what is wrong, what was probably meant.

Union branches that pydantic names in its locations are folded into one sentence, or into the branch that was
meant; a value that was filled in from outside never appears in a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gateway.config.interpolate import Interpolated
from gateway.config.problems import Path, Problem, did_you_mean, value_at
from gateway.core.errors import PosternError
from gateway.core.policy import Policy

_A_LIST, _A_MAPPING = "must be a list", "must be a mapping"
_TEXTS = {
    "missing": "is required",
    "extra_forbidden": "unknown key",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text",
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type"), _A_LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"), _A_MAPPING),
}
_BOUNDS = {
    "greater_than_equal": ("must be at least {}", "ge"),
    "greater_than": ("must be more than {}", "gt"),
    "less_than_equal": ("must be at most {}", "le"),
    "less_than": ("must be less than {}", "lt"),
    "too_short": ("must hold at least {}", "min_length"),
    "too_long": ("must hold at most {}", "max_length"),
    "string_too_short": ("must have at least {} characters", "min_length"),
    "string_too_long": ("must have at most {} characters", "max_length"),
    "string_pattern_mismatch": ("must match {}", "pattern"),
}
#: Errors whose texts quote nothing of the file.
_OURS = frozenset({*_TEXTS, *_BOUNDS, "literal_error", "unknown_policy", "not_available"})
#: Errors that concern a key, not its value.
_ABOUT_KEYS = frozenset({"extra_forbidden", "unknown_policy", "not_available", "broken_policy"})
#: Errors that a number or a boolean in the place of text would mend.
_SCALAR_ERRORS = re.compile(r"(int|float|bool)_|literal_error")


@dataclass(frozen=True, slots=True)
class _Located:
    """An error with its path in the data; `union` is where along it pydantic tried branches, `branch` which one."""

    problem: Problem
    kind: str
    union: int | None
    branch: str | int | None


def _locate(data: Any, item: Mapping[str, Any]) -> tuple[Path, int | None, str | int | None, bool]:
    """`(path, union, branch, at_key)` of an error: what of its location is in the data, and what is not."""
    path: list[str | int] = []
    union: int | None = None
    branch: str | int | None = None
    at_key = False
    location = item["loc"]
    for number, part in enumerate(location, 1):
        here = isinstance(data, dict) and part in data
        if isinstance(data, list):
            here = isinstance(part, int) and 0 <= part < len(data)
        if here:
            path.append(part)
            data = data[part]
        elif part == "[key]":
            at_key = True
        elif item["type"] == "missing" and number == len(location):
            path.append(part)
        elif union is None:
            union, branch = len(path), part
    return tuple(path), union, branch, at_key


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation speaks of, itself included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


class Translator:
    """Puts pydantic's errors about one file into words.

    Takes the root model, the file's plain data, and the policies that it may name.
    """

    def __init__(self, root: type[BaseModel], data: Any, policies: Mapping[str, type[Policy]]) -> None:
        self._root = root
        self._data = data
        self._policies = policies

    def problems(self, error: ValidationError) -> list[Problem]:
        """What is wrong, one problem for each thing to mend."""
        located: list[_Located] = []
        for item in error.errors(include_url=False, include_input=False):
            path, union, branch, at_key = _locate(self._data, item)
            if item["type"] == "too_short" and self._is_long_enough(item, path):
                # pydantic counts only the items that are right; those that are not have their own problems.
                continue
            kind = item["type"]
            problem = Problem(path, self._text(item, path), at_key or kind in _ABOUT_KEYS, kind in _OURS)
            located.append(_Located(problem, kind, union, branch))
        plain = [entry.problem for entry in located if entry.union is None]
        unions: dict[Path, list[_Located]] = {}
        for entry in located:
            if entry.union is not None:
                unions.setdefault(entry.problem.path[: entry.union], []).append(entry)
        for where, entries in unions.items():
            plain += _fold(where, entries)
        return plain

    def numbers(self, error: ValidationError) -> Iterator[Path]:
        """The paths where text that was filled in stands for a number or a boolean."""
        for item in error.errors(include_url=False, include_input=False):
            path = _locate(self._data, item)[0]
            if _SCALAR_ERRORS.match(item["type"]) and isinstance(value_at(self._data, path), Interpolated):
                yield path

    def _text(self, item: Mapping[str, Any], path: Path) -> str:
        kind: str = item["type"]
        value = value_at(self._data, path)
        context: Mapping[str, Any] = item.get("ctx", {})
        if kind == "extra_forbidden":
            return _TEXTS[kind] + did_you_mean(str(path[-1]), self._known_keys(path[:-1]))
        if kind in _TEXTS:
            text = _TEXTS[kind]
            if kind == "string_type" and isinstance(value, bool | int | float):
                text += ": put it in quotes"
            return f"is empty and {text}" if value is None and kind != "missing" else text
        if kind in _BOUNDS:
            words, name = _BOUNDS[kind]
            return words.format(context.get(name))
        if kind == "literal_error":
            expected = str(context.get("expected", ""))
            hint = did_you_mean(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else ""
            return f"must be {expected}{hint}"
        message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return re.sub(r"^Input should ", "must ", message)

    def _is_long_enough(self, item: Mapping[str, Any], path: Path) -> bool:
        value = value_at(self._data, path)
        return isinstance(value, list | dict) and len(value) >= item["ctx"]["min_length"]

    def _known_keys(self, path: Path) -> list[str]:
        """The keys that the mapping at a path may have."""
        annotations: list[Any] = [self._root]
        for number, part in enumerate(path):
            if isinstance(part, int):
                continue
            if number and path[number - 1] == "policies" and part in self._policies:
                try:
                    annotations = [self._policies[part].Config]
                except PosternError:
                    return []
                continue
            fields = [field for model in self._expand(annotations) for name, field in _fields(model) if name == part]
            # A key of a plain mapping (`groups: {premium: …}`) leads to whatever the mapping holds.
            annotations = [field.annotation for field in fields] or annotations
        return [name for model in self._expand(annotations) for name, _ in _fields(model)]

    @staticmethod
    def _expand(annotations: list[Any]) -> Iterator[type[BaseModel]]:
        for annotation in annotations:
            for model in _models(annotation):
                root = model.model_fields.get("root")
                yield from _models(root.annotation) if root is not None else (model,)


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _fold(where: Path, entries: list[_Located]) -> list[Problem]:
    """The problems of one value that may be of several kinds: those of the kind that was meant, or one sentence."""
    branches: dict[Any, list[_Located]] = {}
    for entry in entries:
        branches.setdefault(entry.branch, []).append(entry)
    deeper = [group for group in branches.values() if not any(_misses(where, entry) for entry in group)]
    if deeper:
        return [entry.problem for entry in min(deeper, key=len)]
    texts = list(dict.fromkeys(entry.problem.text for entry in entries if entry.problem.path == where))
    wanted = [text.removeprefix("must be ") for text in texts if text.startswith("must be ")]
    others = [text for text in texts if not text.startswith("must be ")]
    sentence = "; ".join([*(["must be " + " or ".join(wanted)] if wanted else []), *others])
    ours = all(entry.problem.ours for entry in entries)
    return [replace(entries[0].problem, path=where, text=sentence, ours=ours)]


def _misses(where: Path, entry: _Located) -> bool:
    """True when the value is not even of the branch's kind."""
    return entry.problem.path == where and (entry.kind in _TEXTS or entry.kind == "literal_error")


# ── what was filled in stays out ────────────────────────────────────────────────────────────────


def _filled_in(value: Any) -> Iterator[Interpolated]:
    if isinstance(value, Interpolated):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _filled_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _filled_in(item)


class Redactor:
    """Keeps what was filled in from outside out of texts: it appears as `${…}`."""

    def __init__(self, data: Any) -> None:
        self._data = data
        pieces = {form for text in _filled_in(data) for piece in text.pieces for form in _spellings(piece)}
        self._pieces = sorted((piece for piece in pieces if len(piece) >= 4), key=len, reverse=True)

    def redact(self, problem: Problem) -> Problem:
        """The problem without any value that was filled in."""
        if problem.ours:
            return problem
        text = problem.text
        for value in _filled_in(value_at(self._data, problem.path)):
            text = text.replace(repr(str(value)), repr(value.source))
            # A text may quote a part of the value only.
            words = {word for piece in value.pieces for word in re.findall(r"\w{3,}", piece)}
            for word in sorted(words - _ORDINARY, key=len, reverse=True):
                text = re.sub(rf"(?<![\w$]){re.escape(word)}(?!\w)", "${…}", text)
        # What was filled in elsewhere can only be quoted, or be the name that is suggested.
        text = _QUOTED.sub(self._hide, text)
        return replace(problem, text=text) if text != problem.text else problem

    def _hide(self, match: re.Match[str]) -> str:
        quoted = match[0]
        for piece in self._pieces:
            quoted = quoted.replace(piece, "${…}")
        return quoted


#: Where a text may hold something of the file: from the first quote to the last, and in a suggestion.
_QUOTED = re.compile(r"""['"].*['"]|\(did you mean .*\?\)""", re.DOTALL)


def _spellings(piece: str) -> set[str]:
    return {piece, piece.strip(), repr(piece)[1:-1], repr(piece.strip())[1:-1]}


#: Words of our own texts, which give nothing away when a value happens to hold them.
_ORDINARY = frozenset(
    ("must", "not", "and", "the", "with", "its", "such", "auto", "true", "false", "text", "number", "whole", "list")
)
