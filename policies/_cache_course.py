"""The course of a request through the cache: looked up, followed, led, stored, told.

Apart from the settings of `proxy-cache`, so that it can be compiled: this runs once a request.

A request takes one of these ways.  *Bypass*: nothing is looked up or stored.  *Hit*: answered from the cache.  *Miss*
or *Refresh* (there was a response, but not a fresh one): the upstream is asked; a plain GET leads a flight, or follows
the one that is under way for its key.  What the request wants beyond that (validators, `no-cache`, HEAD) goes alone,
so that no other waits for an answer that is not its own.
Law: every flight that a request leads ends with that request, at the latest in `ended`.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Final
from urllib.parse import urljoin, urlsplit

from gateway.core.answers import NOT_CACHED
from gateway.core.context import Context, index_fields
from gateway.core.decision import ALLOW, Decision, Deny, Pending
from gateway.core.identity import Identity
from gateway.core.path import PathError, canonical
from gateway.core.ports import Clock, ResponseCache
from policies._cache_body import Both, Collector, Ending
from policies._cache_directives import Asked, asked_of
from policies._cache_entry import (
    Stored,
    decode,
    decode_vary,
    encode,
    encode_vary,
    reply,
    size_of,
    stored_headers,
)
from policies._cache_flights import Flight, Flights, chain
from policies._cache_freshness import terms
from policies._cache_keys import Recipe, resource_of, vary_names

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
#: Requests with these are not the cache's: parts of a response, preconditions of the origin, other protocols.
_BYPASSED: Final = frozenset({b"range", b"if-range", b"if-match", b"if-unmodified-since", b"upgrade"})
_CONDITIONAL: Final = frozenset({b"if-none-match", b"if-modified-since"})
#: Seconds that a response stays after its lifetime, for requests that take a stale one.
_STALE: Final = 60.0
#: The longest that anything is stored, in seconds, and the least that the record of a `Vary` is.
_LONGEST: Final = 7 * 86400.0
_VARY_LASTS: Final = 3600.0
#: How often a request follows; then it goes alone.
_TURNS: Final = 2
#: Media types of responses that are read as they come, and perhaps never end.
_ENDLESS: Final = (b"text/event-stream", b"multipart/x-mixed-replace")
#: Answers without a body, whose length need not be said.
_BODILESS: Final = frozenset({204, 205})
#: The client left before the head of its answer (as in records of the data plane).
_CLIENT_CLOSED: Final = 499

_REPLACED: Final = frozenset({b"x-cache-status"})
_LINES: Final = {
    result: b"X-Cache-Status: " + result.capitalize().encode() + b"\r\n"
    for result in ("hit", "miss", "bypass", "refresh")
}


class Visit:
    """What the cache knows of one request.

    `primary` is its key before anything is known of a `Vary`, `key` where its response would be found; `moment` the
    resource's when the upstream was asked; `asked` what it asks of caches, `personal` whether it says on whose behalf
    it is made; `unsafe` that it may have changed the resource, until it is known; `stale` that something was found
    that is too old; `turns` how often it has followed; `flight` is the one that it leads, `collector` gathers the
    body of its response; `identity` is whom the key was made for, `replaced` how many sets of headers had been
    replaced when the upstream was asked.
    """

    __slots__ = ("asked", "collector", "flight", "identity", "key", "moment", "personal", "primary", "replaced",
                 "resource", "stale", "turns", "unsafe")  # fmt: skip

    def __init__(
        self, resource: str, key: str, asked: Asked | None, personal: bool, unsafe: bool, identity: Identity | None
    ) -> None:
        self.identity = identity
        self.replaced = 0
        self.resource = resource
        self.primary = key
        self.key = key
        self.moment = 0
        self.asked = asked
        self.personal = personal
        self.unsafe = unsafe
        self.flight: Flight | None = None
        self.collector: Collector | None = None
        self.turns = 0
        self.stale = False

    @property
    def shared_key(self) -> str:
        """The key under which others may wait for the same response."""
        return self.key + "*" if self.personal else self.key


class Course:
    """The cache of one route; `ttl` and `patience` in seconds (how long an answer lives that does not say, how long
    anybody waits for another's)."""

    def __init__(
        self,
        cache: ResponseCache,
        clock: Clock,
        recipe: Recipe,
        route: str,
        ttl: float,
        methods: frozenset[str],
        statuses: frozenset[int],
        patience: float,
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._recipe = recipe
        self._route = route
        self._ttl = ttl
        self._methods = methods
        self._statuses = statuses
        self._flights = Flights(patience)

    # ── the request ──────────────────────────────────────────────────────────────────────────

    def check(self, context: Context) -> Decision | Pending[Decision]:
        """Answer from the cache, let the upstream be asked, or wait for who asks it already."""
        method = context.method
        if method not in self._methods or context.content_length != 0 or not _BYPASSED.isdisjoint(context.index):
            if method not in _SAFE:
                context.caching = Visit(resource_of(context.host, context.path), "", None, False, True, None)
            return self._go(context, "bypass")
        asked = asked_of(context.index)
        if asked is not None and asked.no_store and not asked.only_if_cached:
            return self._go(context, "bypass")
        recipe = self._recipe
        resource = resource_of(context.host, context.path)
        visit = Visit(resource, recipe.primary(context), asked, recipe.personal(context), False, context.identity)
        return self._look(context, visit, context.now)

    def _look(self, context: Context, visit: Visit, now: float) -> Decision | Pending[Decision]:
        """Look under the visit's key, unless somebody is about to store there."""
        if visit.asked is None:
            flight = self._flights.under_way(visit.shared_key, self._cache.moment(visit.resource))
            if flight is not None and (flight.stored is not None or visit.turns < _TURNS):
                return self._follow(context, visit, flight, now)
        found = self._cache.find(visit.resource, visit.key)
        if isinstance(found, Pending):

            def delivered(value: bytes | None) -> Decision | Pending[Decision]:
                return self._found(context, visit, value, self._clock.time())

            return chain(found, delivered)
        return self._found(context, visit, found, now)

    def _found(self, context: Context, visit: Visit, value: bytes | None, now: float) -> Decision | Pending[Decision]:
        """Go on from what stands under the visit's key: a response, the record of a `Vary`, or nothing."""
        if value is None:
            return self._missed(context, visit, now)
        names = decode_vary(value)
        if names is None:
            stored = decode(visit.key, value)
            return self._missed(context, visit, now) if stored is None else self._judge(context, visit, stored, now)
        key = self._recipe.variant(visit.primary, names, context)
        if key is None or visit.key != visit.primary:
            return self._missed(context, visit, now)
        visit.key = key
        return self._look(context, visit, now)

    def _judge(self, context: Context, visit: Visit, stored: Stored, now: float) -> Decision | Pending[Decision]:
        """Answer with a stored response if it is for this request, and fresh enough."""
        if not visit.personal or stored.shared:
            if stored.fits(visit.asked, now):
                self._said(context, "hit")
                return reply(stored, context, now)
            visit.stale = True
        return self._missed(context, visit, now)

    def _missed(self, context: Context, visit: Visit, now: float) -> Decision | Pending[Decision]:
        """Nothing fits: lead, follow or go alone."""
        asked = visit.asked
        if asked is not None:
            if asked.only_if_cached:
                self._said(context, "miss")
                return Deny(NOT_CACHED)
        elif visit.turns < _TURNS:
            key, moment = visit.shared_key, self._cache.moment(visit.resource)
            flight = self._flights.under_way(key, moment)
            if flight is not None and flight.stored is None:
                return self._follow(context, visit, flight, now)
            if context.method == "GET" and _CONDITIONAL.isdisjoint(context.index):
                visit.flight = self._flights.lead(key, moment, self._clock.monotonic_ns())
        return self._alone(context, visit)

    def _alone(self, context: Context, visit: Visit) -> Decision:
        """Ask the upstream, whether or not others wait for what it says; only a GET's response can be stored."""
        if context.method == "GET":
            visit.moment = self._cache.moment(visit.resource)
            context.caching = visit
        decision = self._go(context, "refresh" if visit.stale else "miss")
        visit.replaced = len(context.replaced)
        return decision

    def _go(self, context: Context, result: str) -> Decision:
        self._said(context, result)
        return ALLOW

    def _said(self, context: Context, result: str) -> None:
        context.answer_lines.append(_LINES[result])
        context.replaced += (_REPLACED,)
        self._cache.count(self._route, result)

    # ── following ────────────────────────────────────────────────────────────────────────────

    def _follow(self, context: Context, visit: Visit, flight: Flight, now: float) -> Decision | Pending[Decision]:
        """Wait for a flight; what has landed a moment ago is here already."""
        if flight.stored is not None:
            return self._landed(context, visit, flight, flight.stored, now)
        visit.turns += 1
        follower = self._flights.follow(flight)

        def told(again: bool) -> Decision | Pending[Decision]:
            later = self._clock.time()
            if flight.stored is not None:
                return self._landed(context, visit, flight, flight.stored, later)
            return self._look(context, visit, later) if again else self._alone(context, visit)

        return chain(follower, told)

    def _landed(
        self, context: Context, visit: Visit, flight: Flight, stored: Stored, now: float
    ) -> Decision | Pending[Decision]:
        """Answer with what somebody else has just fetched, if this request selects the same (RFC 9111 §4.1)."""
        names = flight.vary
        key = self._recipe.variant(visit.primary, names, context) if names else visit.primary
        if key == stored.key:
            return self._judge(context, visit, stored, now)
        if key is None or key == visit.key:
            return self._alone(context, visit)
        visit.key = key
        return self._look(context, visit, now)

    # ── the response ─────────────────────────────────────────────────────────────────────────

    def responded(self, context: Context, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        """See the upstream's head: collect the body if it may be stored, drop what an unsafe request has changed."""
        visit = context.caching
        if not isinstance(visit, Visit):
            return
        index = index_fields(fields)[0]
        if visit.unsafe:
            visit.unsafe = False
            context.caching = None
            if 200 <= status < 400:
                self._changed(context, visit, index)
            return
        if not self._collect(context, visit, status, fields, index) and visit.flight is not None:
            self._flights.mark(visit.flight, self._clock.monotonic_ns())

    def _collect(
        self,
        context: Context,
        visit: Visit,
        status: int,
        fields: list[tuple[bytes, bytes]],
        index: dict[bytes, bytes],
    ) -> bool:
        """Begin to collect the body; False if this response may not be stored."""
        if status not in self._statuses or index.get(b"content-type", b"").lower().startswith(_ENDLESS):
            return False
        if context.identity is not visit.identity and self._recipe.primary(context) != visit.primary:
            return False  # changed while the request waited: this is no answer to those who have the key
        if any(not names.isdisjoint(index) for names in context.replaced[visit.replaced :]):
            return False  # another policy has just put something else in the place of what came
        received = self._clock.time()
        agreed = terms(index, self._ttl, context.now, received)
        if agreed is None or (visit.personal and not agreed.shared):
            return False
        names = vary_names(index)
        key = self._recipe.variant(visit.primary, names, context) if names else visit.primary
        if key is None:
            return False
        headers = stored_headers(fields, index, formatdate(received, usegmt=True).encode())
        limit = self._cache.largest - size_of(headers)
        length = index.get(b"content-length")
        if length is None:
            # The end of the connection may be the end of the body, or a cut: nobody could tell.
            if b"transfer-encoding" not in index and status not in _BODILESS:
                return False
        elif limit < (int(length) if length.isdigit() else 0):
            return False
        if limit < 0:
            return False

        def complete(body: bytes) -> None:
            stored = Stored(key, status, agreed.born, agreed.lifetime, agreed.shared, agreed.never_stale, headers, body)
            self._store(visit, stored, names)

        def ended(how: Ending) -> None:
            self._over(visit, how)

        collector = visit.collector = Collector(limit, self._cache.collect, complete, ended)
        context.tap = collector if context.tap is None else Both(context.tap, collector)
        return True

    def _store(self, visit: Visit, stored: Stored, names: tuple[bytes, ...]) -> None:
        """The response is complete: keep it, and tell who waits for it."""
        cache, resource, moment = self._cache, visit.resource, visit.moment
        seconds = min(stored.born + stored.lifetime + _STALE - self._clock.time(), _LONGEST)
        if seconds <= 0:
            self._over(visit, Ending.TOO_LARGE)
            return
        writing = [cache.keep(resource, stored.key, encode(stored), seconds, moment)]
        if names:
            writing.append(cache.keep(resource, visit.primary, encode_vary(names), max(seconds, _VARY_LASTS), moment))
        flight, visit.flight = visit.flight, None
        if flight is None:
            return
        flights = self._flights
        flights.land(flight, stored, names)
        waiting = [written for written in writing if isinstance(written, Pending)]
        if not waiting:
            flights.forget(flight)

        def written(_: object) -> None:
            waiting.pop()
            if not waiting:
                flights.forget(flight)

        for pending in list(waiting):
            pending.then(written, written)

    def _over(self, visit: Visit, how: Ending) -> None:
        """There will be nothing to store."""
        flight, visit.flight = visit.flight, None
        if flight is None:
            return
        if how is Ending.TOO_LARGE:
            self._flights.mark(flight, self._clock.monotonic_ns())
        elif how is Ending.NO_ROOM:
            self._flights.call_off(flight)
        else:
            self._flights.lose(flight)

    def _changed(self, context: Context, visit: Visit, index: dict[bytes, bytes]) -> None:
        """An unsafe request succeeded: what is stored of its URI, and of those that it names, is over (§4.4)."""
        self._cache.drop(visit.resource)
        for name in (b"location", b"content-location"):
            value = index.get(name)
            if value is None:
                continue
            try:
                parts = urlsplit(urljoin(f"http://{context.host}{context.path}", value.decode("ascii")))
                if parts.hostname == context.host:
                    self._cache.drop(resource_of(context.host, canonical((parts.path or "/").encode("ascii"))))
            except (ValueError, PathError):
                continue  # no URI of ours: there is nothing stored of it

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def ended(self, context: Context, status: int) -> None:
        """The exchange is over: a flight that still waits for a response gets none."""
        visit, context.caching = context.caching, None
        if not isinstance(visit, Visit):
            return
        if visit.unsafe:
            # Nobody knows what came of it: the upstream may have done it all the same.
            self._cache.drop(visit.resource)
        if visit.collector is not None:
            visit.collector.abort()
        if visit.flight is None:
            return
        flight, visit.flight = visit.flight, None
        if status == _CLIENT_CLOSED:
            self._flights.lose(flight)
        else:
            self._flights.call_off(flight)
