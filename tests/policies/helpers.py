"""A request as a policy sees it, an identity, and a policy made from YAML's values: what every table of tests needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from gateway.core.context import Context, index_fields
from gateway.core.decision import Decision
from gateway.core.identity import Consumer, Credential, Identity, Organization, declared_id
from gateway.core.policy import Entry, Environment, Policy
from gateway.core.ports import Authenticator, Clock, Counters

#: For policies that ask nobody: touching a port fails at once.
NO_PORT = cast(Any, None)


def make_environment(
    clock: Clock = NO_PORT, counters: Counters = NO_PORT, authenticator: Authenticator = NO_PORT
) -> Environment:
    """The surroundings of a policy on the route `content-read` of the service `lms`."""
    return Environment("content-read", "lms", clock, counters, authenticator)


def make_policy(policy: type[Policy], config: Mapping[str, Any], environment: Environment | None = None) -> Policy:
    """The one instance that a route gets from one entry, written at the route."""
    entry = Entry(policy.Config.model_validate(dict(config)), "route", "route:content-read")
    (instance,) = policy.assemble([entry], environment or make_environment())
    return instance


def make_context(
    method: str = "GET",
    path: str = "/content/v1/read/do_1",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    *,
    client: str = "192.0.2.7",
    content_length: int | None = 0,
    identity: Identity | None = None,
    request_id: str = "req-1",
    query: bytes = b"",
) -> Context:
    """A request to the host `gateway.example.org`; `headers` in any case, as they were sent."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    index, repeated = index_fields(fields)
    lines = [name + b": " + value for name, value in fields]
    context = Context(
        method, path, query, "gateway.example.org", "http", lines, index, repeated, client,
        1_000_000_000, 1_700_000_000.0, request_id, content_length,
    )  # fmt: skip
    context.identity = identity
    return context


def make_identity(
    *groups: str,
    username: str = "mobile_app",
    anonymous: bool = False,
    scopes: tuple[str, ...] | None = None,
    organization: str = "",
) -> Identity:
    """A consumer of these groups, authenticated with a key (or standing in for nobody)."""
    tenant = Organization(declared_id("organization", organization), organization) if organization else None
    consumer = Consumer(declared_id("consumer", username), username, organization=tenant, groups=groups)
    key = Credential(declared_id("key", username), "api-key", "pnpub_test", consumer.id, scopes=scopes or ())
    return Identity(consumer, None if anonymous else key, scopes, anonymous=anonymous)


def decide(policy: Policy, context: Context) -> Decision:
    """What a policy that asks nobody answers."""
    decision = policy.check(context)
    assert isinstance(decision, Decision)
    return decision


def answer_lines(context: Context) -> list[str]:
    """The gathered lines of the answer, without their CRLF."""
    return _lines(context.answer_lines)


def upstream_lines(context: Context) -> list[str]:
    """The gathered lines for the upstream, without their CRLF."""
    return _lines(context.upstream_lines)


def _lines(blocks: list[bytes]) -> list[str]:
    block = b"".join(blocks)
    assert not block or block.endswith(b"\r\n")
    return block.decode("latin-1").split("\r\n")[:-1]
