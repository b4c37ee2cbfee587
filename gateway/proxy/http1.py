"""HTTP/1.1 message heads, sans I/O: the door to httptools (law 5).

A head is cut at the first empty line by our own limits, its first line is judged by our own grammar
(RFC 9112 §3, §4), and exactly the head is fed to a fresh llhttp parser, which is strict about names,
values and line ends.  How a body is framed (RFC 9112 §6) is decided here, from the fields, once.
What llhttp lets pass and RFC 9112 does not (HTTP/0.9, RTSP, two spaces, `gzip, chunked`, codings in
HTTP/1.0) is refused here.  Lines that llhttp has accepted are remembered (`lines`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Final

import httptools

from gateway.core import answers
from gateway.core.answers import Answer
from gateway.core.context import NOTHING_REPEATED, index_fields, split_fields
from gateway.core.http import Kind, request_name, tokens
from gateway.proxy.lines import REQUEST_LINES, RESPONSE_LINES, WATCHED

Fields = list[tuple[bytes, bytes]]

END: Final = b"\r\n\r\n"

#: The most header lines of a response that is believed.
MAX_RESPONSE_FIELDS: Final = 500

#: Body framings: none; a known length is its number of bytes (≥ 0).
NO_BODY: Final = 0
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

# A target has no fragment (RFC 9112 §3.2): everything visible but `#`.
_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} [!\"$-~]+ HTTP/[0-9]\.[0-9]\r\n")
_LONG_TARGET: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} [!\"$-~]*")
_SOME_VERSION: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} [!\"$-~]+ HTTP/(?!1\.[01]\r)[0-9]+(?:\.[0-9]+)?\r\n"
)
_TRAILING_SPACE: Final = re.compile(rb"(?<=[!-~\x80-\xff])[ \t]+\r\n")
_ACCEPT: Final = re.compile(rb"(?i)\r\naccept:[ \t]*([^\r\n]*)")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
# RFC 3986 §3.2.2: a name, an IPv4 address or an IPv6 address in brackets; a port of five digits at the most.
_HOST: Final = re.compile(
    rb"(?:(?:[A-Za-z0-9_\-.~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+|\[([0-9A-Fa-f:.]{2,45})\])(?::[0-9]{0,5})?"
)

#: What llhttp knows and does not treat specially; any other token is fed to it as POST and forwarded as sent.
_FED_AS_IS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
_REFUSED: Final = frozenset({b"CONNECT", b"TRACE"})
#: Codings that RFC 9112 and its registry know; one of these before `chunked` is understood and not implemented.
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


_hosts: Final[dict[bytes, str]] = {}


def hostname_of(host: bytes) -> str:
    """A Host field's value as routers want it: lower case, without port and final dot.

    Raises `Refused` for what is no host (RFC 9112 §3.2); remembers 4,096 good ones.
    """
    known = _hosts.get(host)
    if known is not None:
        return known
    match = _HOST.fullmatch(host)
    if match is None:
        raise Refused(answers.BAD_REQUEST, "malformed Host")
    if match[1] is not None:
        try:
            IPv6Address(match[1].decode("ascii"))
        except AddressValueError:
            raise Refused(answers.BAD_REQUEST, "malformed address in Host") from None
    text = host.decode("ascii").lower()
    if not text.endswith("]"):
        name, colon, port = text.rpartition(":")
        if colon and (port.isdigit() or not port):
            text = name
    text = text.removesuffix(".")
    if len(_hosts) < 4096:
        _hosts[host] = text
    return text


@dataclass(frozen=True)
class Limits:
    """What the listener takes: bytes of a head, number of fields, bytes of a target."""

    header_bytes: int = 32 * 1024
    headers: int = 100
    target_bytes: int = 8 * 1024


class Refused(Exception):
    """A request that is refused at the door; `answer` is what the client gets before the connection closes."""

    def __init__(self, answer: Answer, detail: str) -> None:
        super().__init__(detail)
        self.answer = answer
        self.detail = detail


class BadResponse(Exception):
    """A response head that nobody may see; the client gets 502."""


class RequestHead:
    """A request's head.

    `target` as sent; `version` 0 or 1 (the minor of HTTP/1.x); `lines` the header lines as they came, without
    their ends; `index` by lower-case name, `repeated` the names that came more than once; `special` the numbers
    of the lines whose name is not simply forwarded, with its kind and lower-case name; `framing` the length of
    the body in bytes, `CHUNKED`, or `NO_BODY`; `keep_alive` what the client wants; `expects` whether it waits
    for a 100; `options` the lower-case tokens of Connection; `host` as sent (b"" where HTTP/1.0 gave none),
    `hostname` as routers want it.
    """

    __slots__ = ("expects", "framing", "host", "hostname", "index", "keep_alive", "lines", "method", "options",
                 "repeated", "special", "target", "version")  # fmt: skip

    method: bytes
    target: bytes
    version: int
    lines: list[bytes]
    index: dict[bytes, bytes]
    repeated: frozenset[bytes]
    special: list[tuple[int, int, bytes]]
    framing: int
    keep_alive: bool
    expects: bool
    options: list[bytes] | tuple[()]
    host: bytes
    hostname: str


class ResponseHead:
    """A response's head: `line` is the status line without the version (b" 200 OK\\r\\n"), `lines` and `special`
    as in a request's head (without kinds), `framing` as the status and fields say (a HEAD request's response
    has no body whatever it says), `length` the Content-Length as sent, `keep_alive` whether the upstream's
    connection may be used again, `options` the lower-case tokens of Connection, `dated` whether there is a Date."""

    __slots__ = ("dated", "framing", "keep_alive", "length", "line", "lines", "options", "special", "status", "version")

    status: int
    version: int
    line: bytes
    lines: list[bytes]
    special: list[tuple[int, bytes]]
    framing: int
    length: bytes | None
    keep_alive: bool
    options: list[bytes] | tuple[()]
    dated: bool

    @property
    def fields(self) -> Fields:
        """Every header in order, as `(name, value)`."""
        return split_fields(self.lines)


class _Collector:
    """Takes llhttp's callbacks."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: Fields = []
        self.complete = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete += 1


