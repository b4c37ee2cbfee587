"""What `request-transformer` does to one request: steps over the headers and parameters that the upstream would get.

Apart from the settings, so that it can be compiled.  Laws: what another policy hid is not there, so no step can move
it; header names are compared as the loosest server would fold them (`core.http.fold`), so no other spelling gets
past a step; and what no step names keeps its bytes.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote_to_bytes

from gateway.core.context import Context
from gateway.core.http import Kind, fold, request_name, tokens

REMOVE: Final = 0
RENAME: Final = 1
REPLACE: Final = 2
ADD: Final = 3
APPEND: Final = 4

#: A kind, a name, and the new name or the value; for `REMOVE` the third is empty.
Step = tuple[int, str, str]

_FORWARD: Final = int(Kind.FORWARD)
_CREDENTIAL: Final = int(Kind.CREDENTIAL)


class HeaderSteps:
    """Steps over header lines, in their order."""

    def __init__(self, steps: list[Step]) -> None:
        """`steps` are checked already: names are tokens that may be written, values fit a line."""
        self._steps = [(kind, name.encode("ascii"), text.encode("latin-1")) for kind, name, text in steps]
        watched: set[bytes] = set()
        settled: set[bytes] = set()
        for kind, name, text in self._steps:
            watched.add(fold(name))
            if kind == RENAME:
                watched.add(fold(text))
            if kind != APPEND:
                settled.add(fold(name))
        self._watched = frozenset(watched)
        # A chunked body may bring fields behind it, which these steps would never see.
        self._settled = tuple(sorted(settled))
        self._unmet = self._run({})[1]

    def apply(self, context: Context) -> None:
        """Leave in the context what the upstream gets in place of the client's lines."""
        watched = self._watched
        if not context.upstream_lines:
            for name in context.index:
                if fold(name) in watched:
                    break
            else:
                context.upstream_lines += self._unmet
                if context.content_length is None:
                    context.hidden += self._settled
                return
        values = self._present(context)
        changed, lines = self._run(values)
        if changed and context.upstream_lines:
            kept = b"".join(context.upstream_lines).split(b"\r\n")[:-1]
            context.upstream_lines = [
                line + b"\r\n" for line in kept if fold(line.partition(b":")[0]) not in changed
            ]  # fmt: skip
        context.upstream_lines += lines
        if context.content_length is None:
            changed.update(name for name in self._settled if name not in values)
        context.hidden += tuple(changed)

    def _present(self, context: Context) -> dict[bytes, list[bytes]]:
        """The values that the upstream would get under the names that the steps look at, by folded name."""
        watched = self._watched
        hidden = {fold(name) for name in context.hidden}
        ended = tokens(context.index.get(b"connection", b""))
        values: dict[bytes, list[bytes]] = {}
        for line in context.lines:
            name, _, value = line.partition(b":")
            folded = fold(name)
            if folded in watched and folded not in hidden:
                kind, lower = request_name(name)
                if kind in (_FORWARD, _CREDENTIAL) and lower not in ended:
                    values.setdefault(folded, []).append(value.strip(b" \t"))
        for line in b"".join(context.upstream_lines).split(b"\r\n")[:-1]:
            name, _, value = line.partition(b":")
            folded = fold(name)
            if folded in watched:
                values.setdefault(folded, []).append(value.strip(b" \t"))
        return values

    def _run(self, values: dict[bytes, list[bytes]]) -> tuple[set[bytes], list[bytes]]:
        """`(the folded names whose lines must go, the lines that stand in their place)`; `values` are changed."""
        changed: set[bytes] = set()
        written: dict[bytes, bytes] = {}
        appended: list[bytes] = []
        for kind, name, text in self._steps:
            folded = fold(name)
            if kind == REMOVE:
                values.pop(folded, None)
                changed.add(folded)
            elif kind == RENAME:
                taken = values.pop(folded, None)
                if taken is not None:
                    new = fold(text)
                    values[new] = taken
                    written[new] = text
                    changed.update((folded, new))
            elif kind == REPLACE:
                if folded in values:
                    values[folded] = [text]
                    written[folded] = name
                    changed.add(folded)
            elif kind == ADD:
                if folded not in values:
                    values[folded] = [text]
                    written[folded] = name
                    changed.add(folded)
            elif folded in changed:
                values.setdefault(folded, []).append(text)
                written.setdefault(folded, name)
            else:
                appended.append(name + b": " + text + b"\r\n")
        lines = [
            written[folded] + b": " + value + b"\r\n"
            for folded, those in values.items()
            if folded in changed
            for value in those
        ]
        return changed, lines + appended


