"""What the gateway would do with one request, found out without sending it.

Law: one reading.  The head is cut by `proxy.http1`, the path made canonical by `core.path`, the route found by the
snapshot's router and judged by `pipeline.run`, as for a request from a socket; `tests/analysis/test_judge.py` holds
both to the same answers.  What only the upstream can say is taken to be 200.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote_from_bytes

from gateway import pipeline
from gateway.core import answers
from gateway.core.answers import Answer, reason_phrase
from gateway.core.context import Context
from gateway.core.decision import Decision, Deny, Pending, Reply
from gateway.core.path import PathError, canonical
from gateway.proxy.http1 import Refused, find_end, hostname_of, parse_request
from gateway.proxy.messages import absolute_form
from gateway.snapshot import Match, Snapshot

#: The status of a judgement that did not come about.
UNDECIDED = 0

#: How long a policy that must ask somebody is waited for, in seconds.
PATIENCE = 5.0

_ABSOLUTE = "://"
_NOT_IN_A_LINE = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class Carrier:
    """Where a route takes a key: `kind` is "bearer", "basic", "header" or "query", `name` that of the last two."""

    kind: str = "bearer"
    name: str = "apikey"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a client would send it, without a body.

    `target` is a path with its query, or an absolute URL, whose host then counts; `client` is the address that it
    comes from; `arrived` the monotonic clock in nanoseconds, `now` Unix seconds.
    """

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    host: str = "localhost"
    client: str = "127.0.0.1"
    arrived: int = 0
    now: float = 0.0

    def carrying(self, token: bytes, carrier: Carrier) -> Request:
        """The same request with a key."""
        if carrier.kind == "query":
            path, _, query = self.target.partition("?")
            parameter = f"{carrier.name}={quote_from_bytes(token, safe='')}"
            return replace(self, target=f"{path}?{query}&{parameter}" if query else f"{path}?{parameter}")
        if carrier.kind == "header":
            header = (carrier.name.encode("ascii"), token)
        elif carrier.kind == "basic":
            header = (b"Authorization", b"Basic " + base64.b64encode(token + b":"))
        else:
            header = (b"Authorization", b"Bearer " + token)
        return replace(self, headers=(*self.headers, header))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What would come of a request.

    `status` is the client's (200 stands for whatever the upstream says, `UNDECIDED` for none), `route` the name of
    the one that matched.  `decided_by` names the policy that ended it, "gateway" for what no policy was asked about,
    "fault" for a policy that broke, "" where the request goes on to the upstream.  `text` is the answer's own.
    `context` is what policies left behind (None for what is no request); `decision` is theirs.
    """

    status: int
    route: str | None
    decided_by: str
    text: str
    context: Context | None = None
    decision: Decision | None = None


def _bearer(_route: str) -> Carrier:
    return Carrier()


async def judge(
    snapshot: Snapshot,
    request: Request,
    token: bytes | None = None,
    carrier_of: Callable[[str], Carrier] = _bearer,
) -> Judgement:
    """Judge a request, with the key `token` where there is one; `carrier_of` says where a route takes it.

    Policies run with the ports that the snapshot was built with: what those count, this counts.
    """
    context = _read(snapshot, request)
    if isinstance(context, Answer):
        return _refused(context)
    if context.path == "*":
        # Asks about the gateway itself, which answers (RFC 9112 §3.2.4); no route is named by it.
        return Judgement(204, None, "gateway", reason_phrase(204), context)
    match = _match(snapshot, context)
    if match is not None and token is not None:
        context = _read(snapshot, request.carrying(token, carrier_of(match[0].name)))
        if isinstance(context, Answer):
            return _refused(context)
        match = _match(snapshot, context)
    if match is None:
        return replace(_refused(answers.NO_ROUTE), context=context)
    route, _, context.captures = match
    context.route = route
    decision = pipeline.run(context, route)
    if isinstance(decision, Pending):
        try:
            decision = await _settled(decision)
        except TimeoutError:
            text = f"a policy did not decide within {PATIENCE:g} s"
            return Judgement(UNDECIDED, route.name, "", text, context)
    if isinstance(decision, Deny):
        answer = decision.answer
        return Judgement(answer.status, route.name, context.decided_by, answer.text, context, decision)
    if isinstance(decision, Reply):
        text = reason_phrase(decision.status)
        return Judgement(decision.status, route.name, context.decided_by, text, context, decision)
    return Judgement(200, route.name, "", "", context, decision)


def _refused(answer: Answer) -> Judgement:
    """What the gateway answers before a route is known."""
    return Judgement(answer.status, None, "gateway", answer.text)


def _read(snapshot: Snapshot, request: Request) -> Context | Answer:
    """The request as the data plane reads it, or the answer that it gets at the door."""
    if _NOT_IN_A_LINE.search(request.method + request.target):
        return answers.BAD_REQUEST
    lines = [f"{request.method} {request.target} HTTP/1.1".encode(), b"Host: " + request.host.encode()]
    lines += [name + b": " + value for name, value in request.headers]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    try:
        find_end(head, snapshot.limits)
        parsed = parse_request(head, snapshot.limits)
        target, hostname, scheme = parsed.target, parsed.hostname, "http"
        if not target.startswith(b"/"):
            target, host = absolute_form(target, parsed.host)
            hostname = hostname_of(host)
            scheme = request.target.partition(_ABSOLUTE)[0].lower() if _ABSOLUTE in request.target else scheme
        raw, _, query = target.partition(b"?")
        path = "*" if target == b"*" and request.method == "OPTIONS" else canonical(raw, snapshot.paths)
    except Refused as refused:
        return refused.answer
    except (PathError, ValueError):
        return answers.BAD_REQUEST
    return Context(
        request.method,
        path,
        query,
        hostname,
        scheme,
        parsed.lines,
        parsed.index,
        parsed.repeated,
        request.client,
        request.arrived,
        request.now,
        "0" * 32,
        0,
    )


def _match(snapshot: Snapshot, context: Context) -> Match | None:
    """The route; a CORS preflight is matched as the method that it asks about, on a route that answers it."""
    index, found = context.index, None
    asked = index.get(b"access-control-request-method")
    if context.method == "OPTIONS" and snapshot.preflights and asked is not None and b"origin" in index:
        found = snapshot.match(asked.decode("latin-1"), context.host, context.path, index)
    if found is not None and found[0].answers_preflight:
        return found
    return snapshot.match(context.method, context.host, context.path, index)


async def _settled(pending: Pending[Decision]) -> Decision:
    """What a `Pending` delivers; TimeoutError, and nobody waits any more, when that takes too long."""
    future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

    def deliver(decision: Decision) -> None:
        if not future.done():
            future.set_result(decision)

    def fail(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    pending.then(deliver, fail)
    try:
        return await asyncio.wait_for(future, PATIENCE)
    finally:
        pending.cancel()
