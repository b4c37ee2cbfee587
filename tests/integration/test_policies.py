"""Policies over real sockets: what the client is told, and what the upstream gets."""

from __future__ import annotations

import pytest

from tests.integration.gateways import Keys, chunked, eventually, get, proxied, request
from tests.policies.helpers import make_identity
from upstream_stub.raw import by_query

KEYS = Keys(
    {
        b"pnpub_r.pnsec_r": make_identity(username="reader", scopes=("courses:read",), organization="springfield"),
        b"pnpub_w.pnsec_w": make_identity(username="writer", scopes=("courses:read", "courses:write")),
    }
)


def bearer(name: str) -> str:
    return f"Authorization: Bearer pnpub_{name}.pnsec_{name}"


async def test_scopes() -> None:
    policies = "{auth: {any_of: [api-key]}, scopes: {require: [courses:read, courses:write]}}"
    async with proxied(by_query, KEYS, policies=policies) as (upstream, gateway), await gateway.connect() as client:
        refused = await client.request(get("/", bearer("r")))
        assert (refused.status, b'"error": "Insufficient scope"' in refused.body) == (403, True)
        assert refused.headers["www-authenticate"] == (
            'Bearer realm="postern", error="insufficient_scope", scope="courses:read courses:write"'
        )
        assert (await client.request(get("/"))).status == 401
        assert (await client.request(get("/", bearer("w")))).status == 200
        (request,) = upstream.requests
        assert request.header("X-Authenticated-Scope") == "courses:read courses:write"
        assert gateway.stats["lms", "all"].refused[0] == ("scopes", "insufficient_scope")


@pytest.mark.parametrize(
    ("match", "target", "headers", "status"),
    [
        ("path.org", "/schools/springfield/lessons", (), 200),
        ("path.org", "/schools/spring%66ield/lessons", (), 200),
        ("path.org", "/schools/shelbyville/../springfield/lessons", (), 200),
        ("path.org", "/schools/springfield/../shelbyville/lessons", (), 403),
        ("path.org", "/schools/shelbyville/lessons?org=springfield", (), 403),
        ("query.org", "/schools/x/lessons?org=springfield", (), 200),
        ("query.org", "/schools/x/lessons?org=springfield&org[]=shelbyville", (), 403),
        ("header.X-School", "/schools/x/lessons", ("X-School: springfield",), 200),
        ("header.X-School", "/schools/x/lessons", ("X-School: springfield", "X_School: shelbyville"), 403),
    ],
)
async def test_organization(match: str, target: str, headers: tuple[str, ...], status: int) -> None:
    policies = f"{{auth: {{any_of: [api-key]}}, organization: {{match: {match}}}}}"
    route = "paths: ['/schools/{org}/lessons']"
    async with proxied(by_query, KEYS, policies=policies, route=route) as (upstream, gateway):
        async with await gateway.connect() as client:
            response = await client.request(get(target, bearer("r"), *headers))
            assert response.status == status
            assert (b'"error": "Organization mismatch"' in response.body) is (status == 403)
            assert (await client.request(get(target, bearer("w"), *headers))).status == 403
        assert [request.header("X-Consumer-Username") for request in upstream.requests] == ["reader"] * (status == 200)


TRANSFORMED = """{auth: {any_of: [api-key]}, request-transformer: {
  remove: {headers: [X-Debug], query: [debug]},
  rename: {headers: {X-Old: X-New}, query: {old: new}},
  replace: {headers: {X-Role: guest}, query: {role: guest}},
  add: {headers: {Authorization: "Bearer lms"}, query: {lang: en}},
  append: {headers: ["X-Seen:postern"]}}}"""


@pytest.mark.parametrize(
    ("target", "headers", "sent_target", "sent"),
    [
        ("/", (), "/?lang=en", {"Authorization": "Bearer lms", "X-Seen": "postern"}),
        ("/?debug", ("X_Debug: 1",), "/?lang=en", {"X_Debug": None, "X-Debug": None}),
        ("/?old=%7e&lang=de&role=admin", ("X-Old: 1",), "/?new=%7e&lang=de&role=guest", {"X-New": "1", "X-Old": None}),
        ("/?lang=%64e", ("X_Role: admin",), "/?lang=%64e", {"X_Role": None, "X-Role": "guest"}),
        ("/", ("X-Seen: you",), "/?lang=en", {"X-Seen": "you"}),
    ],
)
async def test_request_transformer(
    target: str, headers: tuple[str, ...], sent_target: str, sent: dict[str, str | None]
) -> None:
    async with proxied(by_query, KEYS, policies=TRANSFORMED) as (upstream, gateway):
        async with await gateway.connect() as client:
            assert (await client.request(get(target, bearer("r"), *headers))).status == 200
        (request,) = upstream.requests
        assert request.target == sent_target
        assert {name: request.header(name) for name in sent} == sent
        assert b"pnsec_" not in request.head


async def test_a_query_of_which_nothing_is_left() -> None:
    policies = "{request-transformer: {remove: {query: [a]}}}"
    async with proxied(by_query, policies=policies) as (upstream, gateway):
        for target in ("/x?a=1", "/x?", "/x?b"):
            assert (await gateway.get(target)).status == 200
        assert [request.target for request in upstream.requests] == ["/x", "/x?", "/x?b"]


async def test_nothing_is_brought_back_behind_a_chunked_body() -> None:
    policies = "{request-transformer: {remove: {headers: [X-Debug]}, replace: {headers: {X-Role: guest}}}}"
    head = request("POST", "/", "Transfer-Encoding: chunked", "TE: trailers", "Trailer: X-Debug, X-Role")
    async with proxied(by_query, policies=policies) as (upstream, gateway), await gateway.connect() as client:
        end = b"0\r\nX-Debug: 1\r\nX_Role: admin\r\nX-Sum: 2\r\n\r\n"
        assert (await client.request(head + chunked(b"body", end=end), "POST")).status == 200
        await eventually(lambda: b"body" in upstream.requests[0].body)
        body = bytes(upstream.requests[0].body)
        assert (b"Debug" in body, b"Role" in body) == (False, False)


async def test_the_lms_s_own_credential_comes_after_what_was_added() -> None:
    policies = """{
      request-transformer: {add: {headers: {X-A: a, Authorization: Bearer added}, query: {wstoken: added}}},
      upstream-credential: {header: {name: Authorization, value: Bearer lms}}}"""
    async with proxied(by_query, policies=policies) as (upstream, gateway):
        assert (await gateway.get("/")).status == 200
        (request,) = upstream.requests
        assert [value for name, value in request.headers if name == "Authorization"] == ["Bearer lms"]
        assert (request.header("X-A"), request.target) == ("a", "/?wstoken=added")
