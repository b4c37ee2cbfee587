"""Body framing without sockets: any split gives the same payload, and what is malformed is refused however it comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.proxy import framing
from gateway.proxy.framing import BodyReader, ChunkedReader, FramingError, LengthReader, UntilCloseReader, chunk, reader
from gateway.proxy.http1 import CHUNKED, UNTIL_CLOSE

SIZE_FORMS = ("{:x}", "{:X}", "0{:x}", "{:016x}")
EXTENSIONS = ("", ";a", ";a=b", ';a="quoted \\" text"', ";a;b=c;d")
#: Legal to read (RFC 9112 §7.1.1, BWS), though llhttp does not.
WIDE_EXTENSIONS = (" ; a = b", "\t;a")


def read(body: BodyReader, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """`(payload, rest)` of a body that comes in pieces; what comes after its end counts as rest."""
    payload, rest = b"", b""
    for piece in pieces:
        if over(body):
            rest += piece
            continue
        got, left = body.feed(piece)
        assert over(body) or not left
        payload += got
        rest += left
    return payload, rest


def over(body: BodyReader) -> bool:
    """Has its end been seen?"""
    return body.done


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` cut at these places (taken modulo its length)."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


@st.composite
def chunked_bodies(draw: st.DrawFn, extensions: tuple[str, ...] = EXTENSIONS) -> tuple[bytes, bytes]:
    """`(payload, wire)` of a legal chunked body."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    wire = b""
    for piece in pieces:
        size = draw(st.sampled_from(SIZE_FORMS)).format(len(piece)) + draw(st.sampled_from(extensions))
        wire += size.encode() + b"\r\n" + piece + b"\r\n"
    trailers = draw(st.lists(st.sampled_from([b"X-Sum: 1\r\n", b"a:\r\n", b"B:  two words \r\n"]), max_size=3))
    return b"".join(pieces), wire + draw(st.sampled_from([b"0", b"000"])) + b"\r\n" + b"".join(trailers) + b"\r\n"


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(chunked_bodies(EXTENSIONS + WIDE_EXTENSIONS), st.binary(max_size=20), cuts)
def test_any_split_of_a_chunked_body_gives_its_payload(
    body: tuple[bytes, bytes], behind: bytes, places: list[int]
) -> None:
    payload, wire = body
    current = ChunkedReader()
    assert read(current, split(wire + behind, places)) == (payload, behind)
    assert current.done


@given(chunked_bodies(), cuts)
def test_llhttp_reads_the_same(body: tuple[bytes, bytes], places: list[int]) -> None:
    payload, wire = body
    seen: list[bytes] = []
    complete: list[bool] = []

    class Protocol:
        def on_body(self, piece: bytes) -> None:
            seen.append(piece)

        def on_message_complete(self) -> None:
            complete.append(True)

    parser = httptools.HttpRequestParser(Protocol())
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in split(wire, places):
        parser.feed_data(piece)
    assert (b"".join(seen), complete) == (payload, [True])


def llhttp_payload(wire: bytes) -> bytes | None:
    """What llhttp reads of a chunked body that is followed by nothing; None if it refuses it or wants more."""
    seen: list[bytes] = []
    complete: list[bool] = []

    class Protocol:
        def on_body(self, piece: bytes) -> None:
            seen.append(piece)

        def on_message_complete(self) -> None:
            complete.append(True)

    parser = httptools.HttpRequestParser(Protocol())
    try:
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    except httptools.HttpParserError:
        return None
    return b"".join(seen) if complete == [True] else None


SCRAPS = ("1", "5", "0", "a", "F", "\r\n", "\n", "\r", ";", "=", '"', "x", " ", "hello", ":", "\x00", "-1", "\x7f")
pieces_of_framing = st.sampled_from([scrap.encode() for scrap in SCRAPS])


@given(st.lists(pieces_of_framing, max_size=14).map(b"".join), cuts)
@example(b"5\r\nhello\r\n0\r\n\r\n", [])
@example(b"1\r\n1\r\n0\r\nx:\r\n\r\n", [3])
@example(b"5;x\nhello\r\n0\r\n\r\n", [])
def test_what_we_accept_llhttp_reads_alike(wire: bytes, places: list[int]) -> None:
    """We may be stricter, never laxer: an upstream that reads as llhttp does sees the same body."""
    current = ChunkedReader()
    try:
        payload, rest = read(current, split(wire, places))
    except FramingError:
        return
    if current.done and not rest:
        assert llhttp_payload(wire) == payload


