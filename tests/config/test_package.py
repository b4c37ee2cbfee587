"""A configuration sent to another process is the same one there, less what stays behind."""

from __future__ import annotations

from pathlib import Path

from gateway.config.loader import load_bytes
from gateway.config.model import STANDING, Config
from gateway.config.package import pack, unpack

TEXT = b"""
version: 1
store: sqlite:///elsewhere/secret-place.db
secret_key: ${KEY}
limits: {header_timeout: 3s}
trusted_proxies: [10.0.0.0/8]
policies: {correlation-id: {}}
services:
  - name: lms
    url: http://127.0.0.1:9000
    policies: {rate-limiting: {limits: [600/minute]}}
    routes:
      - {name: guest, paths: [/guest], policies: {auth: {any_of: [api-key], anonymous: guest}, acl: {allow: [g]}}}
      - {name: free, paths: ["~^/free/(?<id>\\\\d+)$"], policies: {auth: none, rate-limiting: off}}
organizations: [{name: springfield}]
consumers:
  - {username: guest, groups: [g], organization: springfield}
  - username: reader
    keys: [{name: k, public: pnpub_r, secret_hash: "$2b$04$abcdefghijklmnopqrstuuhJHJbcxkVBx7Ql4Xrj3rF8d7lQm1k2e"}]
tests:
  - {request: GET /free/1, as: anonymous, expect: {status: 200}}
"""


def test_it_arrives_as_it_was_sent() -> None:
    loaded = load_bytes(TEXT, Path("config.yaml"), environ={"KEY": "k" * 40})
    packed = pack(loaded)
    arrived = unpack(packed)
    assert (arrived.hash, arrived.files) == (loaded.hash, loaded.files)
    same = set(type(loaded.config).model_fields) - {"consumers", "tests", "clients", "secret_key", "store"}
    for name in same:
        assert getattr(arrived.config, name) == getattr(loaded.config, name), name
    # `off` is one object, asked for by identity.
    assert (
        arrived.config.services[0].routes[1].policies["rate-limiting"]
        is (loaded.config.services[0].routes[1].policies["rate-limiting"])
    )
    assert [(consumer.username, consumer.keys) for consumer in arrived.config.consumers] == [("guest", ())]
    for secret in (b"k" * 40, b"$2b$04$", b"secret-place"):
        assert secret not in packed


def test_what_needs_a_restart_is_what_the_gateway_was_started_with() -> None:
    """Whoever begins after a reload listens and counts as those beside it do."""
    changes = b"""
listen: {proxy: "127.0.0.1:1", proxy_protocol: "on"}
workers: 3
worker_affinity: auto
cache: {size: 1MiB}
"""
    started, changed = (
        load_bytes(text, Path("config.yaml"), environ={"KEY": "k" * 40}) for text in (TEXT, TEXT + changes)
    )
    arrived = unpack(pack(changed, started.config))
    for name in set(STANDING) - {"secret_key"}:
        wanted = Config.model_fields["store"].default if name == "store" else getattr(started.config, name)
        assert getattr(arrived.config, name) == wanted, name
    assert (arrived.hash, arrived.config.limits) == (changed.hash, changed.config.limits)
