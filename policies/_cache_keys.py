"""Under which key a response is stored: everything that the upstream's answer may depend on, and who asked.

Law: a response never reaches somebody whom the key does not include.  A key is a digest, so nothing of a request can
be read out of it; its parts are told apart, so no two requests make one text.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.core.context import Context
from gateway.core.http import CREDENTIALS, FORWARDED, IDENTITY, Kind, fold, request_name, tokens
from gateway.core.identity import Identity

#: Where a request says on whose behalf it is made, beside the credential that the gateway checked and hides.
PERSONAL: Final = CREDENTIALS | {
    b"cookie",
    b"x-authenticated-user-token",
    b"x-auth-token",
    b"x-access-token",
    b"x-user-token",
    b"x-session-token",
}
#: What the gateway passes on of these names the upstream may build its URLs from.
_OUTSIDE: Final = (b"host", b"x-forwarded-host", b"x-forwarded-port")
_TRUSTED: Final = int(Kind.TRUSTED)
#: A response that depends on one of these is like no other.
_NEVER_THE_SAME: Final = frozenset({b"*", b"x-request-id", b"traceparent"})
#: Most names of a `Vary` that are followed, and bytes of them.
_MOST_NAMES: Final = 16
_MOST_BYTES: Final = 512
#: PHP reads these in a parameter's name as `_`.
_UNDERSCORED: Final = bytes.maketrans(b" .[", b"___")
_BRACKETS: Final = re.compile(rb"[\[\]]")
#: A parameter's name that everybody reads alike, as it is.
_ORDINARY: Final = re.compile(rb"[a-z0-9_\-]+").fullmatch
#: Most names of headers that are remembered.
_MOST_INNOCENT: Final = 1024


class Recipe:
    """How the keys of a route are made.

    `who` are the parts of the identity that tell answers apart, of "credential", "consumer", "groups" and
    "organization" (none: everybody shares); `headers` are lower-case names; `parameters` the names of the query's
    parameters that count (none: the whole query, byte for byte).
    """

    def __init__(
        self, service: str, route: str, who: tuple[str, ...], headers: tuple[bytes, ...], parameters: tuple[str, ...]
    ) -> None:
        self._prefix = [service.encode(), route.encode(), ",".join(who).encode()]
        self._who = who
        self._headers = headers
        self._parameters = frozenset([_plain(name.encode()) for name in parameters])
        self._memo = ("proxy-cache", who)
        self._keyed = frozenset([fold(name) for name in headers])
        self._personal = PERSONAL - self._keyed
        #: Names that were seen, and are no signs.
        self._innocent: set[bytes] = set()

    def personal(self, context: Context) -> bool:
        """Does the upstream see a sign of who is asking that the key does not hold?"""
        for name in context.index.keys() - self._innocent:
            if name in context.hidden:
                continue
            folded = fold(name)
            if folded not in self._personal:
                if len(self._innocent) < _MOST_INNOCENT:
                    self._innocent.add(name)
            elif folded not in [fold(hidden) for hidden in context.hidden]:
                return True
        return bool(context.upstream_lines) and self._moved(context)

    def _moved(self, context: Context) -> bool:
        """Has a policy put such a sign of the client's under another name, or another field of it under such a name?"""
        index = context.index
        for block in context.upstream_lines:
            for line in block.split(b"\r\n"):
                name, _, text = line.partition(b":")
                value = text.strip(b" \t")
                sign = fold(name) in self._personal
                for other, given in index.items():
                    if value and (given == value or (other in context.repeated and value in given)):
                        folded = fold(other)
                        if folded not in self._keyed and (sign or folded in self._personal):
                            return True
        return False

    def primary(self, context: Context) -> str:
        """The key of a request, before anything is known of a `Vary`."""
        index, identity = context.index, context.identity
        parts = [
            *self._prefix,
            context.scheme.encode(),
            context.host.encode(),
            context.path.encode(),
            self._selected(context) if self._parameters else context.query,
            b"" if identity is None or not self._who else self._caller(identity),
        ]
        parts += [index.get(name, b"") for name in _OUTSIDE]
        for name in index:
            if request_name(name)[0] == _TRUSTED:
                parts += (name, index[name])
        for name in self._headers:
            parts.append(self._selecting(name, context, True))
        return _digest(parts)

    def variant(self, primary: str, names: tuple[bytes, ...], context: Context) -> str | None:
        """The key of the response that a request selects of those that differ by these fields (RFC 9111 §4.1).

        None where no other request could select the same.
        """
        if len(names) > _MOST_NAMES or sum(map(len, names)) > _MOST_BYTES or not _NEVER_THE_SAME.isdisjoint(names):
            return None
        parts = [primary.encode()]
        for name in names:
            parts += (name, self._selecting(name, context, False))
        return _digest(parts)

    def _selecting(self, name: bytes, context: Context, sent: bool) -> bytes:
        """What the upstream gets in the field of this name, in any spelling that a server could fold into it, and,
        where `sent` is true, what the client sent in it, too."""
        folded = fold(name)
        if folded in IDENTITY:
            return b"" if context.identity is None else context.identity.upstream_headers
        index = context.index
        parts: list[bytes] = []
        if sent or folded not in [fold(hidden) for hidden in context.hidden]:
            # What Connection nominates ends at the gateway: who says so sends the upstream another request.
            ended = tokens(index[b"connection"]) if b"connection" in index else ()
            for spelling, value in index.items():
                if fold(spelling) == folded:
                    parts += (b"\x02" if spelling in ended else b"\x01", spelling, value)
        if folded in FORWARDED or folded == b"forwarded":
            parts.append(context.client.encode())
        for block in context.upstream_lines:
            parts += [line for line in block.split(b"\r\n") if fold(line.partition(b":")[0]) == folded]
        return b"\n".join(parts)

    def _selected(self, context: Context) -> bytes:
        """The parameters that count, as the client sent them and as the upstream gets them."""
        sent = self._query(context.query)
        given = context.upstream_query
        return sent if given is None else sent + b"\n" + self._query(given)

    def _query(self, query: bytes) -> bytes:
        """The parameters that count, in their order, and whatever a server could take for one of them."""
        return b"&".join([part for part in query.split(b"&") if self._counts(part)])

    def _counts(self, part: bytes) -> bool:
        name = part.partition(b"=")[0]
        if b";" not in part and _ORDINARY(name) is not None:
            return name in self._parameters
        names = [piece.partition(b"=")[0] for piece in part.split(b";")]
        return any(not self._parameters.isdisjoint(_readings(name)) for name in names)

    def _caller(self, identity: Identity) -> bytes:
        """Those parts of an identity that tell answers apart; computed once an identity."""
        known: bytes | None = identity.derived.get(self._memo)
        if known is None:
            known = identity.derived[self._memo] = _digest(_parts_of(identity, self._who)).encode()
        return known


