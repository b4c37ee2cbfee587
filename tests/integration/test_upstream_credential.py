"""`upstream-credential` over real sockets: what the LMS gets, what an issuer is asked, and who never sees a secret."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from gateway.issuers.access_tokens import HeldTokens
from gateway.issuers.token_endpoint import TokenEndpoint
from tests.integration.gateways import (
    Gateway,
    Keys,
    Response,
    chunked,
    eventually,
    get,
    proxied,
    request,
    routed,
    running_gateway,
)
from tests.integration.programs import ROOT, running_program
from tests.integration.token_issuer import TokenIssuer
from tests.policies.helpers import make_identity
from upstream_stub.misbehaviours import head
from upstream_stub.raw import RawRequest, RawServer
from upstream_stub.steps import End, Script, Send

UNAVAILABLE = "Identity provider unavailable"


class MovableClock:
    """Stands still, save for what a test adds to it: however slow the machine is, no second passes unseen."""

    def __init__(self) -> None:
        self.added = 0.0

    def monotonic_ns(self) -> int:
        return 10**12 + int(self.added * 1e9)

    def time(self) -> float:
        return 1_700_000_000 + self.added


@dataclass
class Lms:
    """An upstream that keeps what it was asked, and refuses the credentials in `refused` with 401."""

    refused: set[str] = field(default_factory=set)

    def answer(self, asked: RawRequest) -> Script:
        if asked.header("authorization") in self.refused:
            return Script([Send(head(401, "Content-Length: 3", "WWW-Authenticate: JWT") + b"no!")], End.KEEP)
        return Script([Send(head(200, "Content-Length: 2") + b"ok")], End.KEEP)


@dataclass(frozen=True)
class Setting:
    """A gateway between clients, an LMS and an issuer."""

    gateway: Gateway
    issuer: TokenIssuer
    upstream: RawServer
    lms: Lms
    clock: MovableClock
    tokens: HeldTokens

    def held(self) -> list[bytes]:
        """The tokens that are held now."""
        return [source._token for source in self.tokens._sources.values()]

    def credentials(self) -> list[list[str]]:
        """Every `Authorization` of every request that the LMS got."""
        return [
            [value for name, value in asked.headers if name.lower() == "authorization"]
            for asked in self.upstream.requests
        ]

    def configuration(self, **settings: str) -> str:
        return fetching(self.upstream.url, self.issuer.url, **settings)


def fetching(upstream: str, issuer: str, **settings: str) -> str:
    given = {"token_url": f'"{issuer}"', "client_id": "postern", "client_secret": "s3cret-client", **settings}
    written = ", ".join(f"{name}: {value}" for name, value in given.items())
    return routed(upstream, policies=f"{{upstream-credential: {{client-credentials: {{{written}}}}}}}")


@asynccontextmanager
async def setting(**settings: str) -> AsyncIterator[Setting]:
    lms, clock, endpoint = Lms(), MovableClock(), TokenEndpoint()
    tokens = HeldTokens(clock, endpoint.fetch)
    try:
        async with TokenIssuer() as issuer, RawServer(lms.answer) as upstream:
            text = fetching(upstream.url, issuer.url, **settings)
            async with running_gateway(text, access_tokens=tokens) as gateway:
                yield Setting(gateway, issuer, upstream, lms, clock, tokens)
    finally:
        await tokens.close()
        await endpoint.close()


def unavailable(response: Response, retry_after: str = "1") -> bool:
    """Is it the contract's 503?"""
    assert response.status == 503, response
    assert json.loads(response.body)["error"] == UNAVAILABLE
    assert response.headers["retry-after"] == retry_after
    return True


