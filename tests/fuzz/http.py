"""Fuzz targets of `http1`, `framing` and `tunnel`: what is read is read in one way, however it comes, and strictly."""

from __future__ import annotations

import re
from itertools import pairwise

from gateway.core import answers
from gateway.proxy.framing import MAX_EXTENSIONS, MAX_TRAILERS, ChunkedReader, FramingError, LengthReader, reader
from gateway.proxy.http1 import (
    CHUNKED,
    END,
    NO_BODY,
    UNTIL_CLOSE,
    BadResponse,
    Limits,
    Refused,
    ResponseHead,
    check_begun_response,
    find_end,
    hostname_of,
    parse_response,
)
from gateway.proxy.lines import forget_lines
from gateway.proxy.messages import absolute_form
from gateway.proxy.tunnel import Frames
from tests.proxy import ours, strict

LIMITS = Limits()
CONTRACT = {answer.status for answer in vars(answers).values() if isinstance(answer, answers.Answer)}
#: What a path may hold that the reference does not judge: segments that the canonical path refuses.
SPECIAL_PATHS = re.compile(rb"\.|%2e|;", re.IGNORECASE)
STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9][0-9](?: [\t -~\x80-\xff]*)?")


def request(data: bytes) -> None:
    """What we take, a strict reader takes, field by field; what it refuses, we refuse; memory changes nothing."""
    expected, malformed, left = strict.read_all(data)
    found, status, waiting = ours.read_all(data)
    assert (found, status, waiting) == ours.read_all(data), "the second reading differs"
    forget_lines()
    assert (found, status, waiting) == ours.read_all(data), "a cold reading differs"
    assert not status or status in CONTRACT
    assert found == expected[: len(found)], "we read another request"
    if len(found) < len(expected):
        # Stricter than the reference: the path, or more of what nobody reads than anybody needs.
        spare = sum(len(name) + len(value) for request in expected for name, value in request.trailers)
        assert status
        strange = SPECIAL_PATHS.search(expected[len(found)].target)
        assert strange or spare > MAX_TRAILERS // 2 or len(data) > MAX_EXTENSIONS // 8, "a legal request is refused"
    elif malformed is not None:
        assert status, "an illegal request is taken"
    elif left:
        assert waiting or status
    else:
        assert not status


def request_head_begun(data: bytes) -> None:
    """What is refused early is refused in the end: no beginning of a head that is taken is refused."""
    end = data.find(END) + 4
    if end < 4:
        return
    taken = bool(ours.read_all(data[:end])[0]) or not ours.read_all(data[:end])[1]
    if data[:2] == b"\r\n" or not taken:
        return
    for size in range(1, min(end, 600)):
        try:
            assert find_end(data[:size], LIMITS) == -1
        except Refused as refused:
            raise AssertionError(f"refused after {size} bytes: {refused.detail}") from None


def response(data: bytes) -> None:
    """A head that is taken is strict, framed in one way, the same when it comes again, and refused by no beginning."""
    end = data.find(END) + 4
    if end < 4:
        return
    head = data[:end]
    for bodiless in (False, True):
        first = _response(head, bodiless)
        again = _response(head, bodiless)
        forget_lines()
        cold = _response(head, bodiless)
        assert _facts(first) == _facts(again) == _facts(cold)
        if first is not None:
            _strict_response(head, first, bodiless)
    if first is not None:
        for size in range(min(end - 1, 600)):
            check_begun_response(head[:size])
        _body(first.framing, data[end:])


def _response(head: bytes, bodiless: bool) -> ResponseHead | None:
    try:
        return parse_response(head, bodiless)
    except BadResponse:
        return None


def _facts(head: ResponseHead | None) -> tuple[object, ...] | None:
    if head is None:
        return None
    return (head.status, head.version, head.line, head.lines, head.special, head.framing, head.length, head.keep_alive,
            list(head.options))  # fmt: skip


