"""Postern itself: plain (`auth: none`, no other policy), and with everything on."""

from __future__ import annotations

import importlib.metadata
import shutil
import sysconfig
from collections.abc import Sequence
from typing import Any

import bcrypt
import yaml

from bench.contestant import PER_HOUR, PER_MINUTE, Contestant, Launch, Site, Unavailable
from bench.keys import Key
from bench.processes import free_port


def declared(keys: Sequence[Key]) -> list[dict[str, Any]]:
    """The consumers of these keys, as `config.yaml` declares them."""
    consumers: dict[str, dict[str, Any]] = {}
    for number, key in enumerate(keys):
        consumer = consumers.setdefault(key.consumer, {"username": key.consumer, "groups": [key.group], "keys": []})
        secret_hash = bcrypt.hashpw(key.secret.encode(), bcrypt.gensalt(4)).decode()
        consumer["keys"].append({"name": f"key {number}", "public": key.public, "secret_hash": secret_hash})
    return list(consumers.values())


def _launch(site: Site, policies: dict[str, Any], consumers: list[dict[str, Any]]) -> Launch:
    binary = shutil.which("postern", path=sysconfig.get_path("scripts"))
    if binary is None:
        raise Unavailable("the command postern is not installed in this environment")
    port = free_port()
    config = {
        "version": 1,
        "listen": {
            "proxy": f"127.0.0.1:{port}",
            "admin": f"127.0.0.1:{free_port()}",
            "status": f"127.0.0.1:{free_port()}",
        },
        "workers": 1,
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
    return Launch([binary, "run", "--config", str(path)], port, version, (output,))


def _plain(site: Site) -> Launch:
    return _launch(site, {"auth": "none"}, [])


def _policies(site: Site) -> Launch:
    policies = {
        "correlation-id": {},
        "auth": {"any_of": ["api-key"]},
        "acl": {"allow": ["contentUser", "contentAdmin"]},
        "rate-limiting": {"limits": [f"{PER_MINUTE}/minute", f"{PER_HOUR}/hour"], "by": "credential"},
    }
    return _launch(site, policies, declared([*site.keys, site.outsider]))


CONTESTANTS = (
    Contestant("postern-plain", "Postern", "plain proxying (metrics and access log are always on)", _plain),
    Contestant(
        "postern-policies",
        "Postern + policies",
        "API keys (bcrypt, remembered as keyed digests), ACL groups, sliding windows of a minute and an hour, both "
        "rate-limit header generations, identity headers, metrics, JSON access log",
        _policies,
        guards=True,
        limits=True,
    ),
)