# ── a fixed credential ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sent",
    [
        (),
        ("Authorization: Bearer mine",),
        ("AUTHORIZATION: Bearer mine", "authorization:Basic bWluZQ=="),
        ("Authorization: Bearer mine", "Connection: Authorization, close"),
        ("X_LMS_Token: mine", "x-lms-token: mine", "X-LMS_TOKEN: mine", "X.LMS.Token: mine"),
    ],
)
async def test_the_lms_gets_ours_alone(sent: tuple[str, ...]) -> None:
    lms = Lms()
    async with RawServer(lms.answer) as upstream:
        for way in ("header: {name: X-LMS-Token, value: ours}", "basic: {username: u, password: p w}"):
            text = routed(upstream.url, policies=f"{{upstream-credential: {{{way}}}}}")
            async with running_gateway(text) as gateway, await gateway.connect() as client:
                assert (await client.request(get("/", *sent))).status == 200
        fixed, basic = upstream.requests
        assert [value for name, value in fixed.headers if name.lower().replace("_", "-") == "x-lms-token"] == ["ours"]
        assert "mine" not in [value for _, value in fixed.headers]
        assert [value for name, value in basic.headers if name.lower() == "authorization"] == ["Basic dTpwIHc="]


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/rest?wsfunction=f&wstoken=mine", "/rest?wsfunction=f&wstoken=o%26urs"),
        ("/rest?wstoken%5B%5D=mine&%77stoken=mine", "/rest?wstoken=o%26urs"),
        ("/rest", "/rest?wstoken=o%26urs"),
        ("/rest?", "/rest?wstoken=o%26urs"),
    ],
)
async def test_moodles_parameter(target: str, sent: str) -> None:
    lms = Lms()
    async with RawServer(lms.answer) as upstream:
        text = routed(upstream.url, policies="{upstream-credential: {query: {value: o&urs}}}")
        async with running_gateway(text) as gateway:
            assert (await gateway.get(target)).status == 200
    assert upstream.requests[0].target == sent


KEYS = Keys({b"pnpub_r.pnsec_r": make_identity(username="reader")})
MOODLE = """{auth: {any_of: [api-key], carriers: [bearer, query], key_names: [wstoken]},
             upstream-credential: {query: {value: ours}}}"""


@pytest.mark.parametrize(
    ("target", "lines", "status", "sent"),
    [
        ("/rest?wstoken=pnpub_r.pnsec_r&wsfunction=f", (), 200, "/rest?wsfunction=f&wstoken=ours"),
        ("/rest?%77stoken=pnpub_r.pnsec_r", (), 200, "/rest?wstoken=ours"),
        ("/rest?wsfunction=f", ("Authorization: Bearer pnpub_r.pnsec_r",), 200, "/rest?wsfunction=f&wstoken=ours"),
        ("/rest?wstoken=ours&wsfunction=f", (), 401, None),
        ("/rest?wstoken=pnpub_r.pnsec_r&wstoken=ours", (), 400, None),
    ],
)
async def test_a_moodle_client_may_show_its_key_as_the_token(
    target: str, lines: tuple[str, ...], status: int, sent: str | None
) -> None:
    async with proxied(Lms().answer, KEYS, policies=MOODLE) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(get(target, *lines))).status == status
        assert [asked.target for asked in upstream.requests] == ([sent] if sent else [])
        assert not [asked for asked in upstream.requests if b"pnsec_" in asked.head]


async def test_nothing_comes_back_behind_a_chunked_body() -> None:
    policies = "{upstream-credential: {header: {name: X-LMS-Token, value: ours}}}"
    asked = request("POST", "/", "Transfer-Encoding: chunked", "TE: trailers", "Trailer: X-LMS-Token")
    end = b"0\r\nX-LMS-Token: mine\r\nX_LMS_Token: mine\r\nX-Sum: 2\r\n\r\n"
    async with proxied(Lms().answer, policies=policies) as (upstream, gateway), await gateway.connect() as client:
        assert (await client.request(asked + chunked(b"body", end=end), "POST")).status == 200
        await eventually(lambda: b"X-Sum" in upstream.requests[0].body)
        assert b"mine" not in upstream.requests[0].body


