"""Fuzz targets of what reads values: paths, credentials, queries, Accept, caching, a token's answer, the configuration.

Each holds one law: nothing but the announced exception comes out, and what comes out has the promised shape.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from gateway.config.loader import load_bytes
from gateway.core import answers
from gateway.core.context import Context
from gateway.core.errors import ConfigError, IssuerError
from gateway.core.path import PathError, PathRules, canonical, join_upstream
from gateway.core.units import parse_duration, parse_network, parse_rate, parse_size
from gateway.credentials.parse import PART_LIMIT, Prefixes, parse_token
from gateway.issuers.token_response import MAX_LIFETIME, MIN_LIFETIME, IssuedToken, parse_answer
from gateway.proxy.messages import _without
from gateway.registry import policies
from policies._cache_directives import FOREVER, asked_of, delta_seconds, directives, http_date
from policies._cache_entry import decode, decode_vary, encode
from policies._cache_freshness import terms
from policies._cache_keys import vary_names
from policies.auth.carriers import Carriers, Nothing, parse_basic
from policies.organization import in_header
from policies.organization import in_query as organization_in_query

ROOT = Path(__file__).resolve().parents[2]
KNOWN = policies()
PREFIXES = Prefixes()
CARRIERS = Carriers(("bearer", "basic", "header", "query"), ("apikey", "X-API-Key"))
RULES = (PathRules(), PathRules("keep", merge_slashes=False), PathRules("keep"), PathRules(merge_slashes=False))
#: The characters of a canonical path (RFC 3986 §3.3), escapes in capitals.
CANONICAL = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-F]{2})*")


def _context(*, query: bytes = b"", authorization: bytes = b"", header: bytes = b"") -> Context:
    index = {name: value for name, value in ((b"authorization", authorization), (b"x-school", header)) if value}
    lines = [name + b": " + value for name, value in index.items()]
    return Context("GET", "/", query, "lms", "http", lines, index, frozenset(), "192.0.2.7", 1, 1.0, "id", 0)


def path(data: bytes) -> None:
    """A canonical path is canonical: no dot segments, one spelling, the same when it is read again, wherever joined."""
    for rules in RULES:
        try:
            found = canonical(data, rules)
        except PathError:
            continue
        assert CANONICAL.fullmatch(found), found
        assert canonical(found.encode("ascii"), rules) == found
        segments = re.split(r"/|%2F", found)
        assert not {".", ".."} & set(segments)
        assert not [each for each in segments if re.match(r"\.\.?(?:;|%3B)", each)]
        assert not re.search(r"%(?:5C|7F|[01][0-9A-F])", found)
        if rules.merge_slashes:
            assert "//" not in found
        if rules.encoded_slash == "refuse":
            assert "%2F" not in found
        for base, strip in (("/", True), ("/base", False), ("/base/", True)):
            joined = join_upstream(base, found, min(1, len(found)), strip)
            assert CANONICAL.fullmatch(joined)
            assert joined.startswith(base.rstrip("/"))


def carriers(data: bytes) -> None:
    """The first line is Authorization's value, the second the query."""
    value, _, query = data.partition(b"\n")
    context = _context(query=query, authorization=value)
    found = CARRIERS.find(context)
    if not isinstance(found, Nothing):
        token, hidden = found
        in_query = unquote_to_bytes(query.replace(b"+", b" "))
        assert token in value or token in in_query or token == parse_basic(value.partition(b" ")[2].strip(b" \t"))
        assert all(name == name.lower() for name in hidden)
    key = parse_basic(value)
    assert key is None or base64.b64decode(value) == key + b":"
    rest = _without(query, context.hidden_query)
    if context.hidden_query:
        names = [unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" ")) for part in rest.split(b"&")]
        assert b"apikey" not in names
    assert not rest or set(rest.split(b"&")) <= set(query.split(b"&"))


def key(data: bytes) -> None:
    """A token of a key's shape falls into its two parts, and says its secret to nobody."""
    token = parse_token(data, PREFIXES)
    if token is None:
        return
    assert token.public.encode() + b"." + token.secret == data
    if token.ours:
        assert token.public.startswith("pnpub_")
        assert 1 <= len(token.public) - 6 <= PART_LIMIT
        assert 1 <= len(token.secret) - 6 <= PART_LIMIT
    if len(token.secret) > 12 and token.secret.decode() not in token.public:
        assert token.secret.decode() not in repr(token)


def accept(data: bytes) -> None:
    """Whatever is preferred, an answer comes in one of four media types and is well formed."""
    for answer in (answers.BAD_REQUEST, answers.RATE_LIMITED):
        content_type, body = answers.render(answer, data, "id<&>")
        media = content_type.partition(b";")[0]
        if media in (b"application/json", b"application/problem+json"):
            said = json.loads(body)
            assert said.get("error", said.get("detail")) == answer.text
        else:
            assert media in (b"text/html", b"text/plain")
            assert answer.text.encode() in body
            assert media == b"text/plain" or b"<&>" not in body


def query(data: bytes) -> None:
    """The organization that a query names is the one parameter of that name, or nobody's."""
    value, _ = organization_in_query("org")(_context(query=data))
    if value is not None:
        named = [part for part in data.split(b"&") if unquote_to_bytes(part.partition(b"=")[0]) == b"org"]
        assert len(named) == 1
        assert unquote_to_bytes(named[0].partition(b"=")[2].replace(b"+", b" ")) == value
    value, _ = in_header("X-School")(_context(header=data))
    assert value is None or value == data


