"""HTTP/1.1 message heads, sans I/O: the door to httptools (law 5).

A head is cut at the first empty line by our own limits, its first line is judged by our own grammar
(RFC 9112 §3, §4), and exactly the head is fed to a fresh llhttp parser, which is strict about names,
values and line ends.  How a body is framed (RFC 9112 §6) is decided here, from the fields, once.
What llhttp lets pass and RFC 9112 does not (HTTP/0.9, RTSP, two spaces, `gzip, chunked`, codings in
HTTP/1.0) is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import httptools

from gateway.core import answers
from gateway.core.answers import Answer
from gateway.core.context import NOTHING_REPEATED
from gateway.core.http import LOWER, tokens

Fields = list[tuple[bytes, bytes]]

END: Final = b"\r\n\r\n"

#: Body framings: none; a known length is its number of bytes (≥ 0).
NO_BODY: Final = 0
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ([\x21-\x7e]+) (HTTP/[0-9]\.[0-9])\r\n")
_LONG_TARGET = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} [\x21-\x7e]*")
_SOME_VERSION = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e]+ HTTP/[0-9]+(?:\.[0-9]+)?\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(
    rb"(?:[A-Za-z0-9_\-.~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{0,5})?"
)

#: What llhttp knows and does not treat specially; any other token is fed to it as POST and forwarded as sent.
_FED_AS_IS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
_REFUSED = frozenset({b"CONNECT", b"TRACE"})
#: Codings that RFC 9112 and its registry know; one of these before `chunked` is understood and not implemented.
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class _FramingMemo(dict[bytes, bytes | None]):
    """`memo[name]`: the lower-case name if it says how a message is framed, else None; remembers 4,096 spellings."""

    def __missing__(self, name: bytes) -> bytes | None:
        lower: bytes | None = name.lower()
        if lower not in (b"content-length", b"transfer-encoding", b"connection"):
            lower = None
        if len(self) < 4096:
            self[name] = lower
        return lower


_FRAMING = _FramingMemo()


@dataclass(frozen=True, slots=True)
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

    `target` as sent; `version` 0 or 1 (the minor of HTTP/1.x); `fields` in order, `index` by lower-case
    name, `repeated` the names that came more than once; `framing` the length of the body in bytes,
    `CHUNKED`, or `NO_BODY`; `keep_alive` what the client wants; `expects` whether it waits for a 100;
    `options` the lower-case tokens of Connection; `host` as sent, b"" where HTTP/1.0 gave none.
    """

    __slots__ = ("expects", "fields", "framing", "host", "index", "keep_alive", "method", "options", "repeated",
                 "target", "version")  # fmt: skip

    method: bytes
    target: bytes
    version: int
    fields: Fields
    index: dict[bytes, bytes]
    repeated: frozenset[bytes]
    framing: int
    keep_alive: bool
    expects: bool
    options: list[bytes] | tuple[()]
    host: bytes


class ResponseHead:
    """A response's head: `line` is the status line without the version (b" 200 OK"), `framing` as the
    status and fields say (a HEAD request's response has no body whatever it says), `keep_alive` whether the
    upstream's connection may be used again, `options` the lower-case tokens of Connection."""

    __slots__ = ("fields", "framing", "keep_alive", "length", "line", "options", "status", "version")

    status: int
    version: int
    line: bytes
    fields: Fields
    framing: int
    length: bytes | None
    keep_alive: bool
    options: list[bytes] | tuple[()]


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
            _refuse_line(buffer, limits)
        return -1
    line = buffer.find(b"\r\n")
    if line < 0 or line > limits.target_bytes + 80:
        raise Refused(answers.TARGET_TOO_LONG, "request target too long")
    if not _REQUEST_LINE.match(buffer):
        _refuse_line(buffer, limits)
    raise Refused(answers.HEADERS_TOO_LARGE, "request head too large")


def _refuse_line(head: bytes, limits: Limits) -> None:
    if _SOME_VERSION.match(head):
        raise Refused(answers.UNKNOWN_VERSION, "unknown HTTP version")
    if len(head.partition(b"\r\n")[0]) > limits.target_bytes + 80:
        raise Refused(answers.TARGET_TOO_LONG, "request target too long")
    raise Refused(answers.BAD_REQUEST, "malformed request line")


