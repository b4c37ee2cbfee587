"""A reader of HTTP/1.1 requests straight from the grammar of RFC 9112, RFC 9110 and RFC 3986, to judge ours by.

Law: it shares no line with the gateway, has no memory and no fast path, and takes nothing that the grammar does not
give.  Where we are stricter than the RFCs the rule stands here with its name (`OURS`), so that the difference is one
place.  `read_request` is a plain function over bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TOKEN = TCHAR + rb"+"
VCHAR = rb"[\x21-\x7e\x80-\xff]"  # field-vchar: VCHAR / obs-text
FIELD_VALUE = rb"(?:" + VCHAR + rb"(?:[ \t\x21-\x7e\x80-\xff]*" + VCHAR + rb")?)?"
FIELD_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*(" + FIELD_VALUE + rb")[ \t]*", re.DOTALL)
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])", re.DOTALL)

QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
CHUNK_EXT = rb"(?:[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + QUOTED + rb"))?)*"
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)" + CHUNK_EXT, re.DOTALL)

# RFC 3986 §3.2.2, rule by rule.
_H16 = rb"[0-9A-Fa-f]{1,4}"
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = _OCTET + (rb"\." + _OCTET) * 3
_LS32 = rb"(?:" + _H16 + rb":" + _H16 + rb"|" + _IPV4 + rb")"
_IPV6 = rb"|".join(
    [rb"(?:" + _H16 + rb":){6}" + _LS32, rb"::(?:" + _H16 + rb":){5}" + _LS32]
    + [
        rb"(?:(?:" + _H16 + rb":){0,%d}" % before + _H16 + rb")?::" + end
        for before, end in (
            (0, rb"(?:" + _H16 + rb":){4}" + _LS32),
            (1, rb"(?:" + _H16 + rb":){3}" + _LS32),
            (2, rb"(?:" + _H16 + rb":){2}" + _LS32),
            (3, _H16 + rb":" + _LS32),
            (4, _LS32),
            (5, _H16),
            (6, rb""),
        )
    ]
)
_REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
#: OURS: no IPvFuture (nobody has one), and no port of more than five digits.
HOST = re.compile(rb"(?:\[(?:" + _IPV6 + rb")\]|" + _REG_NAME + rb")(?::[0-9]{0,5})?")
ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@\\]*)(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)
#: OURS: what two servers could read in two ways does not stand in a path (contract §2), nor does a broken escape.
AMBIGUOUS = re.compile(rb"\\|%(?:2f|5c|7f|[01][0-9a-f])|%(?![0-9a-f]{2})", re.IGNORECASE)

#: OURS: what a request may be at the most (the defaults of `limits:` and of `framing`).
MAX_HEAD, MAX_FIELDS, MAX_TARGET, MAX_METHOD, MAX_EMPTY_LINES = 32 * 1024, 100, 8 * 1024, 64, 4
MAX_CHUNK_DIGITS, MAX_TRAILERS = 16, 16 * 1024


Fields = tuple[tuple[bytes, bytes], ...]
_NONE: Fields = ()


class Malformed(Exception):
    """Bytes that are no request; `status` is what they deserve (contract §4)."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Request:
    """One request: `target` in origin form or `*`, `host` that of an absolute target where there was one."""

    method: bytes
    target: bytes
    version: int
    host: bytes
    fields: Fields
    body: bytes
    chunked: bool
    trailers: Fields

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field."""
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def options(self) -> list[bytes]:
        """The members of Connection, lower case."""
        members = b",".join(self.values(b"connection")).lower().split(b",")
        return [member.strip(b" \t") for member in members]

    @property
    def persists(self) -> bool:
        """May another request follow (RFC 9112 §9.3)?"""
        options = self.options
        return b"close" not in options and (self.version == 1 or b"keep-alive" in options)


def read_all(data: bytes, *, fields: int = MAX_FIELDS) -> tuple[list[Request], Malformed | None, bytes]:
    """Every request on a connection, what is wrong with what follows, and what is left that is not complete.

    `fields` are the most that a request may have.
    """
    found: list[Request] = []
    while True:
        try:
            one = read_request(data, fields)
        except Malformed as malformed:
            return found, malformed, b""
        if one is None:
            return found, None, data
        request, data = one
        found.append(request)
        if not request.persists:
            return found, None, b""


def read_request(data: bytes, most: int = MAX_FIELDS) -> tuple[Request, bytes] | None:
    """The first request and what follows it; None while it is not complete.  Raises `Malformed`."""
    for _ in range(MAX_EMPTY_LINES):
        data = data.removeprefix(b"\r\n")
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if end + 4 > MAX_HEAD:
        raise Malformed("too long", 431)
    first, *lines = data[:end].split(b"\r\n")
    data = data[end + 4 :]
    match = REQUEST_LINE.fullmatch(first)
    if match is None or len(match[1]) > MAX_METHOD or b"#" in match[2]:
        raise Malformed("the request line")
    method, target, version = match[1], match[2], (int(match[3]), int(match[4]))
    if version not in ((1, 0), (1, 1)):
        raise Malformed("the version", 505)
    if len(target) > MAX_TARGET:
        raise Malformed("the target's length", 414)
    if method in (b"CONNECT", b"TRACE"):
        raise Malformed("the method", 405)
    if len(lines) > most:
        raise Malformed("too many fields", 431)
    fields = tuple(_field(line) for line in lines)
    minor = version[1]
    target, host = _target(method, target, _host(fields, minor))
    _expectation(fields, minor)
    length = _length(fields, minor)
    body, trailers = b"", _NONE
    if length is None:
        chunks = _chunks(data)
        if chunks is None:
            return None
        body, trailers, data = chunks
    elif len(data) < length:
        return None
    else:
        body, data = data[:length], data[length:]
    return Request(method, target, minor, host, fields, body, length is None, trailers), data


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = FIELD_LINE.fullmatch(line)
    if match is None:
        raise Malformed("a field line")
    return match[1], match[2]


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def _host(fields: Fields, minor: int) -> bytes:
    hosts = _values(fields, b"host")
    if len(hosts) > 1 or (minor and not hosts):
        raise Malformed("not one Host")
    if not hosts or (not minor and not hosts[0]):
        return b""
    if HOST.fullmatch(hosts[0]) is None:
        raise Malformed("Host")
    return hosts[0]


def _target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    if AMBIGUOUS.search(target.partition(b"?")[0]):
        raise Malformed("the path")
    if target.startswith(b"/"):
        return target, host
    if target == b"*" and method == b"OPTIONS":
        return target, host
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None or HOST.fullmatch(match[1]) is None:
        raise Malformed("the target's form")
    if method == b"OPTIONS" and not match[2] and not match[3]:
        return b"*", match[1]  # about the whole server (RFC 9112 §3.2.4)
    return (match[2] or b"/") + (match[3] or b""), match[1]


def _expectation(fields: Fields, minor: int) -> None:
    expected = _values(fields, b"expect")
    if minor and expected and (len(expected) > 1 or expected[0].lower() != b"100-continue"):
        raise Malformed("the expectation", 417)


def _length(fields: Fields, minor: int) -> int | None:
    """The body's length, None for a chunked one (RFC 9112 §6.3)."""
    lengths, codings = _values(fields, b"content-length"), _values(fields, b"transfer-encoding")
    if codings:
        if not minor or lengths or len(codings) > 1:
            raise Malformed("Transfer-Encoding where it may not be")
        if codings[0].lower() == b"chunked":
            return None
        members = [member.strip(b" \t") for member in codings[0].lower().split(b",")]
        known = all(re.fullmatch(TOKEN, member) for member in members)
        last = members[-1] == b"chunked" or b"chunked" not in members
        raise Malformed("the coding", 501 if known and last and members.count(b"chunked") < 2 else 400)
    if not lengths:
        return 0
    # OURS: no list of equal lengths (RFC 9110 §8.6 lets us refuse them), and no more than 18 digits.
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise Malformed("Content-Length")
    return int(lengths[0])