@given(st.lists(pieces_of_framing, max_size=14).map(b"".join), cuts, cuts)
def test_a_verdict_does_not_depend_on_the_split(wire: bytes, some: list[int], others: list[int]) -> None:
    verdicts = [verdict(wire, places) for places in (some, others)]
    if None not in verdicts:
        assert verdicts[0] == verdicts[1]
    else:
        # What one split shows early to be malformed is refused, or waits for its line's end, in another.
        assert all(each is None or not each[1] for each in verdicts)


def verdict(wire: bytes, places: list[int]) -> tuple[tuple[bytes, bytes], bool, list[tuple[bytes, bytes]]] | None:
    current = ChunkedReader()
    try:
        return read(current, split(wire, places)), current.done, current.trailers
    except FramingError:
        return None


@pytest.mark.parametrize(
    "wire",
    [
        b"zz\r\n",
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\rhello\r\n",
        b"5\r\rhello\r\n",
        b"5\r\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello0\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"00000000000000005\r\nhello\r\n",
        b"fffffffffffffffff\r\n",
        b"ffffffffffffffff\r\n",
        b"5;\x00\r\nhello\r\n",
        b"5;\x01=a\r\nhello\r\n",
        b'5;a="\x00"\r\nhello\r\n',
        b'5;a="open\r\nhello\r\n',
        b"5;=\r\nhello\r\n",
        b"5;\r\nhello\r\n",
        b"5,a\r\nhello\r\n",
        b"5;a\nhello\r\n",
        b"5;" + b"a" * framing.MAX_CHUNK_LINE + b"\r\n",
        (b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 5,
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: 1\r\n\r\n",
        b"0\r\na : 1\r\n\r\n",
        b"0\r\na: \x00\r\n\r\n",
        b"0\r\na: 1\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
        b"0\n\n",
        b"0\r\n" + b"A: %b\r\n" % (b"a" * 4000) * 5 + b"\r\n",
    ],
)
def test_malformed_chunks(wire: bytes) -> None:
    for pieces in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        with pytest.raises(FramingError):
            read(ChunkedReader(), pieces)


@pytest.mark.parametrize(
    "begun",
    [b"", b"5\r", b"5", b"5;a", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r", b"0\r\n", b"0\r\nA: 1\r\n\r"],
)
def test_a_body_that_is_not_over(begun: bytes) -> None:
    current = ChunkedReader()
    read(current, [begun])
    assert not current.done
    with pytest.raises(FramingError):
        current.eof()


def test_extensions_may_be_as_long_as_the_payload() -> None:
    wire = (b"1000;" + b"a" * 4000 + b"\r\n" + b"x" * 4096 + b"\r\n") * 20 + b"0\r\n\r\n"
    assert read(ChunkedReader(), [wire]) == (b"x" * 4096 * 20, b"")


def test_payload_is_never_held_back() -> None:
    current = ChunkedReader()
    assert current.feed(b"5\r\nhe") == (b"he", b"")
    assert current.feed(b"l") == (b"l", b"")
    assert current.feed(b"lo\r\n3\r\na") == (b"loa", b"")


def test_trailers_are_kept_apart() -> None:
    current = ChunkedReader()
    assert read(current, [b"1\r\na\r\n0\r\nX-Sum:  42 \r\nY:\r\n\r\nGET"]) == (b"a", b"GET")
    assert current.trailers == [(b"X-Sum", b"42"), (b"Y", b"")]


@given(st.binary(max_size=60), st.binary(max_size=20), cuts)
def test_any_split_of_a_body_of_known_length(payload: bytes, behind: bytes, places: list[int]) -> None:
    current = LengthReader(len(payload))
    assert read(current, split(payload + behind, places)) == (payload, behind)
    assert current.done
    current.eof()


def test_a_body_of_known_length_that_is_cut() -> None:
    current = LengthReader(10)
    assert current.feed(b"12345") == (b"12345", b"")
    with pytest.raises(FramingError, match="5 bytes"):
        current.eof()


def test_a_body_until_close() -> None:
    current = UntilCloseReader()
    assert current.feed(b"GET / HTTP/1.1\r\n\r\n") == (b"GET / HTTP/1.1\r\n\r\n", b"")
    assert not over(current)
    current.eof()
    assert over(current)


@pytest.mark.parametrize(
    ("announced", "kind"), [(CHUNKED, ChunkedReader), (UNTIL_CLOSE, UntilCloseReader), (5, LengthReader)]
)
def test_each_framing_has_its_reader(announced: int, kind: type[BodyReader]) -> None:
    assert type(reader(announced)) is kind


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_what_we_write_is_read_back(pieces: list[bytes]) -> None:
    wire = b"".join(chunk(piece) for piece in pieces) + framing.LAST_CHUNK
    assert read(ChunkedReader(), [wire]) == (b"".join(pieces), b"")
    assert llhttp_payload(wire) == b"".join(pieces)