def _strict_response(head: bytes, parsed: ResponseHead, bodiless: bool) -> None:
    first, *lines = head[:-4].split(b"\r\n")
    assert STATUS_LINE.fullmatch(first)
    matches = [strict.FIELD_LINE.fullmatch(line) for line in lines]
    assert all(matches)
    fields = [(match[1].lower(), match[2]) for match in matches if match is not None]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    assert len(lengths) < 2
    assert len(codings) < 2
    assert not (lengths and codings)
    empty = bodiless or parsed.status < 200 or parsed.status in (204, 304)
    expected = NO_BODY if empty else CHUNKED if codings else int(lengths[0]) if lengths else UNTIL_CLOSE
    assert parsed.framing == expected
    assert not codings or codings[0].lower() == b"chunked"
    assert parsed.fields == [(match[1], match[2]) for match in matches if match is not None]


def _body(framing: int, data: bytes) -> None:
    body = reader(framing)
    try:
        payload, rest = body.feed(data) if data else (b"", b"")
    except FramingError:
        return
    assert len(payload) + len(rest) <= len(data)
    assert body.done or not rest


def _read(pieces: list[bytes]) -> tuple[bytes, bytes, bool, list[tuple[bytes, bytes]]] | None:
    body = ChunkedReader()
    payload = rest = b""
    try:
        for piece in pieces:
            if body.done:
                rest += piece
                continue
            got, left = body.feed(piece)
            payload, rest = payload + got, rest + left
    except FramingError:
        return None
    return payload, rest, body.done, body.trailers


def chunked(data: bytes) -> None:
    """The first byte says how the rest is split: every split gives the same; what is taken, a strict reader takes."""
    if not data:
        return
    step, data = data[0] % 32 + 1, data[1:]
    whole = _read([data])
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    split = _read(pieces)
    if whole is None or split is None:
        # A split may show early what the whole shows later, or hide what is not complete: never a complete body.
        other = whole or split
        assert other is None or not other[2]
    else:
        assert whole == split
    expected = strict.read_chunks(data)
    if whole is not None and whole[2]:
        assert expected == (whole[0], tuple(whole[3]), whole[1])
    elif expected is not None and len(data) < MAX_EXTENSIONS // 8:
        raise AssertionError("a legal body is not taken")


def length(data: bytes) -> None:
    """The first byte is the length, the second how the rest is split."""
    if len(data) < 2:
        return
    size, step, data = data[0], data[1] % 16 + 1, data[2:]
    body = LengthReader(size)
    payload = rest = b""
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        if body.done:
            rest += piece
        else:
            got, left = body.feed(piece)
            payload, rest = payload + got, rest + left
    assert (payload, rest) == (data[:size], data[size:])
    assert body.done == (len(data) >= size)


def host(data: bytes) -> None:
    """A host that is taken is one by RFC 3986, and its name is plain."""
    try:
        name = hostname_of(data)
    except Refused:
        assert strict.HOST.fullmatch(data) is None, "a legal host is refused"
        return
    assert strict.HOST.fullmatch(data)
    assert name == name.lower()
    assert hostname_of(data) == name


def absolute(data: bytes) -> None:
    """An absolute target gives a path and an authority without userinfo, or is refused."""
    try:
        target, authority = absolute_form(data, b"given")
    except ValueError:
        return
    assert target.startswith(b"/") or (data == b"*" == target and authority == b"given")
    assert not set(authority) & set(b"/?#@\\")


def frames(data: bytes) -> None:
    """The first byte says how the rest is split: where frames end does not depend on it."""
    if not data:
        return
    step, data = data[0] % 16 + 1, data[1:]
    whole = Frames()
    end = whole.feed(data)
    parts = Frames()
    ends = [at + got for at in range(0, len(data), step) if (got := parts.feed(data[at : at + step])) >= 0]
    assert (ends[-1] if ends else -1) == end
    assert all(a < b for a, b in pairwise(ends))
    assert whole.between() == parts.between() == (end == len(data) or not data)