# ── a fetched token ──────────────────────────────────────────────────────────────────────────────


async def test_two_hundred_first_requests_fetch_once() -> None:
    async with setting() as here:
        here.issuer.delay = 0.3
        clients = [await here.gateway.connect() for _ in range(200)]
        for client in clients:
            client.send(get("/", "Authorization: Bearer mine"))
        responses = await asyncio.gather(*(client.response() for client in clients))
        assert {response.status for response in responses} == {200}
        assert here.credentials() == [["Bearer token-1"]] * 200
        (asked,) = here.issuer.asked
        assert asked.form == {
            "grant_type": "client_credentials",
            "client_id": "postern",
            "client_secret": "s3cret-client",
        }
        for client in clients:
            client.writer.close()


async def test_open_edx() -> None:
    async with setting(scheme="JWT", auth="basic") as here:
        here.issuer.token, here.issuer.kind = "eyJhbGciOiJub25lIn0.eyJuIjo{}.c2ln", "JWT"
        assert (await here.gateway.get()).status == 200
        assert here.credentials() == [["JWT eyJhbGciOiJub25lIn0.eyJuIjo1.c2ln"]]
        (asked,) = here.issuer.asked
        assert asked.form == {"grant_type": "client_credentials", "token_type": "jwt"}
        assert asked.authorization == "Basic cG9zdGVybjpzM2NyZXQtY2xpZW50"
        assert not asked.headers & {"x-consumer-id", "x-request-id", "via", "x-forwarded-for", "cookie"}


async def test_a_body_is_held_while_the_token_comes() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        here.issuer.delay = 0.2
        assert (await client.request(request("POST", "/", body=b"x" * 5000))).status == 200
        await eventually(lambda: len(here.upstream.requests[0].body) == 5000)


async def test_a_client_that_goes_away_takes_nothing_with_it() -> None:
    async with setting() as here:
        here.issuer.delay = 0.3
        gone, stays = await here.gateway.connect(), await here.gateway.connect()
        gone.send(get())
        stays.send(get())
        await eventually(lambda: here.issuer.asked)
        gone.reset()
        assert (await stays.response()).status == 200
        assert len(here.upstream.requests) == 1
        stays.writer.close()


async def test_renewal_and_end() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        here.issuer.lifetime = 100
        await client.request(get())
        here.clock.added = 79
        await client.request(get())
        here.clock.added = 81
        here.issuer.open.clear()
        await client.request(get())  # sets the renewal off, and does not wait for it
        await client.request(get())
        assert here.credentials() == [["Bearer token-1"]] * 4
        here.issuer.open.set()
        await eventually(lambda: here.held() == [b"token-2"])
        await client.request(get())
        assert here.credentials()[4:] == [["Bearer token-2"]]
        here.clock.added += 91  # past its end: this one waits
        await client.request(get())
        assert here.credentials()[5:] == [["Bearer token-3"]]


async def _html(number: int) -> web.StreamResponse:
    return web.Response(text="<html>log in</html>", content_type="text/html")


async def _mac(number: int) -> web.StreamResponse:
    return web.json_response({"access_token": "t0ken", "token_type": "mac"})


async def _nothing(number: int) -> web.StreamResponse:
    return web.json_response({"token_type": "Bearer"})


async def _injected(number: int) -> web.StreamResponse:
    return web.json_response({"access_token": "t0ken\r\nX-Consumer-Groups: admin", "token_type": "Bearer"})


async def _huge(number: int) -> web.StreamResponse:
    return web.json_response({"access_token": "t0ken", "token_type": "Bearer", "x": "x" * 70_000})


async def _moved(number: int) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "/elsewhere"})


async def _refused(number: int) -> web.StreamResponse:
    return web.json_response({"error": "invalid_client"}, status=401)


async def _slow(number: int) -> web.StreamResponse:
    await asyncio.sleep(5)
    return web.Response()


