"""TLS that behaves like TCP: halves, pauses, ends and cuts, over wires that deliver as a test says."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.proxy.tls_connection import TlsConnection
from tests.certificates import authority, client_context, server_context, stranger


class Wire:
    """One end of a wire: a transport that keeps what it is told until `move` carries it to the other end."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.ended = self.closed = self.aborted = self.paused = self.stuck = False
        self.other: Wire
        self.carried: TlsConnection
        self.limits: tuple[Any, Any] | None = None

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = high, low

    def get_write_buffer_size(self) -> int:
        return 7 if self.stuck else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.7", 4711)}.get(name, default)

    def move(self, size: int = 1 << 20) -> bool:
        """Carry up to so many bytes to the other end, or the end itself; False where there is nothing to carry."""
        if self.other.paused or self.other.closed:
            return False
        if self.sent:
            data = bytes(self.sent[:size])
            del self.sent[:size]
            self.other.carried.data_received(data)
            return True
        if (self.ended or self.closed) and not self.other.ended_heard:
            self.other.ended_heard = True
            if not self.other.carried.eof_received():
                self.other.close()
            return True
        return False

    ended_heard = False


class Carried:
    """What is carried; `keeps` its half open when the other end closes its own."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.pieces = 0
        self.events: list[str] = []
        self.transport: Any = None
        self.keeps = False
        self.error: Exception | None = None
        self.pause_after = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.pieces += 1
        if self.pause_after and len(self.heard) >= self.pause_after:
            self.pause_after = 0
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.keeps

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.error = exc

    def pause_writing(self) -> None:
        self.events.append("full")

    def resume_writing(self) -> None:
        self.events.append("empty")


class End:
    """One end of a connection: its wire, its TLS, what it carries, and what was told of the handshake."""

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        self.wire, self.carried = Wire(), Carried()
        self.told: list[BaseException | None] = []
        self.tls = TlsConnection(context, cast(asyncio.Protocol, self.carried), self.told.append, server_name)
        self.wire.carried = self.tls

    def begin(self) -> None:
        self.tls.connection_made(cast(asyncio.BaseTransport, self.wire))


class Connection:
    """Both ends."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, server_name: str = "lms.internal") -> None:
        self.client, self.server = End(client, server_name), End(server)
        self.client.wire.other, self.server.wire.other = self.server.wire, self.client.wire
        self.server.begin()
        self.client.begin()

    def settle(self, size: int = 1 << 20) -> None:
        """Carry whatever there is, in pieces of a size."""
        while self.client.wire.move(size) or self.server.wire.move(size):
            continue


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("tls")
    return client_context(folder), server_context(folder, authority().issue(folder, "lms.internal"))


@pytest.fixture
def connection(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Connection]:
    made = Connection(*contexts)
    made.settle()
    assert made.client.told == made.server.told == [None]
    yield made
    assert made.client.told == made.server.told == [None]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_bytes_arrive_however_they_are_cut(contexts: tuple[ssl.SSLContext, ssl.SSLContext], size: int) -> None:
    connection = Connection(*contexts)
    connection.settle(size)
    body = bytes(range(256)) * (4 if size == 1 else 400)
    connection.client.tls.write(body)
    connection.server.tls.write(body[::-1])
    connection.settle(size)
    assert connection.server.carried.heard == body
    assert connection.client.carried.heard == body[::-1]
    assert connection.client.carried.events == connection.server.carried.events == ["made"]


def test_what_comes_together_is_heard_together(connection: Connection) -> None:
    """Records of a byte each: a head of them would be looked at from its beginning with each byte."""
    for _ in range(3000):
        connection.client.tls.write(b"x")
    connection.settle()
    assert (len(connection.server.carried.heard), connection.server.carried.pieces) == (3000, 1)


