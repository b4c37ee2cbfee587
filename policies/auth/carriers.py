"""Where in a request a key stands: the carriers, in their order (contract §3).

`Authorization: Bearer KEY`, `Authorization: Basic base64(KEY:)`, a header of its own, a query parameter: the first
of those that the route takes and that holds a credential decides.  Laws: nothing that two readers could read in two
ways is read at all (a repeated header or parameter is refused), and what was not read is not touched.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from gateway.core.context import Context

AUTHORIZATION: Final = b"authorization"


class Nothing(Enum):
    """Why there is no credential to judge."""

    #: No carrier of the route holds anything.
    MISSING = "missing"
    #: None but an `Authorization` whose scheme the route does not take.
    OTHER_SCHEME = "other scheme"
    #: A credential stands there twice.
    REPEATED = "repeated"
    #: `Basic` that is not base64, has no colon, or has a password.
    MALFORMED = "malformed"


#: A token as it came, and the names of the headers that carried it, for hiding.
Found = tuple[bytes, tuple[bytes, ...]]

_IN_QUERY: tuple[bytes, ...] = ()


def parse_basic(value: bytes) -> bytes | None:
    """The key of `base64(KEY:)`; None when it is not base64, or does not end in an empty password."""
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    key, colon, password = decoded.partition(b":")
    return key if colon and not password and key else None


def query_values(query: bytes, names: Collection[bytes]) -> tuple[list[bytes], list[str]]:
    """The decoded values of the parameters of these names, and the names that occur, as decoded text."""
    values: list[bytes] = []
    found: list[str] = []
    for parameter in query.split(b"&"):
        name, _, value = parameter.partition(b"=")
        decoded = unquote_to_bytes(name.replace(b"+", b" ")) if b"%" in name or b"+" in name else name
        if decoded in names:
            found.append(decoded.decode("latin-1"))
            values.append(unquote_to_bytes(value.replace(b"+", b" ")))
    return values, found


class Carriers:
    """The carriers that a route takes: any of "bearer", "basic", "header", "query"; `key_names` as in the file."""

    def __init__(self, carriers: Collection[str], key_names: Sequence[str]) -> None:
        self._bearer = "bearer" in carriers
        self.basic = "basic" in carriers
        names = tuple(name.lower().encode("ascii") for name in key_names)
        # Whichever of them decides, the LMS is spared every header that carries keys; an `Authorization` of another
        # scheme is the LMS's own.
        self._headers = names if "header" in carriers else ()
        self._in_authorization = (AUTHORIZATION, *self._headers)
        self._query = frozenset(name.encode("ascii") for name in key_names) if "query" in carriers else frozenset()
        self._watched = frozenset({AUTHORIZATION, *self._headers})

    def find(self, context: Context) -> Found | Nothing:
        """The token that decides, or why there is none.  Key parameters of the query go into `context.hidden_query`."""
        if context.repeated and not self._watched.isdisjoint(context.repeated):
            return Nothing.REPEATED
        if self._query and context.query:
            return self._with_query(context)
        return self._in_headers(context)

    def _in_headers(self, context: Context) -> Found | Nothing:
        index = context.index
        nothing = Nothing.MISSING
        value = index.get(AUTHORIZATION)
        if value:
            if self._bearer and value[:7] == b"Bearer ":
                return value[7:].strip(b" \t"), self._in_authorization
            scheme, _, rest = value.partition(b" ")
            scheme = scheme.lower()
            if self._bearer and scheme == b"bearer":
                return rest.strip(b" \t"), self._in_authorization
            if self.basic and scheme == b"basic":
                key = parse_basic(rest.strip(b" \t"))
                return Nothing.MALFORMED if key is None else (key, self._in_authorization)
            nothing = Nothing.OTHER_SCHEME
        for name in self._headers:
            value = index.get(name)
            if value:
                return value, self._headers
        return nothing

    def _with_query(self, context: Context) -> Found | Nothing:
        values, found = query_values(context.query, self._query)
        if found:
            # Whoever decides, a key in the query stays out of logs and away from the upstream.
            context.hidden_query += tuple(dict.fromkeys(found))
        if len(values) > 1:
            return Nothing.REPEATED
        token = self._in_headers(context)
        if values and values[0] and (token is Nothing.MISSING or token is Nothing.OTHER_SCHEME):
            return values[0], _IN_QUERY
        return token