#: What a target is made of: all that is visible, but no fragment.
_TARGET: Final = bytes(range(0x21, 0x7F)).replace(b"#", b"")
_VISIBLE_OR_SPACE: Final = bytes(range(0x20, 0x7F))
#: Names, in their usual spellings, of lines whose value is new each time.
_shaped_names: Final = {
    spelling: spelling.lower()
    for spelling in (b"Authorization", b"authorization", b"apikey", b"Apikey", b"X-API-Key", b"X-Api-Key", b"x-api-key",
                     b"Content-Length", b"content-length")
}  # fmt: skip
_CREDENTIAL: Final = int(Kind.CREDENTIAL)
_OWN: Final = int(Kind.OWN)


def find_end(buffer: bytes, limits: Limits) -> int:
    """Where a request's head ends: the index after its empty line, or -1 while it is not all there.

    Raises `Refused` when it can never become a legal head: too long, or a line that ends in a bare LF.
    """
    end = buffer.find(END)
    if 0 <= end <= limits.header_bytes - 4:
        return end + 4
    if end < 0 and len(buffer) <= limits.header_bytes:
        first = buffer.find(b"\n")
        if first < 0:
            if len(buffer) > limits.target_bytes + 80 and _LONG_TARGET.match(buffer):
                raise Refused(answers.TARGET_TOO_LONG, "request target too long")
            if b"\r" in buffer[:-1] or b"\x00" in buffer:
                raise Refused(answers.BAD_REQUEST, "bare CR or NUL in the request line")
        elif buffer.count(b"\n") != buffer.count(b"\r\n"):
            raise Refused(answers.BAD_REQUEST, "a line ends in a bare LF")
        elif not _REQUEST_LINE.match(buffer):
            raise _bad_line(buffer, limits)
        return -1
    line = buffer.find(b"\r\n")
    if line < 0 or line > limits.target_bytes + 80:
        raise Refused(answers.TARGET_TOO_LONG, "request target too long")
    if not _REQUEST_LINE.match(buffer):
        raise _bad_line(buffer, limits)
    raise Refused(answers.HEADERS_TOO_LARGE, "request head too large")