def read_chunks(data: bytes) -> tuple[bytes, Fields, bytes] | None:
    """The payload, the trailers and what follows a chunked body; None for what is none, or not complete."""
    try:
        return _chunks(data)
    except Malformed:
        return None


def _chunks(data: bytes) -> tuple[bytes, Fields, bytes] | None:
    """The payload, the trailers and what follows a chunked body (RFC 9112 §7.1); None while it is not complete."""
    body = b""
    while True:
        line, ended, rest = data.partition(b"\r\n")
        if not ended:
            return None
        match = CHUNK_LINE.fullmatch(line)
        if match is None or len(match[1]) > MAX_CHUNK_DIGITS or (size := int(match[1], 16)) > 1 << 62:
            raise Malformed("a chunk's size")
        if not size:
            return _trailers(body, rest)
        if len(rest) < size + 2:
            if len(rest) > size and rest[size] != 0x0D:
                raise Malformed("a chunk's end")
            return None
        if rest[size : size + 2] != b"\r\n":
            raise Malformed("a chunk's end")
        body, data = body + rest[:size], rest[size + 2 :]


def _trailers(body: bytes, data: bytes) -> tuple[bytes, Fields, bytes] | None:
    trailers: list[tuple[bytes, bytes]] = []
    while True:
        line, ended, data = data.partition(b"\r\n")
        if not ended:
            return None
        if not line:
            return body, tuple(trailers), data
        trailers.append(_field(line))
