"""Our parsers put together as the data plane does, without sockets, in the form of the strict reference."""

from __future__ import annotations

from gateway.core.context import split_fields
from gateway.core.path import DEFAULT, canonical
from gateway.proxy.framing import ChunkedReader, FramingError, reader
from gateway.proxy.http1 import NO_BODY, Limits, Refused, RequestHead, find_end, hostname_of, parse_request
from gateway.proxy.messages import absolute_form
from tests.proxy import strict

LIMITS = Limits()


class Stopped(Exception):
    """What ends a connection, with the status of its answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def next_request(data: bytes) -> tuple[strict.Request, bytes] | None:
    """The first request as the data plane reads it, in the reference's form; None while it is not complete."""
    for _ in range(strict.MAX_EMPTY_LINES):
        data = data.removeprefix(b"\r\n")
    if not data:
        return None
    try:
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or end > LIMITS.header_bytes:
            end = find_end(data, LIMITS)
            if end < 0:
                return None
        head = parse_request(data[:end], LIMITS)
        target, host = head.target, head.host
        if target == b"*" and head.method != b"OPTIONS":
            raise Stopped(400)
        if target[0] != 0x2F and target != b"*":
            target, host = absolute_form(target, host, head.method)
            hostname_of(host)
        if target != b"*":
            canonical(target.partition(b"?")[0], DEFAULT)
        body, trailers, rest, done = read_body(head, data[end:])
    except Refused as refused:
        raise Stopped(refused.answer.status) from None
    except (ValueError, FramingError):
        raise Stopped(400) from None
    if not done:
        return None
    fields = tuple(split_fields(head.lines))
    return strict.Request(head.method, target, head.version, host, fields, body, head.framing < 0, trailers), rest


def read_body(head: RequestHead, data: bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes, bool]:
    if head.framing == NO_BODY:
        return b"", (), data, True
    current = reader(head.framing)
    payload, rest = current.feed(data)
    trailers = tuple(current.trailers) if isinstance(current, ChunkedReader) else ()
    return payload, trailers, rest, current.done


def read_all(data: bytes) -> tuple[list[strict.Request], int, bool]:
    """Every request, the status that ends the connection (0: none), and whether something is not complete."""
    found: list[strict.Request] = []
    while data:
        try:
            one = next_request(data)
        except Stopped as stopped:
            return found, stopped.status, False
        if one is None:
            return found, 0, bool(data)
        request, data = one
        found.append(request)
        if not request.persists:
            break
    return found, 0, False
