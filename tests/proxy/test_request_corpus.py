"""The whole corpus through our parsers, without sockets: what they take is what a strict reader takes, field by field.

Each case is read twice, cold and with its lines remembered; the sockets' part is in `tests/integration`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httptools
import pytest

from gateway.proxy.lines import forget_lines
from tests.proxy import ours, strict
from tests.proxy.corpus import Case, named, numbered, spoiled


def differences(cases: list[Case]) -> list[str]:
    """Every case that is read in another way than the reference reads it."""
    wrong = []
    for case in cases:
        expected, malformed, left = strict.read_all(case.raw)
        for _ in range(2):
            found, status, waiting = ours.read_all(case.raw)
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
def test_we_read_the_corpus_as_a_strict_reader_does(make: Callable[[], Iterator[Case]]) -> None:
    forget_lines()
    cases = numbered(make())
    assert len(cases) > 2000
    wrong = differences(cases)
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong[:20])


#: Methods that llhttp knows and treats as any other; the rest is never fed to it.
LISTED = (b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS", b"PATCH")
#: Legal, and refused by llhttp: space around what a chunk-extension is made of, tabs behind `chunked`.
STRICTER = re.compile(
    rb"\n[0-9A-Fa-f]+[ \t]*;[^\r\n]*[ \t][^\r\n]*\r\n|\n[0-9A-Fa-f]+[ \t]+;|;[^\r\n]*[\x80-\xff]|\t\r\n"
)

FRAMING = {b"content-length", b"transfer-encoding"}


class Heard:
    """What llhttp says of one connection."""

    def __init__(self) -> None:
        self.fields: list[list[tuple[bytes, bytes]]] = []
        self.bodies: list[bytes] = []

    def on_message_begin(self) -> None:
        self.fields.append([])
        self.bodies.append(b"")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[-1].append((name, value.rstrip(b" \t")))

    def on_body(self, piece: bytes) -> None:
        self.bodies[-1] += piece


def test_llhttp_reads_alike_what_we_take() -> None:
    """We may be stricter, never laxer: whoever reads as llhttp does sees the same fields and bodies."""
    compared = 0
    for case in [*numbered(named()), *numbered(spoiled())]:
        found, status, waiting = ours.read_all(case.raw)
        listed = all(request.method in LISTED for request in found)
        if not found or status or waiting or not listed or not found[-1].persists or STRICTER.search(case.raw):
            continue
        if {name.lower() for request in found for name, _ in request.trailers} & FRAMING:
            continue  # we read these behind a body, and pass them to nobody
        heard = Heard()
        parser = httptools.HttpRequestParser(heard)
        parser.feed_data(case.raw)
        # Trailers come by the same callback as fields.
        assert heard.fields == [[*request.fields, *request.trailers] for request in found], case.name
        assert heard.bodies == [request.body for request in found], case.name
        compared += 1
    assert compared > 1500