class QuerySteps:
    """Steps over the parameters of a query string, in their order."""

    def __init__(self, steps: list[Step]) -> None:
        """`steps` hold names and values as they mean; they are percent-encoded here."""
        self._steps: list[tuple[int, bytes, bytes, bytes]] = []
        watched: set[bytes] = set()
        for kind, name, text in steps:
            exact, new = name.encode("utf-8"), b""
            if kind == RENAME:
                new = text.encode("utf-8")
                parameter = quote(text, safe="").encode("ascii")
            else:
                parameter = f"{quote(name, safe='')}={quote(text, safe='')}".encode("ascii")
            watched.update((exact, new) if new else (exact,))
            self._steps.append((kind, exact, new, parameter))
        self._watched = frozenset(watched)
        self._unmet = b"&".join([parameter for _, parameter in self._run([])[1]])

    def apply(self, context: Context) -> None:
        """Leave in the context the query string that the upstream gets, if it is another than it would be."""
        given = context.upstream_query
        query = context.query if given is None else given
        if not query:
            if self._unmet:
                context.upstream_query = self._unmet
            return
        watched = self._watched
        # What is hidden has no name that a step could know.
        hidden = {name.encode("utf-8") for name in context.hidden_query}
        parameters: list[tuple[bytes, bytes]] = []
        met = False
        for parameter in query.split(b"&"):
            name = _name_of(parameter)
            if name in hidden:
                continue
            met = met or name in watched
            parameters.append((name, parameter))
        if met:
            changed, parameters = self._run(parameters)
            if not changed:
                return
        elif not self._unmet:
            return
        kept = [parameter for _, parameter in parameters]
        context.upstream_query = b"&".join(kept if met or not self._unmet else [*kept, self._unmet])
        # It is gone: what has its name from now on is what a step put in.
        context.hidden_query = ()

    def _run(self, parameters: list[tuple[bytes, bytes]]) -> tuple[bool, list[tuple[bytes, bytes]]]:
        """Whether anything became of them, and what."""
        changed = False
        for kind, name, new, written in self._steps:
            there = any(each == name for each, _ in parameters)
            if kind == APPEND or (kind == ADD and not there):
                parameters = [*parameters, (name, written)]
            elif kind == ADD or not there:
                continue
            elif kind == REMOVE:
                parameters = [entry for entry in parameters if entry[0] != name]
            elif kind == RENAME:
                parameters = [
                    (new, written + parameter[len(parameter.partition(b"=")[0]) :])
                    if each == name
                    else (each, parameter)
                    for each, parameter in parameters
                    if each == name or each != new
                ]
            else:
                parameters = _replaced(parameters, name, written)
            changed = True
        return changed, parameters


def _name_of(parameter: bytes) -> bytes:
    """A parameter's name as servers read it."""
    name = parameter.partition(b"=")[0]
    return unquote_to_bytes(name.replace(b"+", b" ")) if b"%" in name or b"+" in name else name


def _replaced(parameters: list[tuple[bytes, bytes]], name: bytes, written: bytes) -> list[tuple[bytes, bytes]]:
    """The first parameter of a name with another text, without the others of that name."""
    kept: list[tuple[bytes, bytes]] = []
    done = False
    for entry in parameters:
        if entry[0] != name:
            kept.append(entry)
        elif not done:
            done = True
            kept.append((name, written))
    return kept