@pytest.mark.parametrize("answer", [_html, _mac, _nothing, _injected, _huge, _moved, _refused, _slow])
async def test_an_issuer_that_gives_no_token(
    answer: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long enough for a busy machine, save where running out of it is the point.
    async with setting(timeout="2s" if answer is _slow else "30s") as here, await here.gateway.connect() as client:
        monkeypatch.setattr(here.issuer, "answer", answer)
        unavailable(await client.request(get()))
        # Until half a second is over nobody asks again.
        unavailable(await client.request(get()))
        assert len(here.issuer.asked) == 1
        assert here.issuer.elsewhere == 0
        assert here.upstream.requests == []
        records = await here.gateway.recorded(2)
        assert [(record.decision, record.reason) for record in records] == [
            ("failed", "identity_provider_unavailable")
        ] * 2
        assert "no access token of http://127.0.0.1:" in caplog.text
        assert not [secret for secret in ("s3cret-client", "t0ken") if secret in caplog.text]
        # When the issuer is well again, so is the gateway.
        here.issuer.answer = None
        here.clock.added += 0.5
        assert (await client.request(get())).status == 200
        assert here.credentials() == [["Bearer token-2"]]


async def test_nobody_waits_for_an_issuer_that_is_down_and_a_valid_token_survives_it() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        here.issuer.lifetime = 100
        assert (await client.request(get())).status == 200
        await here.issuer.__aexit__(None, None, None)
        here.clock.added = 85
        for _ in range(3):
            assert (await client.request(get())).status == 200
        here.clock.added = 95
        unavailable(await client.request(get()))
        for delay in (1, 2, 4, 8, 16, 30, 30):
            here.clock.added += delay
            response = await client.request(get())
            assert response.status == 503
        assert int(response.headers["retry-after"]) == 30
        await here.issuer.__aenter__()
        here.clock.added += 30
        assert (await client.request(get())).status == 200
        assert here.credentials() == [["Bearer token-1"]] * 4 + [["Bearer token-2"]]


async def test_a_token_that_the_lms_refuses_is_replaced() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        await client.request(get())
        here.lms.refused.add("Bearer token-1")
        response = await client.request(get())
        assert (response.status, response.body) == (401, b"no!")
        assert response.headers["www-authenticate"] == "JWT"
        assert (await client.request(get())).status == 200
        assert here.credentials() == [["Bearer token-1"], ["Bearer token-1"], ["Bearer token-2"]]


async def test_an_lms_that_refuses_everything_does_not_make_us_hammer_the_issuer() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        here.lms.refused = {f"Bearer token-{number}" for number in range(1, 100)}
        for _ in range(20):
            assert (await client.request(get())).status == 401
        assert len(here.issuer.asked) == 2
        here.clock.added = 6
        for _ in range(20):
            await client.request(get())
        assert len(here.issuer.asked) == 3


async def test_a_reload_keeps_the_token_and_a_changed_secret_does_not() -> None:
    async with setting() as here, await here.gateway.connect() as client:
        await client.request(get())
        here.gateway.swap(here.configuration() + "trusted_proxies: [10.0.0.0/8]\n")
        await client.request(get())
        assert here.credentials() == [["Bearer token-1"]] * 2
        here.gateway.swap(here.configuration(client_secret="another"))
        await client.request(get())
        assert here.credentials()[2:] == [["Bearer token-2"]]
        assert here.issuer.asked[1].form["client_secret"] == "another"
        # Nobody holds the first grant any more: if it came back, it would start anew.
        gc.collect()  # the last exchange of a kept connection may still know the old configuration
        here.gateway.swap(here.configuration())
        await client.request(get())
        assert here.credentials()[3:] == [["Bearer token-3"]]


# ── who never sees a secret ──────────────────────────────────────────────────────────────────────

SECRETS = ("s3cret-client", "s3cret-header", "s3cret-basic", "s3cret-query", "s3cret-form", "t0ken")
EVERYTHING = """\
services:
  - name: lms
    url: UPSTREAM
    policies: {auth: none}
    routes:
      - {name: header, paths: [/header], policies: {upstream-credential: {header: {name: X-LMS, value: "${HEADER}"}}}}
      - {name: basic, paths: [/basic], policies: {upstream-credential: {basic: {username: abc, password: "${BASIC}"}}}}
      - {name: query, paths: [/query], policies: {upstream-credential: {query: {name: lmskey, value: "${QUERY}"}}}}
      - name: fetched
        paths: [/fetched]
        policies:
          upstream-credential:
            client-credentials:
              {token_url: "ISSUER", client_id: postern, client_secret: "${file:secret}", form: {a: "${FORM}"}}
      - name: down
        paths: [/down]
        policies:
          upstream-credential:
            client-credentials: {token_url: "ISSUER", client_id: "down", client_secret: "${file:secret}", scheme: JWT}
tests:
  - {request: GET /fetched, as: anonymous, expect: {status: 200, route: fetched}}
"""


async def test_a_secret_is_in_no_log_and_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADER", "BASIC", "QUERY", "FORM"):
        monkeypatch.setenv(name, f"s3cret-{name.lower()}")
    (tmp_path / "secret").write_text("s3cret-client\n")
    lms = Lms({"Bearer t0ken1"})
    answers: list[bytes] = []
    async with TokenIssuer() as issuer, RawServer(lms.answer) as upstream:
        issuer.token = "t0ken{}"
        text = EVERYTHING.replace("UPSTREAM", upstream.url).replace("ISSUER", issuer.url)
        log = tmp_path / "access.log"
        async with running_program(tmp_path, text, str(log)) as program:
            for target in ("/header", "/basic", "/query?lmskey=t0ken-of-a-client", "/fetched", "/fetched", "/down"):
                for accept in ("application/json", "text/html", "application/problem+json"):
                    async with await program.connect() as client:
                        client.send(get(target, f"Accept: {accept}", "Connection: close"))
                        answers.append(await client.rest())
            count = len(issuer.asked)
            program.signal(signal.SIGHUP)
            await program.event("config_loaded")
            async with await program.connect() as client:
                assert (await client.request(get("/fetched"))).status == 200
            assert len(issuer.asked) == count  # the token is still held
            told = [await program.status_of(path) for path in ("/metrics", "/status", "/status/ready")]
            answers += [text.encode() for _, text in told]
            program.signal(signal.SIGTERM)
            assert await program.ended() == 0
        config = tmp_path / "config.yaml"
        for arguments in (["check"], ["check", "--output", "json"]):
            command = [sys.executable, "-m", "gateway", *arguments, "--config", str(config)]
            done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            answers.append(done.stdout + done.stderr)
        assert len(issuer.asked) == count  # `check` asks nobody
    got = b"".join(asked.head for asked in upstream.requests).decode("latin-1")
    basic = base64.b64encode(b"abc:s3cret-basic").decode()
    for sent in ("s3cret-header", basic, "lmskey=s3cret-query", "Bearer t0ken1", "Bearer t0ken2"):
        assert sent in got, sent
    events = json.dumps(program.events)
    assert "no access token of" in events
    assert "refuses the access token" in events
    everything = events + log.read_text("utf-8") + b"".join(answers).decode("latin-1")
    assert everything.count(UNAVAILABLE) == 3
    assert [secret for secret in (*SECRETS, basic) if secret in everything] == []


async def test_debug_logging_says_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with setting() as here, await here.gateway.connect() as client:
        await client.request(get())
        here.lms.refused.add("Bearer token-1")
        await client.request(get())
    assert "refuses the access token" in caplog.text
    assert not [secret for secret in ("s3cret-client", "token-1") if secret in caplog.text]