def parse_request(head: bytes, limits: Limits) -> RequestHead:
    """A request's head, ending in its empty line, as a `RequestHead`; raises `Refused`."""
    match = _REQUEST_LINE.match(head)
    if match is None:
        _refuse_line(head, limits)
        raise AssertionError("unreachable")  # _refuse_line always raises
    method, target, version = match.groups()
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        raise Refused(answers.UNKNOWN_VERSION, "unknown HTTP version")
    if len(target) > limits.target_bytes:
        raise Refused(answers.TARGET_TOO_LONG, "request target too long")
    if head.count(b"\n") - 2 > limits.headers:
        raise Refused(answers.HEADERS_TOO_LARGE, "too many header fields")
    if method in _REFUSED:
        raise Refused(answers.METHOD_NOT_ALLOWED, "method not allowed")
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        # llhttp judges what stands after the request line; the line itself we have judged.
        parser.feed_data(head if method in _FED_AS_IS else b"POST / " + head[match.start(3) :])
    except httptools.HttpParserUpgrade:
        pass  # an Upgrade was asked for: what follows the head is ours to frame
    except httptools.HttpParserError as error:
        _refuse_coding(collector.fields)
        raise Refused(answers.BAD_REQUEST, f"malformed head: {error}") from None
    if collector.complete != 1:
        raise Refused(answers.BAD_REQUEST, "malformed head")

    request = RequestHead()
    request.method = method
    request.target = target
    request.version = minor = 1 if version == b"HTTP/1.1" else 0
    request.fields = fields = collector.fields
    request.index = index = {LOWER[name]: value for name, value in fields}
    request.repeated = NOTHING_REPEATED
    if len(index) != len(fields):
        request.index, request.repeated = index, repeated = _join(fields)
        if b"host" in repeated:
            raise Refused(answers.BAD_REQUEST, "more than one Host")
        if b"content-length" in repeated:
            raise Refused(answers.BAD_REQUEST, "more than one Content-Length")
    host = index.get(b"host")
    if host is None:
        if minor:
            raise Refused(answers.BAD_REQUEST, "no Host")
        host = b""
    elif not _HOST.fullmatch(host) and (host or minor):
        raise Refused(answers.BAD_REQUEST, "malformed Host")
    request.host = host

    request.framing = NO_BODY
    length = index.get(b"content-length")
    coding = index.get(b"transfer-encoding")
    if coding is not None:
        if not minor:
            raise Refused(answers.BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
        if length is not None:
            raise Refused(answers.BAD_REQUEST, "Content-Length beside Transfer-Encoding")
        if coding.lower() != b"chunked" or b"transfer-encoding" in request.repeated:
            _refuse_coding(fields)
            raise Refused(answers.BAD_REQUEST, "malformed Transfer-Encoding")
        request.framing = CHUNKED
    elif length is not None:
        if not _LENGTH.fullmatch(length):
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
    return request


def _join(fields: Fields) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    index: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in fields:
        lower = LOWER[name]
        if lower in index:
            repeated.add(lower)
            # Cookies of a split field are joined as RFC 9113 §8.2.3 does.
            index[lower] += (b"; " if lower == b"cookie" else b", ") + value
        else:
            index[lower] = value
    return index, frozenset(repeated)


def _refuse_coding(fields: Fields) -> None:
    """501 for a well-formed coding that we do not implement (RFC 9112 §6.1); anything else is for the caller."""
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    if len(codings) != 1 or lengths:
        return
    members = [member.strip(b" \t") for member in codings[0].lower().split(b",")]
    if all(_TOKEN.fullmatch(member) for member in members) and members.count(b"chunked") <= 1 and (
        b"chunked" not in members or members[-1] == b"chunked"
    ) and members != [b"chunked"]:
        raise Refused(answers.UNKNOWN_CODING, "unknown transfer coding")


def parse_response(head: bytes, bodiless: bool) -> ResponseHead:
    """A response's head, ending in its empty line; `bodiless` says that the request was HEAD.

    Raises `BadResponse` for whatever two readers could read in two ways.
    """
    match = _STATUS_LINE.match(head)
    if match is None:
        raise BadResponse("malformed status line")
    collector = _Collector()
    parser = httptools.HttpResponseParser(collector)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # a 101, or a response that merely names an Upgrade: judged by its status below
    except httptools.HttpParserError as error:
        raise BadResponse(f"malformed head: {error}") from None
    if collector.complete != 1:
        raise BadResponse("malformed head")
    response = ResponseHead()
    response.status = status = int(match[2])
    response.version = minor = 1 if match[1] == b"1" else 0
    response.line = head[8 : match.end()]
    response.fields = fields = collector.fields
    length: bytes | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    for name, value in fields:
        lower = _FRAMING[name]
        if lower is None:
            continue
        if lower == b"content-length":
            if length is not None:
                raise BadResponse("more than one Content-Length")
            if not _LENGTH.fullmatch(value):
                raise BadResponse("malformed Content-Length")
            length = value
        elif lower == b"transfer-encoding":
            if coding is not None:
                raise BadResponse("more than one Transfer-Encoding")
            coding = value
        else:
            connection = value if connection is None else connection + b"," + value
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