def test_what_follows_a_goodbye_is_dropped(connection: Connection) -> None:
    """The other half may stay open for long: what is sent meanwhile must not pile up."""
    server = connection.server
    server.carried.keeps = True
    connection.client.tls.close()
    connection.settle()
    assert server.carried.events == ["made", "eof"]
    for _ in range(10):
        server.tls.data_received(b"\x17\x03\x03\x40\x00" + bytes(16_384))
    assert server.tls._incoming.pending == 0
    assert not server.tls.is_closing()
    server.tls.write(b"the answer")
    assert server.wire.sent


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory there is")
def test_an_idle_connection_is_a_small_one(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """What has carried much keeps no buffer of that size."""
    body = bytes(400_000)
    number = 60
    kept: list[Connection] = []
    before = 0
    for round_ in range(number + 5):
        if round_ == 5:
            before = resident()
        connection = Connection(*contexts)
        connection.settle()
        connection.client.tls.write(body)
        connection.settle()
        assert len(connection.server.carried.heard) == len(body)
        connection.server.carried.heard = bytearray()
        connection.client.wire.sent = bytearray()
        kept.append(connection)
    assert (resident() - before) // number < 200_000


def test_a_goodbye_closes_both_halves_where_nobody_keeps_one(connection: Connection) -> None:
    connection.client.tls.write(b"hello")
    connection.client.tls.close()
    assert connection.client.tls.is_closing()
    connection.settle()
    assert connection.server.carried.heard == b"hello"
    assert connection.server.carried.events == ["made", "eof"]
    assert connection.server.wire.closed
    assert not connection.server.wire.aborted
    connection.server.tls.connection_lost(None)
    assert connection.server.carried.events == ["made", "eof", "lost"]
    assert connection.server.carried.error is None


@pytest.mark.parametrize("leftover", [False, True])
def test_a_half_is_closed_alone(connection: Connection, leftover: bool) -> None:
    """Who has said all still hears; what waited in a pause is not lost by it."""
    client, server = connection.client, connection.server
    client.carried.keeps = server.carried.keeps = True
    first = b"x" * 65_536
    if leftover:
        # As much as is handed over at a time, and a record more, and the second one is not wanted yet.
        server.carried.pause_after = 1
        client.tls.write(first)
        client.tls.write(b"second")
        connection.settle()
        assert server.carried.heard == first
    server.tls.write_eof()
    assert server.wire.ended
    connection.settle()
    assert client.carried.events == ["made", "eof"]
    client.tls.write(b"still here")
    if leftover:
        resume(server)
    connection.settle()
    assert bytes(server.carried.heard) == (first + b"secondstill here" if leftover else b"still here")
    client.tls.write_eof()
    connection.settle()
    assert server.carried.events == ["made", "eof"]
    server.tls.write(b"too late")
    assert not server.wire.sent


def resume(end: End) -> None:
    """`resume_reading`, and the loop's next turn."""

    async def turn() -> None:
        end.tls.resume_reading()
        await asyncio.sleep(0)

    asyncio.run(turn())


@pytest.mark.parametrize("goodbye", [True, False])
def test_an_end_while_reading_is_paused_waits(connection: Connection, goodbye: bool) -> None:
    client, server = connection.client, connection.server
    client.carried.pause_after = 1
    for _ in range(5):
        server.tls.write(b"x" * 20_000)
    if goodbye:
        server.tls.close()
    else:
        server.wire.close()
    data = bytes(server.wire.sent)
    server.wire.sent.clear()
    # All of it was under way when the pause began, the socket's end too.
    client.tls.data_received(data)
    assert len(client.carried.heard) == 4 * 16_384 + 3 * 3_616
    assert client.tls.eof_received()
    assert client.carried.events == ["made"]
    resume(client)
    assert len(client.carried.heard) == 100_000
    if goodbye:
        assert client.carried.events == ["made", "eof"]
    assert client.wire.closed
    client.tls.connection_lost(None)
    assert (client.carried.error is None) == goodbye


@pytest.mark.parametrize("heard", [0, 5])
def test_an_end_without_a_goodbye_is_a_cut(connection: Connection, heard: int) -> None:
    connection.server.tls.write(b"x" * heard)
    connection.server.wire.close()
    connection.settle()
    client = connection.client
    assert (len(client.carried.heard), client.carried.events) == (heard, ["made"])
    client.tls.connection_lost(None)
    assert client.carried.events == ["made", "lost"]
    assert isinstance(client.carried.error, ConnectionAbortedError)


def test_a_forged_record_is_an_error(connection: Connection) -> None:
    connection.server.tls.write(b"hello")
    connection.server.wire.sent[-1] ^= 1
    connection.settle()
    client = connection.client
    assert not client.carried.heard
    assert client.wire.closed
    client.tls.connection_lost(None)
    assert isinstance(client.carried.error, ssl.SSLError)
    # The other end learns it by an alert.
    assert isinstance(connection.server.tls._fault, ssl.SSLError)


def test_one_that_is_stuck_is_cut_when_it_breaks(connection: Connection) -> None:
    connection.client.wire.stuck = True
    connection.client.tls.data_received(b"\x17\x03\x03\x00\x04oops")
    assert connection.client.wire.aborted


@pytest.mark.parametrize("end", ["client", "server"])
def test_what_is_told_of_the_socket_goes_through(connection: Connection, end: str) -> None:
    tls, carried = getattr(connection, end).tls, getattr(connection, end).carried
    wire = getattr(connection, end).wire
    tls.pause_writing()
    tls.resume_writing()
    assert carried.events == ["made", "full", "empty"]
    tls.set_write_buffer_limits(high=10, low=5)
    assert wire.limits == (10, 5)
    assert tls.get_write_buffer_size() == 0
    assert tls.get_extra_info("peername") == ("192.0.2.7", 4711)
    assert tls.get_extra_info("nothing", 5) == 5
    assert tls.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert tls.can_write_eof()
    tls.pause_reading()
    tls.pause_reading()
    assert wire.paused
    tls.abort()
    assert wire.aborted
    assert tls.is_closing()
    tls.close()
    tls.connection_lost(None)
    assert carried.events[-1] == "lost"
    assert carried.error is None
    tls.write(b"late")
    tls.connection_lost(None)
    tls.data_received(b"late")
    assert carried.events.count("lost") == 1


def test_somebody_else_takes_over(connection: Connection) -> None:
    other = Carried()
    connection.client.tls.set_protocol(cast(asyncio.BaseProtocol, other))
    assert connection.client.tls.get_protocol() is cast(Any, other)
    connection.server.tls.write(b"hello")
    connection.server.tls.close()
    connection.settle()
    assert (bytes(other.heard), other.events) == (b"hello", ["eof"])
    assert connection.client.carried.events == ["made"]


FAILURES = {
    "a name that is not the certificate's": ("other.internal", None, "Hostname mismatch"),
    "not TLS": ("lms.internal", b"HTTP/1.1 400 Bad Request\r\n\r\n", "WRONG_VERSION_NUMBER"),
    "the end": ("lms.internal", b"", "closed during the TLS handshake"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_handshake_that_fails_is_told_once(name: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server_name, said, text = FAILURES[name]
    connection = Connection(*contexts, server_name)
    client = connection.client
    if said is None:
        connection.settle()
    elif said:
        client.tls.data_received(said)
    else:
        assert not client.tls.eof_received()
    assert client.told == []
    client.tls.connection_lost(None)
    (error,) = client.told
    assert text in str(error)
    assert client.carried.events == []
    # Nothing of it moves any more.
    client.tls.data_received(b"late")
    client.tls.write(b"late")
    client.tls.close()


@pytest.mark.parametrize("name", ["", ".internal", "a" * 64 + ".internal"])
def test_what_is_no_name_is_an_error_at_once(name: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with pytest.raises(ValueError, match=r"server_hostname|label|codec"):
        End(contexts[0], name)


def test_one_that_is_given_up_before_it_begins(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    end = End(contexts[0], "lms.internal")
    assert end.tls.is_closing()
    assert end.tls.get_extra_info("peername") is None
    end.tls.abort()
    end.begin()
    assert end.wire.aborted
    assert not end.wire.sent
    end.tls.connection_lost(None)
    assert len(end.told) == 1


def test_a_client_without_the_right_certificate(tmp_path: Path) -> None:
    """TLS 1.3: the client's side of the handshake is over before the server refuses."""
    own = stranger().issue(tmp_path, "app", file="app")
    server = server_context(tmp_path, authority().issue(tmp_path, "lms.internal"), client_certificates=True)
    connection = Connection(client_context(tmp_path, own), server)
    connection.settle()
    connection.server.tls.connection_lost(None)
    assert isinstance(connection.server.told[0], ssl.SSLError)
    assert connection.client.told == [None]
    connection.client.tls.connection_lost(None)
    assert isinstance(connection.client.carried.error, ssl.SSLError)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.sampled_from(["client", "server"]), st.integers(0, 40_000)),
            st.tuples(st.just("move"), st.sampled_from(["client", "server"]), st.integers(1, 50_000)),
            st.tuples(st.just("pause"), st.sampled_from(["client", "server"]), st.integers(1, 30_000)),
            st.tuples(st.just("resume"), st.sampled_from(["client", "server"]), st.just(0)),
            st.tuples(st.just("eof"), st.sampled_from(["client", "server"]), st.just(0)),
        ),
        max_size=40,
    )
)
def test_nothing_is_lost_whatever_the_order(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], steps: list[tuple[str, str, int]]
) -> None:
    connection = Connection(*contexts)
    connection.settle()
    ends: dict[str, End] = {"client": connection.client, "server": connection.server}
    said = {"client": bytearray(), "server": bytearray()}
    ended: set[str] = set()
    for end in ends.values():
        end.carried.keeps = True
    for step, name, number in steps:
        end = ends[name]
        if step == "write" and name not in ended:
            data = bytes((number + at) % 251 for at in range(number))
            end.tls.write(data)
            said[name] += data
        elif step == "move":
            end.wire.move(number)
        elif step == "pause":
            end.carried.pause_after = len(end.carried.heard) + number
        elif step == "resume":
            resume(end)
        elif step == "eof" and name not in ended:
            end.tls.write_eof()
            ended.add(name)
    for end in ends.values():
        end.carried.pause_after = 0
    for _ in range(3):
        for end in ends.values():
            resume(end)
        connection.settle()
    assert connection.server.carried.heard == said["client"]
    assert connection.client.carried.heard == said["server"]
    for name, other in (("client", "server"), ("server", "client")):
        assert ("eof" in ends[other].carried.events) == (name in ended)
        assert "lost" not in ends[name].carried.events