def glance(begun: bytes) -> tuple[bool, bytes | None]:
    """What the answer to a refused head may look like: `(without a body, Accept)`, as far as both can be seen."""
    head = begun.partition(END)[0]
    accept = _ACCEPT.search(head)
    return head.startswith(b"HEAD "), accept[1] if accept is not None else None


def _bad_line(head: bytes, limits: Limits) -> Refused:
    """What is wrong with a request line that is not ours to serve."""
    if _SOME_VERSION.match(head):
        return Refused(answers.UNKNOWN_VERSION, "unknown HTTP version")
    if len(head.partition(b"\r\n")[0]) > limits.target_bytes + 80:
        return Refused(answers.TARGET_TOO_LONG, "request target too long")
    return Refused(answers.BAD_REQUEST, "malformed request line")


def parse_request(head: bytes, limits: Limits) -> RequestHead:
    """A request's head, ending in its empty line, as a `RequestHead`; raises `Refused`."""
    lines = head.split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or parts[1].translate(None, _TARGET) or not parts[1]:
        raise _bad_line(head, limits)
    request = RequestHead()
    request.method, request.target, version = parts
    if request.method not in _FED_AS_IS and not _METHOD.fullmatch(request.method):
        raise _bad_line(head, limits)
    if version == b"HTTP/1.1":
        request.version = minor = 1
    elif version == b"HTTP/1.0":
        request.version = minor = 0
    else:
        raise _bad_line(head, limits)
    if len(request.target) > limits.target_bytes:
        raise Refused(answers.TARGET_TOO_LONG, "request target too long")
    if request.method in _REFUSED:
        raise Refused(answers.METHOD_NOT_ALLOWED, "method not allowed")
    request.lines = lines = lines[1:-2]
    if len(lines) > limits.headers:
        raise Refused(answers.HEADERS_TOO_LARGE, "too many header fields")

    index: dict[bytes, bytes] = {}
    special: list[tuple[int, int, bytes]] = []
    known = REQUEST_LINES.known
    at = 0
    for line in lines:
        entry = known.get(line)
        if entry is None:
            entry = _shaped(line)
            if entry is None:
                index, special = _judge_request(request, head)
                break
        lower, value, kind = entry
        index[lower] = value
        if kind:
            special.append((at, kind, lower))
        at += 1  # noqa: SIM113 - the hot path: enumerate makes a tuple a line
    request.index = index
    request.special = special
    request.repeated = NOTHING_REPEATED
    if len(index) != len(lines):
        request.index, request.repeated = index, repeated = index_fields(split_fields(lines))
        if b"host" in repeated:
            raise Refused(answers.BAD_REQUEST, "more than one Host")
        if b"content-length" in repeated:
            raise Refused(answers.BAD_REQUEST, "more than one Content-Length")
    _frame_request(request, index, minor)
    return request


def _shaped(line: bytes) -> tuple[bytes, bytes, int] | None:
    """`(lower-case name, value, kind)` of a line whose value is new each time and leaves nothing to judge, or None."""
    name, _, value = line.partition(b": ")
    lower = _shaped_names.get(name)
    if lower is None or not value or value.translate(None, _VISIBLE_OR_SPACE) or value[0] == 0x20 or value[-1] == 0x20:
        return None
    return lower, value, _OWN if lower == b"content-length" else _CREDENTIAL


def _tidied(head: bytes) -> bytes:
    """The head as llhttp wants it: behind `chunked` it takes no tabs, which are as good as spaces (RFC 9110 §5.6.3)."""
    return _TRAILING_SPACE.sub(b"\r\n", head) if b"\t\r\n" in head else head


