"""One request and its response, from the head to `finish`.

Its states are in `states`.  What finds an upstream and tries again is in `attempt`, what judges tunnels and streams
again in `lasting`, what is recorded in the end in `record`; all of them are parts of this one machine.  Laws:

A response's head is written once.  Before it, whatever breaks becomes one of the gateway's own answers;
after it, what breaks ends the client's connection, so that a cut body cannot look complete.  Request
and response bodies move independently: an upstream may answer before it has read everything.
Every path ends in `finish`, once, which records metrics and the access line and calls `on_end` hooks.
An upstream connection is given back only after a complete response to a complete request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Final

from gateway import pipeline
from gateway.core import answers
from gateway.core.answers import Answer
from gateway.core.context import Context, Tap
from gateway.core.decision import ALLOW, Decision, Deny, Pending, Reply
from gateway.core.http import tokens
from gateway.core.path import PathError, canonical
from gateway.proxy import attempt, lasting, messages
from gateway.proxy.framing import LAST_CHUNK, BodyReader, ChunkedReader, FramingError, chunk, reader
from gateway.proxy.http1 import Fields, Refused, RequestHead, ResponseHead, hostname_of
from gateway.proxy.record import record
from gateway.proxy.sinks import INBOX, DrainSink, HoldSink, Sink
from gateway.proxy.states import CONNECTING, DECIDING, DONE, DRAINING, FORWARDING, RESPONDING, WAITING
from gateway.proxy.upstream import Upstream

if TYPE_CHECKING:
    from gateway.proxy.balancer import Balancer, Endpoint
    from gateway.proxy.downstream import Downstream
    from gateway.proxy.plane import Plane
    from gateway.proxy.tunnel import Tunnel
    from gateway.snapshot import Route, Snapshot

_log = logging.getLogger("postern.proxy")

#: The most interim responses (1xx) that an upstream may send before its final one.
MAX_INTERIM: Final = 32

METHODS: Final = {method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}

#: The status that stands in records for a client that went away before its answer (nginx's 499).
CLIENT_CLOSED: Final = 499


class Exchange:
    """See the module."""

    __slots__ = ("arrived", "balancer", "bodiless", "carrier", "chunked_out", "close", "context", "continued",
                 "deadline", "decision", "downstream", "endpoint", "head", "hold", "interims", "matched", "options",
                 "peer", "pending", "plane", "queued", "reader", "reason", "received", "replay", "request_head",
                 "retries", "route", "sent", "sent_at", "sink", "snapshot", "state", "status", "trailers", "tunnel",
                 "until", "upstream", "upstream_ns")  # fmt: skip

    # Set where they begin to mean something: `attempt` and `lasting` work on them, too.
    balancer: Balancer
    carrier: Upstream
    matched: int
    options: Sequence[bytes]
    queued: bool
    replay: bytes | None
    request_head: bytes
    retries: int
    sink: Sink

    def __init__(self, downstream: Downstream, plane: Plane, head: RequestHead) -> None:
        self.downstream = downstream
        self.plane = plane
        self.head = head
        self.state = DECIDING
        self.bodiless = head.method == b"HEAD"
        self.close = not head.keep_alive
        self.arrived = 0
        self.deadline = 0
        #: When the whole of it must be over, 0 for never.
        self.until = 0
        self.reader: BodyReader | None = None
        self.pending: Pending[Decision] | Pending[Upstream] | Pending[None] | None = None
        self.endpoint: Endpoint | None = None
        self.upstream: Upstream | None = None
        self.route: Route | None = None
        self.status = 0
        self.sent = 0
        self.sent_at = 0
        self.upstream_ns = -1
        self.decision = "proxied"
        self.reason = ""
        self.interims = 0
        self.continued = False
        #: What stood behind the last chunk of the response, where there was anything.
        self.trailers: Fields | None = None
        self.tunnel: Tunnel | None = None

    # ── deciding ─────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Find the route, run its policies, act on what they say."""
        head, plane, downstream = self.head, self.plane, self.downstream
        snapshot = self.snapshot = plane.snapshot
        self.arrived = arrived = monotonic_ns()
        target, hostname = head.target, head.hostname
        problem: Answer | None = None
        if target == b"*":
            # Asks about the server itself (RFC 9112 §3.2.4): no route is named by it.
            problem = None if head.method == b"OPTIONS" else answers.BAD_REQUEST
        elif target[0] != 0x2F:
            try:
                target, head.host = messages.absolute_form(target, head.host, head.method)
                hostname = hostname_of(head.host)
                head.index[b"host"] = head.host  # policies see the host that the request is for, too
            except (ValueError, Refused):
                problem = answers.BAD_REQUEST
        raw, _, query = target.partition(b"?")
        path = ""
        if problem is None and target != b"*":
            try:
                path = canonical(raw, snapshot.paths)
            except PathError:
                problem = answers.BAD_REQUEST
        method = METHODS.get(head.method)
        if method is None:
            method = head.method.decode("ascii")
        framing = head.framing
        peer = self.peer = downstream.peer(snapshot, head)
        index = head.index
        context = self.context = Context(
            method,
            path,
            query,
            hostname,
            peer.scheme,
            head.lines,
            index,
            head.repeated,
            peer.client,
            arrived,
            time(),
            plane.request_id() if not peer.trusted else plane.given_id(index),
            framing if framing >= 0 else None,
        )
        if framing:
            self.received = 0
            self.hold = HoldSink(downstream)
            self.sink = self.hold
            self.reader = reader(framing)
            if (waiting := downstream.take_inbox()) and not self.feed(waiting):
                return
        if problem is not None:
            self.refuse(Deny(problem, close=problem is answers.BAD_REQUEST))
            return
        match = None
        if method == "OPTIONS":
            if target == b"*" or b"max-forwards" in index:
                self._ask_us(target)
                if self.state != DECIDING:
                    return
            if snapshot.preflights:
                match = self._preflight(snapshot)
        if match is None:
            match = snapshot.match(method, context.host, path, index)
            if match is None:
                self.refuse(Deny(answers.NO_ROUTE))
                return
        self.route, self.matched, context.captures = match
        context.route = self.route
        decision = pipeline.run(context, self.route)
        if decision is ALLOW:
            attempt.forward(self)
        else:
            self._decided_late(decision)

    def _ask_us(self, target: bytes) -> None:
        """An OPTIONS that is about the gateway, or may become so: one hop less (RFC 9110 §7.6.2, §9.3.7)."""
        context = self.context
        hops = context.index.get(b"max-forwards", b"0")
        if not hops.isdigit() or len(hops) > 9:
            self.refuse(Deny(answers.BAD_REQUEST))
        elif target == b"*" or not int(hops):
            self.reply(Reply(204, headers=(messages.ALLOW,)))
        else:
            context.hidden += (b"max-forwards",)
            context.upstream_lines.append(b"Max-Forwards: %d\r\n" % (int(hops) - 1))

    def _preflight(self, snapshot: Snapshot) -> tuple[Route, int, dict[str, str] | None] | None:
        """A CORS preflight is matched as the method that it asks about, on a route that answers it."""
        context = self.context
        asked = context.index.get(b"access-control-request-method")
        if asked is None or b"origin" not in context.index:
            return None
        match = snapshot.match(asked.decode("latin-1"), context.host, context.path, context.index)
        return match if match is not None and match[0].answers_preflight else None

    def _decided_late(self, decision: Decision | Pending[Decision]) -> None:
        if isinstance(decision, Pending):
            self.pending = decision
            decision.then(self.decided, self._broke)
        else:
            self.decided(decision)

    def decided(self, decision: Decision) -> None:
        """Act on what the policies have said."""
        self.pending = None
        if self.state == DONE:
            return
        try:
            self._act(decision)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not strike who delivered the decision
            self.crashed(error)

    def _act(self, decision: Decision) -> None:
        if isinstance(decision, Deny):
            self.refuse(decision)
        elif isinstance(decision, Reply):
            self.reply(decision)
        else:
            attempt.forward(self)

    def _broke(self, error: BaseException) -> None:
        _log.error("deciding request %s failed", self.context.request_id, exc_info=error)
        self.pending = None
        self.refuse(Deny(answers.INTERNAL_ERROR))

    def crashed(self, error: Exception) -> None:
        """A defect of ours came up while the request was being decided or forwarded."""
        _log.error("a request broke the gateway", exc_info=error)
        if hasattr(self, "context") and self.state < RESPONDING:
            self.context.answer_lines = []  # they may be what broke it
            self.refuse(Deny(answers.INTERNAL_ERROR, close=True))
        elif hasattr(self, "context") and self.state != DONE:
            self.abort("it broke the gateway in the middle of its response")
        else:
            self.over()
            self.downstream.reset()

    # ── the request's body ───────────────────────────────────────────────────────────────────

    def feed(self, data: bytes) -> bool:
        """Bytes from the client while its body is not complete; False once the exchange took another course."""
        current = self.reader
        assert current is not None  # noqa: S101 - the downstream feeds only what has a body
        try:
            payload, rest = current.feed(data)
        except FramingError as error:
            self.client_failed(Deny(answers.BAD_REQUEST, close=True), str(error))
            return False
        if current.done and rest:
            self.downstream.give_inbox(rest)
        self.received += len(payload)
        limit = self.context.body_limit
        if limit is not None and self.received > limit and self.state != DRAINING:
            self.client_failed(Deny(answers.BODY_TOO_LARGE, close=True), "body too large")
            return False
        upstream = self.upstream
        if self.state == FORWARDING and upstream is not None and not upstream.paused and self.route is not None:
            # While the client sends, its own deadline counts; then the upstream's.
            self.deadline = monotonic_ns() + self.route.service.first_byte_timeout if current.done else 0
        self.sink.write(payload, current.done)
        if self.state == DRAINING and current.done:
            self._released(monotonic_ns())
        return True

    def client_failed(self, deny: Deny, why: str) -> None:
        """What the client sent cannot go on: refuse if nothing was answered yet, else end its connection."""
        if self.state < RESPONDING:
            self.refuse(deny)
        elif self.state == RESPONDING:
            self.abort(why)
        elif self.state == DRAINING:
            self.over()
            self.downstream.linger()

    def client_timeout(self) -> None:
        """The client did not go on with its body."""
        self.client_failed(Deny(answers.REQUEST_TIMEOUT, close=True), "the client stopped sending its body")

    def upload_blocked(self) -> None:
        """The upstream takes no more for now."""
        if self.reader is not None and not self.reader.done:
            self.downstream.pause()
        if self.route is not None and self.state == FORWARDING:
            self.deadline = monotonic_ns() + self.route.service.write_timeout

    def upload_flowing(self) -> None:
        """The upstream takes more again."""
        self.downstream.resume()
        if self.state == FORWARDING and self.reader is not None and self.route is not None:
            self.deadline = monotonic_ns() + self.route.service.first_byte_timeout if self.reader.done else 0

    def waits(self) -> bool:
        """Does it wait for room on one of the service's endpoints?"""
        return self.state == CONNECTING and self.queued

    def take_slot(self) -> None:
        """It need not wait any longer: there is room, or no endpoint whose room could be waited for."""
        try:
            attempt.choose(self, waited=True)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not strike who has made room
            self.crashed(error)

    def upstream_failed(self, why: str) -> None:
        """The upstream's connection broke, or what came on it is no response."""
        attempt.broke(self, why)

    # ── the response ─────────────────────────────────────────────────────────────────────────

    def interim(self, response: ResponseHead) -> bool:
        """A 1xx from the upstream: relayed to who can read it; False if it ends the exchange."""
        self.interims += 1
        if self.interims > MAX_INTERIM:
            self.upstream_failed("too many 1xx responses")
            return False
        if self.head.version and (response.status != 100 or self.head.expects):
            self.downstream.write(messages.interim_head(response))
            if response.status == 100:
                self.continued = True
        return True

    def respond(self, response: ResponseHead, payload: bytes, last: bool, reusable: bool) -> None:
        """The response's head, and what came with it of the body."""
        context, route, head = self.context, self.route, self.head
        assert route is not None  # noqa: S101 - only what has matched is forwarded
        endpoint = self.endpoint
        if endpoint is not None and (endpoint.failing or response.status >= 400):
            attempt.judge(self, endpoint, response.status)
        if route.response_hooks and not self.hooked(route, response):
            return
        if self.plane.draining:
            self.close = True
        framing = response.framing
        self.chunked_out = False
        if framing < 0 and not self.bodiless:
            # The length is not known: chunks for HTTP/1.1; for HTTP/1.0 the connection's end is the body's.
            self.chunked_out = head.version == 1
            self.close = self.close or not self.chunked_out
            if self.chunked_out and b"te" in head.index and self._takes_trailers():
                self.options = response.options
                context.answer_lines += [
                    response.lines[at] + b"\r\n" for at, lower in response.special if lower == b"trailer"
                ]
        if not response.dated:  # RFC 9110 §6.6.1: whoever has a clock adds it
            context.answer_lines.append(b"Date: %b\r\n" % self.plane.date)
        current = self.reader
        if (
            current is not None
            and not current.done
            and (last or (head.expects and not (self.continued or self.received)))
        ):
            # Answered before the body was read: what is left of it would be taken for the next request.
            self.close = self.close or not self._drainable()
        try:
            out = messages.response_head(response, context, self.chunked_out, self.close, head.version)
        except Exception as error:  # noqa: BLE001 - what a policy gathered is no header line
            self.crashed(error)
            return
        self.state = RESPONDING
        self.status = response.status
        if context.tap is not None:
            self._show(context.tap, payload, last)
        if self.chunked_out:
            payload = chunk(payload) + (self._response_end() if last else b"")
        self.sent += len(payload)
        # Before the write: a client that is blocked by it stops the upstream's clock.
        self.deadline = 0 if last else monotonic_ns() + route.service.read_timeout
        self.downstream.write(out + payload if payload else out)
        if last:
            self._responded(reusable)

    def hooked(self, route: Route, response: ResponseHead) -> bool:
        """Show the head to the policies that want to see it; False if one broke, which is answered here."""
        try:
            for hook in route.response_hooks:
                hook(self.context, response.status, response.fields)
        except pipeline.BROKEN:  # a policy is foreign code: whatever breaks in it is a 500
            _log.exception("a policy broke on the response to request %s", self.context.request_id)
            self.refuse(Deny(answers.INTERNAL_ERROR))
            return False
        return True

    def switched(self, response: ResponseHead, rest: bytes) -> None:
        """A 101; `rest` is what came behind it."""
        lasting.switched(self, response, rest)

    def tunnel_ended(self, sent: int) -> None:
        """The WebSocket is over; `sent` bytes went to the client."""
        lasting.tunnel_ended(self, sent)

    def tunnel_forgotten(self) -> None:
        """Both of its connections are gone."""
        lasting.tunnel_forgotten(self)

    def recheck(self) -> None:
        """Time has gone by: may it go on?"""
        lasting.recheck(self)

    def judged_again(self) -> Decision | Pending[Decision]:
        """What the policies say of it by now."""
        return lasting.judged_again(self)

    def respond_more(self, payload: bytes, last: bool, reusable: bool) -> None:
        """More of the response's body."""
        tap = self.context.tap
        if tap is not None:
            self._show(tap, payload, last)
        if self.chunked_out:
            payload = chunk(payload) + (self._response_end() if last else b"")
        self.sent += len(payload)
        if payload:
            self.downstream.write(payload)
        if last:
            self._responded(reusable)
        elif self.deadline and self.route is not None:
            self.deadline = monotonic_ns() + self.route.service.read_timeout

    def _show(self, tap: Tap, payload: bytes, last: bool) -> None:
        """Show a piece of the body to the policy that wants to see it; one that breaks sees no more."""
        if last:
            self.context.tap = None
        try:
            tap.write(payload, last)
        except pipeline.BROKEN:  # a policy is foreign code: the response goes on without it
            _log.exception("a policy broke on the body of request %s", self.context.request_id)
            self.context.tap = None

    def _response_end(self) -> bytes:
        """The last chunk for the client, with the trailers that it said it takes."""
        if self.trailers is None or not self._takes_trailers():
            return LAST_CHUNK
        return messages.response_end(self.trailers, self.options, self.context)

    def _takes_trailers(self) -> bool:
        return b"trailers" in tokens(self.head.index.get(b"te", b""))

    def request_end(self) -> bytes:
        """The last chunk for the upstream, with the trailers that may go on."""
        current = self.reader
        if not isinstance(current, ChunkedReader) or not current.trailers:
            return LAST_CHUNK
        return messages.request_end(current.trailers, self.head, self.context)

    def download_blocked(self) -> None:
        """The client takes no more for now; its own deadline counts, not the upstream's."""
        if self.upstream is not None:
            self.upstream.pause()
            if self.state == RESPONDING:
                self.deadline = 0

    def download_flowing(self) -> None:
        """The client takes more again."""
        if self.upstream is not None:
            self.upstream.resume()
            if self.state == RESPONDING and self.route is not None:
                self.deadline = monotonic_ns() + self.route.service.read_timeout

    def _responded(self, reusable: bool) -> None:
        """The whole response is written."""
        connection, self.upstream = self.upstream, None
        now = monotonic_ns()
        if connection is not None:
            self.upstream_ns = now - self.sent_at
            current = self.reader
            if reusable and (current is None or current.done) and not connection.paused:
                connection.release(now)
            else:
                connection.close()
            if self.balancer.queue:
                self.balancer.wake()
        self._end(now)

    # ── the gateway's own answers ────────────────────────────────────────────────────────────

    def refuse(self, deny: Deny, decision: str = "denied") -> None:
        """Answer with a row of contract §4; the response must not have begun."""
        context, answer = self.context, deny.answer
        if decision == "denied" and answer.status >= 500:
            decision = "failed"
        self.decision = decision
        if not context.decided_by:
            context.decided_by = "gateway"
        content_type, body = answers.render(answer, context.index.get(b"accept"), context.request_id, deny.members)
        if deny.close:
            self.close = True
        self.reason = deny.reason
        stats = self.route.stats if self.route is not None else self.snapshot.unrouted
        stats.denied(context.decided_by, deny.reason)
        self._answer(answer.status, (*deny.headers, (b"Content-Type", content_type)), body)

    def reply(self, reply: Reply) -> None:
        """Answer with what a policy says."""
        self.decision = "replied"
        self._answer(reply.status, reply.headers, reply.body)

    def _answer(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
        if self.state >= RESPONDING:
            return
        self._let_go()
        current = self.reader
        if self.plane.draining or (current is not None and not current.done and not self._drainable()):
            self.close = True
        out = messages.own_head(status, headers, body, self.context.answer_lines, self.plane.date, self.close,
                                self.head.version)  # fmt: skip
        self.state = RESPONDING
        self.status = status
        if self.bodiless or status in (204, 304):
            body = b""
        self.sent = len(body)
        self.downstream.write(out + body)
        self._end(monotonic_ns())

    def _drainable(self) -> bool:
        """May the rest of the body be read and thrown away, to keep the connection?"""
        if self.head.expects and not self.continued:
            return False  # the client may send the body or not: nobody could tell what comes next
        left = getattr(self.reader, "left", None)
        return left is not None and left <= INBOX

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def expired(self) -> None:
        """The sweep found that the upstream's deadline, or that of the whole, has passed."""
        self.deadline = 0
        whole = 0 < self.until <= monotonic_ns()
        if whole:
            self.until = 0
        if self.state == CONNECTING or self.state == FORWARDING:
            attempt.out_of_time(self, whole)
        elif self.state == RESPONDING and whole:
            self.abort("it took too long in all")  # perhaps to the client: that says nothing of the endpoint
        elif self.state == RESPONDING:
            attempt.blame(self, "it stopped in the middle of a response")
            self.abort("the upstream stopped in the middle of its response")

    def abort(self, why: str) -> None:
        """The response cannot be completed: end the client's connection so that it does not look complete."""
        if self.state == DONE:
            return
        if self.state == WAITING:
            self.over()
            self.downstream.reset()
            return
        _log.warning("request %s: %s", self.context.request_id, why)
        self.decision = "failed"
        self.reason = "cut"
        self._let_go()
        record(self, monotonic_ns())
        self.over()
        self.downstream.reset()

    def client_gone(self) -> None:
        """The client's connection is lost."""
        if self.state == DONE:
            return
        if self.state == WAITING:
            self.over()
            return
        self._let_go()
        if self.state != DRAINING:
            if self.state < RESPONDING:
                self.status = CLIENT_CLOSED
            self.decision = "aborted"
            record(self, monotonic_ns())
        self.over()

    def _let_go(self) -> None:
        """Give up what is waited for, and an upstream connection in the middle of something."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.cancel()
        connection, self.upstream = self.upstream, None
        if connection is not None:
            self.upstream_ns = monotonic_ns() - self.sent_at
            connection.close()
        endpoint = self.endpoint
        if endpoint is not None:
            if endpoint.failing:
                endpoint.abandoned(monotonic_ns(), self.sent_at)
            if self.balancer.queue:
                self.balancer.wake()

    def _end(self, now: int) -> None:
        """The answer is written: record it, and make the connection ready for what comes next."""
        record(self, now)
        current = self.reader
        if current is not None and not current.done:
            if self.close or not self._drainable():
                self.over()
                self.downstream.linger()
                return
            self.state = DRAINING
            self.deadline = 0
            held = self.hold
            self.sink = DrainSink()
            held.take()
            self.downstream.resume()
            return
        self._released(now)

    def _released(self, now: int) -> None:
        self.over()
        self.downstream.released(self.close, now)

    def over(self) -> None:
        self.state = DONE
        self.deadline = self.until = 0
