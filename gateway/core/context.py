"""One request as policies see it.

The data plane fills the request's side before the pipeline runs and reads the gathered side after it.
Fields are plain values; header names are lower-case bytes, values bytes as they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from gateway.core.identity import Identity


class ServiceLike(Protocol):
    """What a policy may know of a service."""

    @property
    def name(self) -> str: ...


class RouteLike(Protocol):
    """What a policy may know of the route that matched."""

    @property
    def name(self) -> str: ...

    @property
    def service(self) -> ServiceLike: ...


class Tap(Protocol):
    """Sees a response's body as it is relayed to the client, without its framing, and may not hold it up."""

    def write(self, payload: bytes, last: bool) -> None:
        """A piece of the body; `last` is true once, with its final piece (which may be empty)."""
        ...

    def abort(self) -> None:
        """The body will never be complete; nothing more is said."""
        ...


class Context:
    """The request, and what policies gathered for either side.

    The request (set by the data plane, read-only for policies):

    * `method` - as sent, for example "GET"; `path` - the canonical path (`gateway.core.path`), ASCII;
      `query` - the bytes after "?", b"" where there are none; `host` - lower case without the port;
      `scheme` - "http" or "https".
    * `lines` - every header line as it came, without its end; `fields` - the same as `(name, value)`;
      `index` - lower-case name to value, several fields of one name joined with ", " (RFC 9110 §5.3; cookies with
      "; "); `repeated` - the names that came more than once.
    * `client` - the client's address as text, found through trusted proxies; `arrived` - the injected
      monotonic clock at the head's arrival, in nanoseconds; `now` - Unix seconds at that moment.
    * `request_id`; `route`, what matched; `captures`, the named parts of its path.
    * `content_length` - the declared size of the body in bytes, 0 for none, None for a chunked one.

    Gathered by policies:

    * `identity` - who is calling, or None.
    * `hidden` - lower-case header names that the upstream must not get; `hidden_query` - names of query
      parameters that it must not get.
    * `upstream_lines` - header lines for the upstream, one each, ending in CRLF; `upstream_query` - the query string
      that the upstream gets in place of the client's (`hidden_query` still applies), None for the client's own.
    * `answer_lines` - header lines that stand on whatever answer the client gets, each ending in CRLF;
      `replaced` - sets of lower-case names: an upstream's own headers of these names are dropped.
    * `tap` - who wants to see the response's body as it is relayed (set from `on_response_head`), or None.
    * `body_limit` - the largest body in bytes that may pass, None for no limit but the listener's.
    * `decided_by` - the name of the policy that ended the request (set by the pipeline), "" where none did.
    * `counted` - what rate limits counted so far, for those that count later (None: nothing).
    * `caching` - what the cache of responses knows of this request until it is over (None: nothing).
    * `granted` - how the identity was established, for its recheck after a wait (see `Policy.recheck`).
    """

    __slots__ = (
        "answer_lines",
        "arrived",
        "body_limit",
        "caching",
        "captures",
        "client",
        "content_length",
        "counted",
        "decided_by",
        "granted",
        "hidden",
        "hidden_query",
        "host",
        "identity",
        "index",
        "lines",
        "method",
        "now",
        "path",
        "query",
        "repeated",
        "replaced",
        "request_id",
        "route",
        "scheme",
        "tap",
        "upstream_lines",
        "upstream_query",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes,
        host: str,
        scheme: str,
        lines: list[bytes],
        index: dict[bytes, bytes],
        repeated: frozenset[bytes],
        client: str,
        arrived: int,
        now: float,
        request_id: str,
        content_length: int | None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.host = host
        self.scheme = scheme
        self.lines = lines
        self.index = index
        self.repeated = repeated
        self.client = client
        self.arrived = arrived
        self.now = now
        self.request_id = request_id
        self.content_length = content_length
        self.route: RouteLike | None = None
        self.captures: dict[str, str] | None = None
        self.identity: Identity | None = None
        self.hidden: tuple[bytes, ...] = ()
        self.hidden_query: tuple[str, ...] = ()
        self.upstream_lines: list[bytes] = []
        self.upstream_query: bytes | None = None
        self.answer_lines: list[bytes] = []
        self.replaced: tuple[frozenset[bytes], ...] = ()
        self.tap: Tap | None = None
        self.body_limit: int | None = None
        self.counted: Any = None
        self.caching: Any = None
        self.granted: object = None
        self.decided_by = ""

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Every header in order, as `(name, value)`."""
        return split_fields(self.lines)


def split_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Header lines as `(name, value)`, white space around values left out (RFC 9112 §5)."""
    return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]


NOTHING_REPEATED: Final[frozenset[bytes]] = frozenset()


def index_fields(fields: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    """`(index, repeated)` of a list of header fields, as `Context` wants them."""
    index: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in fields:
        lower = name.lower()
        if lower in index:
            repeated.add(lower)
            # Cookies of a split field are joined as RFC 9113 §8.2.3 does.
            index[lower] += (b"; " if lower == b"cookie" else b", ") + value
        else:
            index[lower] = value
    return index, frozenset(repeated)
