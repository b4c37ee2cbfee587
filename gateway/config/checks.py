"""What concerns several settings at once: names given twice, closed by default, a key's prefix, the admin listener.

These look at the plain data, whatever its shape, so that they are reported together with what the models find;
a part of the wrong shape is passed over here, because the models complain of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config.model import parse_address
from gateway.config.policies import is_off
from gateway.config.problems import Path, Problem, format_path
from gateway.core.errors import PosternError
from gateway.core.policy import Policy

#: The shortest `secret_key` in characters.
MIN_SECRET = 32


def _items(data: Any, key: str, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The mappings in the list under a key, with their paths."""
    found = data.get(key) if isinstance(data, dict) else None
    if isinstance(found, list):
        for index, item in enumerate(found):
            if isinstance(item, dict):
                yield (*path, key, index), item


def _text(data: Any, *keys: str, default: str = "") -> str:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, str) else default


def _routes(data: Any) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    for service_path, service in _items(data, "services"):
        for route_path, route in _items(service, "routes", service_path):
            yield route_path, route, service


def _keys(data: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    for consumer_path, consumer in _items(data, "consumers"):
        yield from _items(consumer, "keys", consumer_path)


def declared_names(data: Any) -> dict[str, frozenset[str]]:
    """The names that references may name, by kind: "consumer", "organization", "route"."""

    def names(items: Iterator[tuple[Path, dict[str, Any]]], key: str) -> frozenset[str]:
        return frozenset(str(item[key]) for _, item in items if isinstance(item.get(key), str))

    return {
        "consumer": names(_items(data, "consumers"), "username"),
        "organization": names(_items(data, "organizations"), "name"),
        "route": names(((path, route) for path, route, _ in _routes(data)), "name"),
    }


# ── names given twice ───────────────────────────────────────────────────────────────────────────


def _twice(what: str, key: str, items: Iterator[tuple[Path, dict[str, Any]]]) -> Iterator[Problem]:
    first: dict[str, Path] = {}
    for path, item in items:
        value = item.get(key)
        if not isinstance(value, str):
            continue
        place = (*path, key)
        if value in first:
            yield Problem(place, f"another {what} has the {key} {str(value)!r}: {format_path(first[value])}")
        first.setdefault(value, place)


def _duplicates(data: Any) -> Iterator[Problem]:
    yield from _twice("service", "name", _items(data, "services"))
    yield from _twice("route", "name", ((path, route) for path, route, _ in _routes(data)))
    yield from _twice("organization", "name", _items(data, "organizations"))
    yield from _twice("consumer", "username", _items(data, "consumers"))
    for consumer_path, consumer in _items(data, "consumers"):
        yield from _twice("key of this consumer", "name", _items(consumer, "keys", consumer_path))
    yield from _twice("key", "public", _keys(data))
    yield from _twice("key", "legacy", _keys(data))
    yield from _twice("client", "client_id", _items(data, "clients"))
    yield from _twice("issuer", "issuer", _items(data, "issuers"))


# ── closed by default ───────────────────────────────────────────────────────────────────────────


def _authenticates(name: str, policies: Mapping[str, type[Policy]]) -> bool:
    if name not in policies:
        return False
    try:
        return policies[name].authenticates
    except PosternError:
        # It cannot be loaded, which is reported where it is named.
        return True


def _open_routes(data: Any, policies: Mapping[str, type[Policy]]) -> Iterator[Problem]:
    guards = {name for name in policies if _authenticates(name, policies)}
    for path, route, service in _routes(data):
        holding: set[str] = set()
        for level in (data, service, route):
            written = level.get("policies")
            for name, value in written.items() if isinstance(written, dict) else ():
                if is_off(value):
                    holding.discard(name)
                else:
                    holding.add(name)
        if not holding & guards:
            yield Problem(
                path, "no policy says who may call this route: add `auth`, or `auth: none` if it is public", ours=True
            )


# ── the rest ────────────────────────────────────────────────────────────────────────────────────


def _prefixes(data: Any) -> Iterator[Problem]:
    public = _text(data, "credentials", "public_prefix", default="pnpub_")
    secret = _text(data, "credentials", "secret_prefix", default="pnsec_")
    if public == secret:
        yield Problem(("credentials",), "public_prefix and secret_prefix must differ", ours=True)
    for path, key in _keys(data):
        value = key.get("public")
        if isinstance(value, str) and not (value.startswith(public) and len(public) < len(value) <= len(public) + 64):
            yield Problem((*path, "public"), f"must be {str(public)!r} and 1 to 64 characters more")


def _secret(data: Any) -> Iterator[Problem]:
    value = data.get("secret_key", "")
    if isinstance(value, str) and 0 < len(value) < MIN_SECRET:
        yield Problem(("secret_key",), f"is shorter than {MIN_SECRET} characters", ours=True)
    if value == "" and _text(data, "store").startswith("postgres"):
        yield Problem(("secret_key",), "must be given with a PostgreSQL store", ours=True)


_LISTENERS = {"proxy": "0.0.0.0:8000", "admin": "127.0.0.1:8001", "status": "127.0.0.1:8007"}


def _listeners(data: Any) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name, default in _LISTENERS.items():
        try:
            address = parse_address(_text(data, "listen", name, default=default))
        except ValueError:
            continue
        if address.port and str(address) in taken:
            yield Problem(("listen", name), f"the {taken[str(address)]} listener has this address already", ours=True)
        taken[str(address)] = name
        admin = data.get("admin")
        settings = admin if isinstance(admin, dict) else {}
        if name == "admin" and not address.is_loopback:
            if settings.get("allow_plaintext") is not True:
                yield Problem(
                    ("listen", name), "other addresses than loopback need `admin: {allow_plaintext: true}`", ours=True
                )
            sunbird = settings.get("sunbird")
            if isinstance(sunbird, dict) and sunbird.get("require_token") is False:
                yield Problem(
                    ("admin", "sunbird", "require_token"), "may be waived on a loopback listener only", ours=True
                )


def check(data: dict[str, Any], policies: Mapping[str, type[Policy]]) -> Iterator[Problem]:
    """Every problem of this kind in a file's plain data."""
    yield from _duplicates(data)
    yield from _open_routes(data, policies)
    yield from _prefixes(data)
    yield from _secret(data)
    yield from _listeners(data)
