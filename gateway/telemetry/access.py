"""The access log: one JSON line a request, formatted by hand, written in batches, never waited for.

The line is built on the event loop because its parts are at hand there; the writing is a thread's (`writer.py`).
Whatever a client has a say in is escaped into plain ASCII, so that a line is always one line of valid JSON,
and query strings lose their secrets before they are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from json.encoder import encode_basestring_ascii
from typing import Final

from gateway.telemetry.redact import QueryRedactor, TextRedactor
from gateway.telemetry.writer import StreamWriter

#: How much may wait for a stream that does not take it, in bytes.
BACKLOG = 16 * 1024 * 1024

#: How often lost lines are reported, in seconds.
REPORT_INTERVAL = 60.0

#: Lines go to the writer when they fill this much, in bytes, or at the next flush.
_BATCH: Final = 64 * 1024

_MEMO_LIMIT = 8192
_LONGEST_REMEMBERED = 256
#: Text as a JSON string, quotes included.
quote: Final[Callable[[str], str]] = encode_basestring_ascii

_EMPTY: Final = '""'


class AccessLog:
    """Lines gather in `record`, and leave with each `flush` (the gateway's tick calls it every 250 ms)."""

    def __init__(
        self,
        descriptor: int,
        *,
        report: Callable[[int], None],
        secret_names: Collection[str] = (),
        redactor: TextRedactor | None = None,
        backlog: int = BACKLOG,
        lock: int | None = None,
    ) -> None:
        """`descriptor` is where lines go, as a file descriptor; `lock` is its lock where other processes write there,
        too (`turns.make_lock`).

        `report` is told how many lines were lost, at most once a minute.  `secret_names` are query parameters
        that hold secrets besides the usual ones (the routes' `key_names`); `redactor` knows the keys' prefix.
        """
        self._writer = StreamWriter(descriptor, backlog, "access-log", lock)
        self._report = report
        self._reported = 0
        self._next_report = 0.0
        self._redactor = redactor or TextRedactor()
        self._secret_prefix = self._redactor.secret_prefix
        self._queries = QueryRedactor(secret_names)
        # One buffer that is appended to: lines of their own would be gathered, joined and copied once more.
        self._lines = bytearray()
        self._count = 0
        self._second = -1
        self._second_text = ""
        self._millisecond = -1
        self._time = ""
        # Parts that come again and again, already in JSON: who was served by what, and which kind of client asked.
        self._served: dict[tuple[str, str, int, str, str, str], str] = {}
        self._agents: dict[tuple[bytes, str, str], str] = {}

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._writer.dropped

    def set_secret_names(self, names: Collection[str]) -> None:
        """Another configuration names other secret query parameters."""
        self._queries = QueryRedactor(names)

    def record(
        self,
        now: float,
        request_id: str,
        client: str,
        method: str,
        path: str,
        query: bytes,
        status: int,
        sent: int,
        seconds: float,
        upstream_seconds: float | None,
        route: str,
        service: str,
        consumer: str,
        credential: str,
        decision: str,
        reason: str,
        user_agent: bytes,
        host: str,
        protocol: str = "",
    ) -> None:
        """Keep one request's line.

        `now` is Unix seconds, `sent` the bytes of the body that the client got, `seconds` and `upstream_seconds`
        are durations (None: no upstream was asked).  `credential` is what may be shown of it, its public part.
        `decision` is "proxied", "denied", "replied", "failed" or "aborted"; `protocol` is left out where it is "".
        """
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._turn(millisecond)
        # A credential names its consumer, a route its service: fewer parts to look up say as much.
        caller = credential or consumer
        try:
            served = self._served[caller, route, status, method, decision, reason]
        except KeyError:
            served = self._remember_served(method, status, route, service, consumer, credential, decision, reason)
        try:
            agent = self._agents[user_agent, host, protocol]
        except KeyError:
            agent = self._remember_agent(user_agent, host, protocol)
        if self._secret_prefix in path or self._secret_prefix in request_id:
            path, request_id = self._redactor.key(path), self._redactor.key(request_id)
        upstream = "null" if upstream_seconds is None else int(upstream_seconds * 1e6)
        lines = self._lines
        lines += (
            f'{self._time}"request_id":{quote(request_id)},"client":{quote(client)},"path":{quote(path)},'
            f'"query":{self._query(query) if query else _EMPTY},"bytes":{sent},'
            f'"duration_us":{int(seconds * 1e6)},"upstream_us":{upstream},{served}{agent}'
        ).encode()
        self._count += 1
        if len(lines) > _BATCH:
            self._hand_over()

    def flush(self) -> None:
        """Hand what has gathered to the writer; never waits."""
        if self._lines:
            self._hand_over()
        if self._writer.dropped != self._reported:
            self._report_dropped()

    def _hand_over(self) -> None:
        self._writer.write(self._lines, self._count)
        self._lines = bytearray()
        self._count = 0

    def close(self, timeout: float) -> bool:
        """Flush, and wait at most `timeout` seconds for the stream; True if everything was written."""
        self.flush()
        return self._writer.close(timeout)

    def _report_dropped(self) -> None:
        moment = time.monotonic()
        if moment >= self._next_report:
            self._next_report = moment + REPORT_INTERVAL
            dropped = self._writer.dropped
            lost, self._reported = dropped - self._reported, dropped
            self._report(lost)

    def _query(self, query: bytes) -> str:
        redacted = self._queries.redact(query).decode("latin-1")
        return quote(self._redactor.key(redacted))

    def _turn(self, millisecond: int) -> None:
        """Write the beginning of all lines of this millisecond (Unix time)."""
        second, rest = divmod(millisecond, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime('{"time":"%Y-%m-%dT%H:%M:%S.', time.gmtime(second))
        self._millisecond = millisecond
        self._time = f'{self._second_text}{rest:03d}Z",'

    def _remember_served(
        self,
        method: str,
        status: int,
        route: str,
        service: str,
        consumer: str,
        credential: str,
        decision: str,
        reason: str,
    ) -> str:
        text = (
            f'"method":{quote(method)},"status":{status},"route":{quote(route)},"service":{quote(service)},'
            f'"consumer":{quote(consumer)},"credential":{quote(self._redactor.key(credential))},'
            f'"decision":{quote(decision)},"reason":{quote(reason)},'
        )
        if len(method) <= _LONGEST_REMEMBERED and len(reason) <= _LONGEST_REMEMBERED:
            if len(self._served) >= _MEMO_LIMIT:
                self._served.clear()
            self._served[credential or consumer, route, status, method, decision, reason] = text
        return text

    def _remember_agent(self, user_agent: bytes, host: str, protocol: str) -> str:
        text = (
            f'"user_agent":{quote(self._redactor.key(user_agent.decode("latin-1")))},'
            f'"host":{quote(self._redactor.key(host))}'
        )
        text += f',"protocol":{quote(protocol)}}}\n' if protocol else "}\n"
        if len(user_agent) <= _LONGEST_REMEMBERED and len(host) <= _LONGEST_REMEMBERED:
            if len(self._agents) >= _MEMO_LIMIT:
                self._agents.clear()
            self._agents[user_agent, host, protocol] = text
        return text
