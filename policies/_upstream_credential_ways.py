"""The ways in which a credential of the LMS's own goes upstream: a fixed header, a query parameter, a fetched token.

Laws: what the client sent under the same name, in any spelling that a server could fold into it, never arrives beside
ours; a held token is a plain call; a token is in the upstream's lines and nowhere else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes, quote_plus, unquote_to_bytes

from gateway.core.answers import ISSUER_UNAVAILABLE
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Decision, Deny, Pending
from gateway.core.errors import IssuerError
from gateway.core.http import fold

if TYPE_CHECKING:
    from gateway.core.ports import TokenSource

_END: Final = b"\r\n"
#: PHP reads these in a parameter's name as `_`.
_UNDERSCORED: Final = bytes.maketrans(b" .[", b"___")
_BRACKETS: Final = re.compile(rb"[\[\]]")
_UNRESERVED: Final = re.compile(rb"[A-Za-z0-9\-._~]+")
_ESCAPE: Final = re.compile(rb"%[0-9A-F]{2}")


def put_line(context: Context, lower: bytes, line: bytes) -> None:
    """Send a header line upstream as the only one of its name: the client's go, and those of earlier policies."""
    context.hidden += (lower,)
    lines = context.upstream_lines
    if lines:
        folded = fold(lower)
        context.upstream_lines = lines = [other for other in lines if fold(other.partition(b":")[0]) != folded]
    lines.append(line)


class FixedHeader:
    """The same header on every request; `name` as it is written, `value` without its line's end."""

    def __init__(self, name: bytes, value: bytes) -> None:
        self._lower = name.lower()
        self._line = name + b": " + value + _END

    def check(self, context: Context) -> Decision:
        """`ALLOW`; leaves the line in the context."""
        put_line(context, self._lower, self._line)
        return ALLOW


class FixedParameter:
    """The same query parameter on every request, after all others; `name` is ASCII, `value` not yet encoded."""

    def __init__(self, name: str, value: bytes) -> None:
        self._name = name
        self._folded = _folded(name.encode("ascii"))
        self._parameter = (
            f"{quote_from_bytes(name.encode('ascii'), safe='')}={quote_from_bytes(value, safe='')}".encode()
        )
        #: The parameter as a URL may hold it, and the same without its value.
        self._written = _spellings(name.encode("ascii"), value)
        #: What is in all of these, however they are encoded.
        self._sign = max(_UNRESERVED.findall(name.encode("ascii")), key=len, default=b"")

    def check(self, context: Context) -> Decision:
        """`ALLOW`; leaves the query in the context."""
        given = context.upstream_query
        context.upstream_query = self.replaced(context.query if given is None else given)
        if self._name in context.hidden_query:
            # The client's key stood there, and is gone; what is hidden from now on would be ours.
            context.hidden_query = tuple(name for name in context.hidden_query if name != self._name)
        return ALLOW

    def on_response_head(self, context: Context, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        """A redirect repeats what was asked for, our parameter included: the client gets that without its value."""
        suspects = [field for field in fields if self._sign in field[1]]
        if not suspects:
            return
        named = {name.lower() for name, value in suspects if any(written in value for written in self._written)}
        if named:
            context.answer_lines += [name + b": " + self._emptied(value) + _END for name, value in fields
                                     if name.lower() in named]  # fmt: skip
            context.replaced += (frozenset(named),)

    def _emptied(self, value: bytes) -> bytes:
        for written, empty in self._written.items():
            value = value.replace(written, empty)
        return value

    def replaced(self, query: bytes) -> bytes:
        """A query with our parameter in place of every one that a server could take for it; the rest byte for byte."""
        kept: list[bytes] = []
        for part in query.split(b"&") if query else ():
            if b";" in part:
                # Some servers separate parameters by it, too.
                pieces = [piece for piece in part.split(b";") if not self._means(piece)]
                if pieces:
                    kept.append(b";".join(pieces))
            elif not self._means(part):
                kept.append(part)
        kept.append(self._parameter)
        return b"&".join(kept)

    def _means(self, parameter: bytes) -> bool:
        name = unquote_to_bytes(parameter.partition(b"=")[0].replace(b"+", b" "))
        if _folded(name) == self._folded:
            return True
        # PHP makes an array of `name[x]`, and qs reads `[name]` as `name`.
        return b"[" in name and _folded(next(filter(None, _BRACKETS.split(name.strip())), b"")) == self._folded


def _spellings(name: bytes, value: bytes) -> dict[bytes, bytes]:
    """How `name=value` may be written in a URL, or within another parameter of one, and the same without the value."""
    spellings: dict[bytes, bytes] = {}
    for encoded in (value, quote_from_bytes(value, safe="").encode(), quote_plus(value).encode()):
        plain = name + b"=" + encoded
        within = quote_from_bytes(plain, safe="").encode()
        spellings |= {plain: name + b"=", within: within.removesuffix(quote_from_bytes(encoded, safe="").encode())}
    return spellings | {
        _ESCAPE.sub(_lower, written): _ESCAPE.sub(_lower, empty) for written, empty in spellings.items()
    }


def _lower(escape: re.Match[bytes]) -> bytes:
    return escape[0].lower()


def _folded(name: bytes) -> bytes:
    """A parameter's name, decoded, as the loosest server would read it: PHP drops leading spaces, ends at a NUL and
    makes `_` of some characters; others make no difference of case."""
    return name.partition(b"\0")[0].strip().lower().translate(_UNDERSCORED)


class FetchedToken:
    """A token of the gateway's own in a header; `name` and `scheme` as they are written."""

    def __init__(self, name: bytes, scheme: bytes, source: TokenSource) -> None:
        self._lower = name.lower()
        self._prefix = name + b": " + scheme + b" "
        self._source = source

    def check(self, context: Context) -> Decision | Pending[Decision]:
        """`ALLOW` with the line in the context, or a `Pending` of it while there is no token yet; 503 without one."""
        try:
            token = self._source.token()
        except IssuerError as error:
            return _unavailable(error)
        if isinstance(token, Pending):
            return self._later(context, token)
        put_line(context, self._lower, self._prefix + token + _END)
        return ALLOW

    def _later(self, context: Context, asked: Pending[bytes]) -> Pending[Decision]:
        decision: Pending[Decision] = Pending(on_cancel=asked.cancel)

        def delivered(token: bytes) -> None:
            put_line(context, self._lower, self._prefix + token + _END)
            decision.resolve(ALLOW)

        def failed(error: BaseException) -> None:
            if isinstance(error, IssuerError):
                decision.resolve(_unavailable(error))
            else:
                decision.fail(error)

        asked.then(delivered, failed)
        return decision

    def on_response_head(self, context: Context, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        """An upstream that answers 401 may have had enough of the token that this request carried."""
        if status == 401:
            for line in context.upstream_lines:
                if line.startswith(self._prefix):
                    self._source.rejected(line[len(self._prefix) : -len(_END)])


def _unavailable(error: IssuerError) -> Deny:
    """503; why stands in the log, once a failure."""
    return Deny(
        ISSUER_UNAVAILABLE,
        headers=((b"Retry-After", b"%d" % error.retry_after),),
        facts={"retry_after": error.retry_after},
    )
