"""The whole corpus through our parsers, without sockets: what they take is what a strict reader takes, field by field.

Each case is read twice, cold and with its lines remembered; the sockets' part is in `tests/integration`.
"""

from __future__ import annotations

import pytest

from gateway.core.context import split_fields
from gateway.core.path import DEFAULT, canonical
from gateway.proxy.framing import ChunkedReader, FramingError, reader
from gateway.proxy.http1 import NO_BODY, Limits, Refused, RequestHead, find_end, hostname_of, parse_request
from gateway.proxy.lines import forget_lines
from gateway.proxy.messages import absolute_form
from tests.proxy import strict
from tests.proxy.corpus import Case, named, numbered, spoiled

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
            target, host = absolute_form(target, host)
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


def differences(cases: list[Case]) -> list[str]:
    """Every case that is read in another way than the reference reads it."""
    wrong = []
    for case in cases:
        expected, malformed, left = strict.read_all(case.raw)
        for _ in range(2):
            found, status, waiting = read_all(case.raw)
            if malformed is not None:
                # Several faults in one request may be named in any order; what is refused is refused.
                good = status == malformed.status or (status in (400, 414, 431, 501, 505) and malformed.status == 400)
            else:
                # What can no longer become legal need not be waited for.
                good = waiting == bool(left) or (bool(left) and status == 400)
            if found != expected or not good:
                wrong.append(f"{case.name}: {found} {status} {waiting}, expected {expected} {malformed!r} {left!r}")
                break
    return wrong


@pytest.mark.parametrize("make", [named, spoiled])
def test_we_read_the_corpus_as_a_strict_reader_does(make: object) -> None:
    forget_lines()
    cases = numbered(make())  # type: ignore[operator]  # one of two generators
    assert len(cases) > 2000
    wrong = differences(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong[:20])