def _parts_of(identity: Identity, who: tuple[str, ...]) -> list[bytes]:
    consumer, credential = identity.consumer, identity.credential
    parts: list[bytes] = []
    for kind in who:
        text = kind
        if kind == "groups":
            text += " " + ",".join(sorted(identity.groups))
        elif kind == "organization" and consumer.organization is not None:
            text += " " + consumer.organization.id
        elif kind == "credential" and credential is not None:
            # All that the upstream is told of the caller: regrouped, or with other scopes, it may answer otherwise.
            text += f" {credential.id} {identity.user_id or ''} "
            parts.append(identity.upstream_headers)
        else:
            text += f" consumer {consumer.id} {identity.user_id or ''}"
        parts.append(text.encode())
    return parts


def _readings(written: bytes) -> tuple[bytes, bytes]:
    """The names that servers may read in that of a parameter: some make no difference of case, PHP reads `my.a` as
    `my_a` and `a[]` as `a`, qs reads `[a]` as `a`, and C ends at NUL."""
    name = unquote_to_bytes(written.replace(b"+", b" ")).partition(b"\0")[0]
    outermost = next(filter(None, _BRACKETS.split(name)), b"")
    return _plain(name), _plain(outermost)


def _plain(name: bytes) -> bytes:
    return name.strip().lower().translate(_UNDERSCORED)


def vary_names(index: dict[bytes, bytes]) -> tuple[bytes, ...]:
    """The request fields that a response depends on, sorted, each once; empty where it says nothing."""
    value = index.get(b"vary")
    return () if value is None else tuple(sorted(set(tokens(value))))


def resource_of(host: str, path: str) -> str:
    """What is dropped when a request changes it: a path of a host, with whatever query, scheme and caller."""
    return _digest([host.encode(), path.encode()])


def _digest(parts: list[bytes]) -> str:
    text = b"\0".join(parts)
    if text.count(0) >= len(parts):
        # A part holds what parts are separated by, which no field of a request can: say how long each is.
        text = b"\0" + b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return blake2b(text, digest_size=20).hexdigest()
