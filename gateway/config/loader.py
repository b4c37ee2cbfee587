"""From a file to a `Loaded` configuration, or to a `ConfigError` with every problem at once, in file order.

The steps: bytes → plain values with `${…}` filled in (`document`) → models (`model`), what is not there yet
(`availability`), what concerns several settings (`checks`) → one report.  Lines and columns are looked up for
problems alone.  Law: nothing but ConfigError comes out, and no value that was filled in appears in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.config.availability import unavailable
from gateway.config.checks import check, declared_names
from gateway.config.document import Document, parse, scalar
from gateway.config.interpolate import Interpolated, Interpolator
from gateway.config.model import Config
from gateway.config.problems import Path as KeyPath
from gateway.config.problems import Place, Problem, format_path, printable, value_at
from gateway.config.translate import Redactor, Translator
from gateway.core.errors import ConfigError
from gateway.core.garbage import collector_off, let_go, pieces
from gateway.core.path import PathRules
from gateway.core.policy import Policy


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds.

    `hash` is 16 hexadecimal digits that change with the resolved content (not with comments or spacing) and
    give no secret away; `files` are the configuration, every `${file:…}` that was read, and the certificates and
    keys that are to be read; `warnings` are lines for the operator about what works but should not stay.
    """

    config: Config
    hash: str
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()
    content: bytes = field(default=b"", repr=False)

    def beside(self, file: str) -> Path:
        """A file that the configuration names: a relative path starts at its folder."""
        return self.files[0].parent / file

    def report(self, problems: Iterable[Problem]) -> list[str]:
        """Problems as lines `FILE:LINE:COLUMN: key.path: text`, in file order."""
        found = list(problems)
        if not found:
            return []
        with collector_off():
            return _lines(self.files[0], parse(self.content), found)


def _line(file: Path, place: Place, problem: Problem) -> str:
    text = f"{format_path(problem.path)}: {printable(problem.text)}"
    return f"{printable(str(file))}:{place.line}:{place.column}: {text}"


def _lines(file: Path, document: Document, problems: Iterable[Problem]) -> list[str]:
    located = [*document.problems, *((document.place(p.path, p.at_key), p) for p in problems)]
    located.sort(key=lambda entry: (entry[0].line, entry[0].column))
    return list(dict.fromkeys(_line(file, place, problem) for place, problem in located))


def _is_below(path: KeyPath, broken: set[KeyPath]) -> bool:
    return any(path[:length] in broken for length in range(1, len(path) + 1))


def _put(data: Any, path: KeyPath, value: Any) -> None:
    value_at(data, path[:-1])[path[-1]] = value


def _read_numbers(data: Any, paths: Iterable[KeyPath]) -> bool:
    """Read text that was filled in as the number or boolean that its setting wants; False if none is one."""
    changed = False
    for path in paths:
        text = value_at(data, path)
        value = scalar(str(text)) if isinstance(text, Interpolated) else None
        if value is not None and not isinstance(value, str):
            _put(data, path, value)
            changed = True
    return changed


def _path_rules(data: dict[str, Any]) -> PathRules:
    settings = data.get("paths")
    settings = settings if isinstance(settings, dict) else {}
    keep = settings.get("encoded_slash") == "keep"
    return PathRules("keep" if keep else "refuse", settings.get("merge_slashes") is not False)


def _validate(data: dict[str, Any], policies: Mapping[str, type[Policy]]) -> tuple[Config | None, list[Problem]]:
    context = {"policies": policies, "names": declared_names(data), "path_rules": _path_rules(data)}
    translator = Translator(Config, data, policies)
    try:
        return Config.model_validate(data, context=context), []
    except ValidationError as error:
        if not _read_numbers(data, list(translator.numbers(error))):
            return None, translator.problems(error)
    try:
        return Config.model_validate(data, context=context), []
    except ValidationError as error:
        return None, translator.problems(error)


#: How deep the large lists lie: the routes of a service.  What is below a piece is small.
_DEPTH = 4


def _feed(take: Callable[[bytes], None], value: Any, depth: int) -> None:
    """Give the content piece by piece: in one, other threads would wait for all of it."""
    if depth and isinstance(value, dict):
        take(b"{")
        for key in sorted(value):
            take(json.dumps(key).encode() + b":")
            _feed(take, value[key], depth - 1)
        take(b"}")
    elif depth and isinstance(value, list):
        take(b"[")
        for item in value:
            _feed(take, item, depth - 1)
            take(b",")
        take(b"]")
    else:
        take(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def _hash(data: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    _feed(digest.update, data, _DEPTH)
    # The hash is public (metrics, status), what it covers holds secrets: make trying them out dear.
    return hashlib.pbkdf2_hmac("sha256", digest.digest(), b"postern configuration", 20_000)[:8].hex()


def _warnings(data: dict[str, Any]) -> Iterator[Problem]:
    secret = data.get("secret_key")
    if secret and not isinstance(secret, Interpolated):
        yield Problem(("secret_key",), "stands in the file itself; better ${POSTERN_SECRET_KEY} or ${file:PATH}")
    if not any(service.get("routes") for service in data.get("services", [])):
        yield Problem(("services",), "there is no route: every request will be answered 404")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable file name"
        raise ConfigError([f"{printable(str(path))}: cannot be read: {reason}"]) from None


def load(
    path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    policies: Mapping[str, type[Policy]] | None = None,
    pipes: bool = True,
) -> Loaded:
    """Read, fill in, validate.

    Takes the file, the environment for `${NAME}` (default: the process's), the policies that may be named
    (default: every installed one), and whether `${file:…}` may name a pipe.  Raises ConfigError with a line for each
    problem.
    """
    return load_bytes(_read(path), path, environ=environ, policies=policies, pipes=pipes)


def load_bytes(
    content: bytes,
    path: Path,
    *,
    environ: Mapping[str, str] | None = None,
    policies: Mapping[str, type[Policy]] | None = None,
    pipes: bool = True,
) -> Loaded:
    """`load`, of content that was read already; `path` is its name in the report, and where `${file:…}` starts."""
    if policies is None:
        from gateway.registry import policies as installed

        policies = installed()
    interpolator = Interpolator(os.environ if environ is None else environ, path.parent, pipes=pipes)
    with collector_off():
        try:
            return _load(content, path, interpolator, policies)
        except ConfigError as error:
            error.files = tuple(sorted(interpolator.named))
            raise


def _load(content: bytes, path: Path, interpolator: Interpolator, policies: Mapping[str, type[Policy]]) -> Loaded:
    document = parse(content, interpolator)
    data = document.value
    if not document.problems and not isinstance(data, dict):
        what = "is empty" if data is None else "must be a mapping of settings"
        raise ConfigError(_lines(path, document, [Problem((), what)]))
    if not document.complete or not isinstance(data, dict):
        raise ConfigError(_lines(path, document, []))
    redactor = Redactor(data)
    config, problems = _validate(data, policies)
    problems += [*unavailable(data), *check(data, policies)]
    if problems or document.problems or config is None:
        told = (redactor.redact(problem) for problem in problems if not _is_below(problem.path, document.broken))
        raise ConfigError(_lines(path, document, told))
    warnings = _lines(path, document, _warnings(data))
    named = (path.parent / file for file in config.files())
    files = tuple(dict.fromkeys((path, *interpolator.files, *named)))
    loaded = Loaded(config, _hash(data), files, tuple(warnings), content)
    remains = [*pieces(data, _DEPTH), *document.position.pieces(_DEPTH)]
    del document, data, redactor
    let_go(remains)
    return loaded