def _judge_request(request: RequestHead, head: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int, bytes]]]:
    """Let llhttp judge a head with lines that are not known; returns its index and its special lines."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        # llhttp judges what stands after the request line; the line itself we have judged.
        known = request.method in _FED_AS_IS
        fed = _tidied(head)
        parser.feed_data(fed if known else b"POST / HTTP/1.1" + fed[fed.index(b"\r\n") :])
    except httptools.HttpParserUpgrade:
        pass  # an Upgrade was asked for: what follows the head is ours to frame
    except httptools.HttpParserError as error:
        _refuse_coding(collector.fields)
        raise Refused(answers.BAD_REQUEST, f"malformed head: {error}") from None
    lines = request.lines
    if collector.complete != 1 or len(lines) != len(collector.fields):
        raise Refused(answers.BAD_REQUEST, "malformed head")
    index: dict[bytes, bytes] = {}
    special: list[tuple[int, int, bytes]] = []
    for at, (name, given) in enumerate(collector.fields):
        kind, lower = request_name(name)
        index[lower] = value = given.rstrip(b" \t")  # llhttp leaves what stands behind a value
        if kind:
            special.append((at, kind, lower))
        if kind != _CREDENTIAL:
            REQUEST_LINES.learn(lines[at], lower, (lower, value, kind))
    return index, special


def _frame_request(request: RequestHead, index: dict[bytes, bytes], minor: int) -> None:
    """Host, body framing and persistence (RFC 9112 §3.2, §6, §9.3); raises `Refused`."""
    host = index.get(b"host")
    if host:
        request.host = host
        request.hostname = hostname_of(host)
    elif minor:
        raise Refused(answers.BAD_REQUEST, "no Host")
    else:
        request.host, request.hostname = b"", ""

    request.framing = NO_BODY
    length = index.get(b"content-length")
    coding = index.get(b"transfer-encoding")
    if coding is not None:
        if not minor:
            raise Refused(answers.BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
        if length is not None:
            raise Refused(answers.BAD_REQUEST, "Content-Length beside Transfer-Encoding")
        if coding.lower() != b"chunked" or b"transfer-encoding" in request.repeated:
            _refuse_coding(split_fields(request.lines))
            raise Refused(answers.BAD_REQUEST, "malformed Transfer-Encoding")
        request.framing = CHUNKED
    elif length is not None:
        if not (length.isdigit() and len(length) < 19):
            raise Refused(answers.BAD_REQUEST, "malformed Content-Length")
        request.framing = int(length)

    connection = index.get(b"connection")
    if connection is None:
        request.options = ()
        request.keep_alive = minor == 1
    elif connection == b"keep-alive":
        request.options = ()
        request.keep_alive = True
    else:
        request.options = options = tokens(connection)
        request.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)

    request.expects = False
    expect = index.get(b"expect")
    if expect is not None and minor:
        if expect.lower() != b"100-continue":
            raise Refused(answers.EXPECTATION_FAILED, "unknown expectation")
        request.expects = request.framing != NO_BODY


def _refuse_coding(fields: Fields) -> None:
    """501 for a well-formed coding that we do not implement (RFC 9112 §6.1); anything else is for the caller."""
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    if len(codings) != 1 or lengths:
        return
    members = [member.strip(b" \t") for member in codings[0].lower().split(b",")]
    if (
        all(_TOKEN.fullmatch(member) for member in members)
        and members.count(b"chunked") <= 1
        and (b"chunked" not in members or members[-1] == b"chunked")
        and members != [b"chunked"]
    ):
        raise Refused(answers.UNKNOWN_CODING, "unknown transfer coding")


_status_lines: Final[dict[bytes, tuple[int, int, bytes]]] = {}


def _status_line(line: bytes) -> tuple[int, int, bytes]:
    """`(status, minor version, the line without its version, ended)`; remembers 256 of them, raises `BadResponse`."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadResponse("malformed status line")
    # Where the reason is missing, the space before it may be missing too: we do not pass that on (RFC 9112 §4).
    rest = line[8:] if len(line) > 12 else line[8:] + b" "
    entry = (int(match[2]), 1 if match[1] == b"1" else 0, rest + b"\r\n")
    if len(_status_lines) < 256 and len(line) < 128:
        _status_lines[line] = entry
    return entry