def cache_control(data: bytes) -> None:
    """What forbids is heard; numbers and dates stay within bounds; what was stored is read back."""
    found = directives(data)
    if re.fullmatch(rb"[\t !#-~]*", data):
        names = [member.partition(b"=")[0].strip().lower() for member in data.split(b",")]
        assert set(found) == set(filter(None, names))
    seconds = delta_seconds(data)
    assert seconds is None or 0 <= seconds <= FOREVER
    date = http_date(data, 1_700_000_000.0)
    assert date is None or 0 <= date < 1 << 40
    assert not set(vary_names({b"vary": data})) & {b""}
    asked_of({b"cache-control": data, b"pragma": data})
    agreed = terms({b"cache-control": data, b"age": data, b"date": data, b"expires": data}, 60.0, 1e9, 1e9 + 1)
    if agreed is not None:
        assert not {b"no-store", b"no-cache"} & set(found)
        assert agreed.lifetime > 0
    decode_vary(data)
    stored = decode("key", data)
    if stored is not None and stored.born == stored.born and stored.lifetime == stored.lifetime:
        again = decode("key", encode(stored))
        assert again is not None
        assert (again.status, again.body) == (stored.status, stored.body)


def _issued(status: int, data: bytes, scheme: str) -> tuple[IssuedToken | None, str]:
    try:
        return parse_answer(status, data, scheme), ""
    except IssuerError as error:
        return None, str(error)


def token_answer(data: bytes) -> None:
    """A token is visible ASCII and lives for a bounded time; everything else is an IssuerError without the answer."""
    for status, scheme in ((200, "Bearer"), (200, "JWT"), (401, "Bearer"), (302, "Bearer")):
        issued, said = _issued(status, data, scheme)
        if issued is None:
            assert len(data) < 12 or data.decode("latin-1") not in said
            continue
        assert status == 200
        assert re.fullmatch(rb"[!-~]+", issued.token)
        assert MIN_LIFETIME <= issued.lifetime <= MAX_LIFETIME


def units(data: bytes) -> None:
    """Durations, sizes, rates and networks: a value or a ValueError."""
    for text in (data.decode("latin-1"), data.decode("utf-8", "replace")):
        for parse in (parse_duration, parse_size, parse_rate, parse_network):
            try:
                parse(text)
            except ValueError:
                continue


_BASE = b"""version: 1
listen: {proxy: "127.0.0.1:0"}
limits: {header_bytes: 16KiB, headers: 50, idle_timeout: 5s}
paths: {encoded_slash: keep, merge_slashes: false}
services:
  - name: lms
    url: http://127.0.0.1:9000
    connect_timeout: 5s
    routes:
      - name: all
        paths: ["/", "= /exact", "~^/a/(?<id>\\\\d+)$", "/orgs/{org}/x"]
        methods: [GET]
        policies: {auth: none, rate-limiting: {limits: [5/minute], by: [ip]}}
consumers:
  - username: app
    groups: [a]
    keys: [{name: k, public: pnpub_a, secret_hash: "$2b$04$abcdefghijklmnopqrstuv"}]
"""
CONFIGS = (
    _BASE,
    (ROOT / "config.yaml").read_bytes(),
    (ROOT / "tests" / "config" / "everything_wrong.yaml").read_bytes().replace(b"file:", b""),
    b"version: 1\nlimits: {header_bytes: " + b"9" * 400 + b", idle_timeout: " + b"9" * 400 + b"s}\n",
    b"version: 1\n",
    b"a: &a [1, *a]\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    b"version: ${A:-1}\nservices: ${B}\n",
    b"{version: 1, version: 2}",
    b"? [a, b]\n: c\n",
    b"!!python/object:os.system x",
    b"--- 1\n--- 2\n",
    b"\xef\xbb\xbfversion: 1",
    b"version: 1\r\ntests:\n  - {request: GET /, expect: {status: 200}}\n",
)
CONFIG_WORDS = (
    b"version: ", b"services:", b"  - name: ", b"url: ", b"routes:", b"paths: ", b"policies: ", b"auth: ", b"limits: ",
    b"${A}", b"${A:-", b"}", b"[", b"]", b"{", b"&a ", b"*a", b"!!", b"null", b"9" * 400, b"~^(", b"consumers:",
    b"keys:", b"rate-limiting: ", b"cors: ", b"- ", b"<<: ", b"\n    ", b": |\n",
)  # fmt: skip
PROBLEM = re.compile(r"config\.yaml:[0-9]+:[0-9]+: .+", re.DOTALL)


def config(data: bytes) -> None:
    """A configuration loads, or every problem stands on a line of its own with its place: never anything else."""
    if b"file:" in data:
        return  # a fuzzer does not read the machine's files
    problems = _problems(data)
    assert all(PROBLEM.fullmatch(problem) for problem in problems), problems
    assert not [problem for problem in problems if "secret-value" in problem]


def _problems(data: bytes) -> list[str]:
    try:
        load_bytes(data, Path("config.yaml"), environ={"A": "secret-value"}, policies=KNOWN)
    except ConfigError as error:
        return error.problems or ["a ConfigError without a problem"]
    return []
