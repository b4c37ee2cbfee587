"""nginx, plain and with the policies in Lua; and the nginx that is everybody's upstream."""

from __future__ import annotations

import hmac
import json
import os
import shutil
import subprocess
from hashlib import sha1
from pathlib import Path

from bench.contestant import IDENTITY_HEADERS, PER_HOUR, PER_MINUTE, Contestant, Launch, Site, Unavailable
from bench.processes import free_port

_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
_PLACES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules")
_SALT = "benchmark"

_BODY = json.dumps(
    {
        "id": "api.content.read",
        "ver": "1.0",
        "params": {"status": "successful", "err": None},
        "responseCode": "OK",
        "result": {
            "content": {
                "identifier": "do_31309374",
                "name": "How plants eat light",
                "mimeType": "application/pdf",
                "status": "Live",
                "language": ["English"],
                "gradeLevel": ["Class 6"],
            }
        },
    }
)

_FRAME = """
{modules}
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    keepalive_timeout 300s;
    {http}
}}
"""

_UPSTREAM = """
    access_log off;
    server {{
        listen 127.0.0.1:{port} backlog=1024 sndbuf=128k;
        default_type application/json;
        location / {{ return 200 '{body}'; }}
        location /files/ {{ root {folder}; sendfile on; }}
    }}
"""

_PROXY = """
    upstream lms {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000; }}
    {before}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        {guard}
        location / {{
            proxy_pass http://lms;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Request-ID $request_id;
            {location}
        }}
    }}
"""

_LOG_FORMAT = """
    log_format access escape=json '{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method",'
        '"path":"$uri","status":$status,"bytes":$body_bytes_sent,"seconds":$request_time,'
        '"upstream_seconds":"$upstream_response_time","consumer":"$consumer_username","key":"$credential",'
        '"request_id":"$request_id"}';
"""


def nginx_binary() -> str:
    """The nginx of this machine; raises Unavailable."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable("nginx is not installed")
    return found


def _version(binary: str) -> str:
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False).stderr
    return said.strip().rpartition("/")[2]


def _lua_modules() -> str:
    for place in _PLACES:
        if all((Path(place) / module).exists() for module in _MODULES):
            return "\n".join(f"load_module {place}/{module};" for module in _MODULES)
    raise Unavailable("nginx's Lua module is not installed (Debian: libnginx-mod-http-lua)")


def _write(folder: Path, http: str, modules: str = "") -> Path:
    user = "user root;" if os.geteuid() == 0 else ""
    path = folder / "nginx.conf"
    path.write_text(_FRAME.format(folder=folder, http=http, modules=modules, user=user))
    return path


def _launch(binary: str, conf: Path, port: int, logs: tuple[Path, ...] = ()) -> Launch:
    arguments = [binary, "-c", str(conf), "-p", str(conf.parent), "-e", str(conf.parent / "error.log")]
    return Launch(arguments, port, _version(binary), logs)


def upstream(folder: Path) -> Launch:
    """The upstream of every contestant: a small JSON answer from memory; `/files/` are those of its folder."""
    binary, port = nginx_binary(), free_port()
    return _launch(binary, _write(folder, _UPSTREAM.format(port=port, body=_BODY, folder=folder)), port)


def _plain(site: Site) -> Launch:
    binary, port = nginx_binary(), free_port()
    http = _PROXY.format(upstream=site.upstream, port=port, before="access_log off;", guard="", location="")
    return _launch(binary, _write(site.folder, http), port)


def _policies(site: Site) -> Launch:
    binary, port, modules = nginx_binary(), free_port(), _lua_modules()
    rows = [
        [key.public, hmac.new(_SALT.encode(), key.secret.encode(), sha1).hexdigest(), key.consumer, key.group]
        for key in [*site.keys, site.outsider]
    ]
    (site.folder / "keys.txt").write_text("".join(" ".join(row) + "\n" for row in rows))
    lua = (Path(__file__).parent / "policies.lua").read_text()
    (site.folder / "policies.lua").write_text(lua)
    log = site.folder / "access.log"
    before = f"""
    lua_package_path "{site.folder}/?.lua;;";
    lua_shared_dict counts 64m;
    {_LOG_FORMAT}
    access_log {log} access buffer=64k flush=1s;
    init_by_lua_block {{
        policies = require "policies"
        policies.load("{site.folder}/keys.txt", "{_SALT}", {PER_MINUTE}, {PER_HOUR})
    }}
    """
    names = {
        "X-Consumer-ID": "$consumer_id",
        "X-Consumer-Username": "$consumer_username",
        "X-Consumer-Groups": "$consumer_groups",
        "X-Credential-Identifier": "$credential",
    }
    # proxy_set_header replaces whatever the client sent under the name; an empty value removes it.
    headers = [f"proxy_set_header {name} {names.get(name, chr(34) * 2)};" for name in IDENTITY_HEADERS]
    location = "\n            ".join(
        [
            "access_by_lua_block { policies.check() }",
            "header_filter_by_lua_block { policies.head() }",
            "log_by_lua_block { policies.count() }",
            'proxy_set_header Authorization "";',
            *headers,
        ]
    )
    guard = "".join(f'set {name} ""; ' for name in names.values())
    guard += "location = /metrics { content_by_lua_block { policies.metrics() } }"
    http = _PROXY.format(upstream=site.upstream, port=port, before=before, guard=guard, location=location)
    return _launch(binary, _write(site.folder, http, modules), port, (log,))


CONTESTANTS = (
    Contestant("nginx-plain", "nginx", "plain proxying", _plain),
    Contestant(
        "nginx-lua",
        "nginx + Lua",
        "key auth (HMAC-SHA-1 digest of the secret, Lua table), ACL groups, fixed windows of a minute and an hour in "
        "a shared dictionary, both rate-limit header generations, identity headers, metrics, JSON access log",
        _policies,
        guards=True,
        limits=True,
    ),
)