def check_begun_response(begun: bytes) -> None:
    """Raise `BadResponse` for the beginning of a response that can never become a legal head.

    Whoever speaks another protocol (HTTP/0.9, TLS, a banner), or ends its lines in a bare LF, is told apart by its
    first bytes: its client need not wait for a deadline.
    """
    line, ended, rest = begun.partition(b"\r\n")
    if ended:
        odd = rest.replace(b"\r\n", b"").removesuffix(b"\r")
        good = _STATUS_LINE.fullmatch(line) is not None
    else:
        odd = line.removesuffix(b"\r")
        good = odd.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(odd)
    if not good or b"\r" in odd or b"\n" in odd or b"\x00" in odd:
        raise BadResponse("what has come so far begins no response")


def parse_response(head: bytes, bodiless: bool) -> ResponseHead:
    """A response's head, ending in its empty line; `bodiless` says that the request was HEAD.

    Raises `BadResponse` for whatever two readers could read in two ways.
    """
    lines = head.split(b"\r\n")
    first = _status_lines.get(lines[0])
    if first is None:
        first = _status_line(lines[0])
    response = ResponseHead()
    status, minor, response.line = first
    response.status, response.version = status, minor
    response.lines = lines = lines[1:-2]
    if len(lines) > MAX_RESPONSE_FIELDS:
        raise BadResponse("too many header fields")
    special: list[tuple[int, bytes]] = []
    length: bytes | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    dated = False
    known = RESPONSE_LINES.known
    judged: list[bytes] | None = None
    at = -1
    for line in lines:
        at += 1
        lower = known.get(line)
        if lower is None:
            shaped = _shaped(line)
            if shaped is not None and shaped[0] == b"content-length":
                lower = shaped[0]
            else:
                if judged is None:
                    judged = _judge_response(head, lines)
                lower = judged[at]
        if not lower:
            continue
        special.append((at, lower))
        if lower == b"content-length":
            if length is not None:
                raise BadResponse("more than one Content-Length")
            length = line[15:].strip(b" \t")
            if not (length.isdigit() and len(length) < 19):
                raise BadResponse("malformed Content-Length")
        elif lower == b"transfer-encoding":
            if coding is not None:
                raise BadResponse("more than one Transfer-Encoding")
            coding = line[18:].strip(b" \t")
        elif lower == b"connection":
            value = line[11:].strip(b" \t")
            connection = value if connection is None else connection + b"," + value
        elif lower == b"date":
            dated = True
    response.dated = dated
    response.special = special
    response.length = length
    if coding is not None and (length is not None or minor == 0 or coding.lower() != b"chunked"):
        raise BadResponse("Transfer-Encoding that cannot be read in one way")
    if bodiless or status < 200 or status == 204 or status == 304:
        response.framing = NO_BODY
    elif coding is not None:
        response.framing = CHUNKED
    elif length is not None:
        response.framing = int(length)
    else:
        response.framing = UNTIL_CLOSE
    if connection is None:
        response.options = ()
        response.keep_alive = minor == 1
    elif connection == b"keep-alive":
        response.options = ()
        response.keep_alive = True
    else:
        response.options = options = tokens(connection)
        response.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    if response.framing == UNTIL_CLOSE:
        response.keep_alive = False
    return response


def _judge_response(head: bytes, lines: list[bytes]) -> list[bytes]:
    """Let llhttp judge a head with lines that are not known; returns each line's name, b"" for one that is relayed."""
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        # llhttp judges the lines alone: behind a 101 it would want other ones.
        parser.feed_data(b"HTTP/1.1 200 OK" + _tidied(head[head.index(b"\r\n") :]))
    except httptools.HttpParserUpgrade:
        pass  # a response that names an Upgrade: judged by its status
    except httptools.HttpParserError as error:
        raise BadResponse(f"malformed head: {error}") from None
    if collector.complete != 1 or len(lines) != len(collector.fields):
        raise BadResponse("malformed head")
    special: list[bytes] = []
    for line, (name, _) in zip(lines, collector.fields, strict=True):
        lower = name.lower()
        kept = lower if lower in WATCHED.names else b""
        special.append(kept)
        RESPONSE_LINES.learn(line, lower, kept)
    return special
