"""Where requests are counted, read from the URL of the setting `counters`.  Pure; raises ValueError with a plain text.

    memory://
    redis://[[user]:password@]host[:port][/database][?…]          rediss:// for TLS
    unix://[[user]:password@]/path/to/socket[?db=1&…]
    redis+sentinel://[[user]:password@]host[:port],…/service[/database][?…]       rediss+sentinel:// for TLS
    redis+cluster://[[user]:password@]host[:port],…[?…]                            rediss+cluster:// for TLS

Parameters have redis-py's names.  No error repeats a password: it may be sent to a log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final
from urllib.parse import parse_qsl, unquote

MEMORY: Final = "memory://"

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
PATTERN: Final = r"^(memory://$|rediss?(\+sentinel|\+cluster)?://.|unix://.)"

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_HOST: Final = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\](?::(\d+))?|([^\s:\[\]/?#@]+)(?::(\d+))?")
#: What may stand after the question mark, and where.
_ANYWHERE: Final = ("socket_timeout", "socket_connect_timeout")
_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname", "ssl_server_name")
_SENTINEL: Final = ("sentinel_username", "sentinel_password")
_CHECKS: Final = {"required": True, "none": False}
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_LONGEST_TIMEOUT: Final = 60.0
_MOST_DATABASES: Final = 65_536


@dataclass(frozen=True)
class Address:
    """A host and a port, or (port 0) the path of a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Tls:
    """How servers are known: files in PEM (empty: the system's authorities; no certificate of our own), whether they
    are verified at all, whether by their name, and which name in place of the host's."""

    authorities: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True
    check_hostname: bool = True
    server_name: str = ""


@dataclass(frozen=True)
class RedisLocation:
    """A Redis or Valkey, as the URL tells it.

    `kind` is "single", "sentinel" (`addresses` are the sentinels', `service` is the master's name) or "cluster"
    (`addresses` are some of its nodes).  `patience` is how many seconds a command may go unanswered before the counters
    count as down, `connect_patience` how many a connection may take.
    """

    kind: str
    addresses: tuple[Address, ...]
    service: str = ""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: Tls | None = None
    patience: float = 0.04
    connect_patience: float = 0.5

    def __str__(self) -> str:
        """What it is called in logs: no name of a user, no secret."""
        where = ",".join(map(str, self.addresses))
        if self.kind == "single":
            return where
        return f"{self.service} by {self.kind} {where}" if self.service else f"{self.kind} {where}"


def parse_counters_url(url: str) -> RedisLocation | None:
    """The Redis that `url` means; None for `memory://`.  Raises ValueError."""
    if url == MEMORY:
        return None
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(
            "must be memory://, redis://HOST:6379/0, rediss://…, unix:///PATH, redis+sentinel://HOST:26379/SERVICE or "
            "redis+cluster://HOST:6379"
        )
    if "#" in rest:
        raise ValueError("has a #; in a password it is written %23")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in query or ("@" in path and scheme != "unix"):
        raise ValueError("has an @ after a / or a ?; in a password these are written %2F and %3F")
    credentials, at, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    if at and not password:
        raise ValueError("has an @ but no password before it; write :PASSWORD@HOST or USER:PASSWORD@HOST")
    secure, kind = scheme.startswith("rediss"), scheme.partition("+")[2] or "single"
    parameters = _parameters(query, scheme, secure, kind)
    addresses: tuple[Address, ...]
    if scheme == "unix":
        if hosts or not path:
            raise ValueError("must name the socket by its whole path: unix:///run/redis.sock")
        addresses = (Address(unquote(slash + path), 0),)
        service, database = "", parameters.get("db", "0")
    else:
        addresses = _addresses(hosts, _SENTINEL_PORT if kind == "sentinel" else _PORT, kind)
        service, database = _path(path, kind)
        database = parameters.get("db", database)
    return RedisLocation(
        kind,
        addresses,
        service,
        _database(database, kind),
        unquote(username),
        unquote(password),
        parameters.get("sentinel_username", ""),
        parameters.get("sentinel_password", ""),
        _tls(parameters) if secure else None,
        _seconds(parameters, "socket_timeout", RedisLocation.patience),
        _seconds(parameters, "socket_connect_timeout", RedisLocation.connect_patience),
    )


def _parameters(query: str, scheme: str, secure: bool, kind: str) -> dict[str, str]:
    if not query:
        return {}
    known = [*_ANYWHERE]
    if kind != "cluster":
        known.append("db")
    if kind == "sentinel":
        known += _SENTINEL
    if secure:
        known += _TLS
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise ValueError("has something after ? that is not NAME=VALUE&NAME=VALUE") from None
    for name, value in pairs:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(known)}"
            if name in _TLS:
                hint = "; TLS is asked for by rediss in place of redis"
            raise ValueError(f"has the parameter {name[:40]!r}, which {scheme}:// does not take{hint}")
        if name in found:
            raise ValueError(f"has the parameter {name} twice")
        found[name] = value
    return found


def _addresses(hosts: str, port: int, kind: str) -> tuple[Address, ...]:
    found: list[Address] = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        if match is None:
            raise ValueError(
                "must name a server as HOST or HOST:PORT" + (", several with a comma" * (kind != "single"))
            )
        given = match[2] or match[4]
        number = int(given) if given else port
        if not 0 < number < 65_536:
            raise ValueError(f"has the port {number}; ports go from 1 to 65535")
        found.append(Address(match[1] or match[3], number))
    if len(found) > 1 and kind == "single":
        raise ValueError("names several servers; use redis+sentinel:// or redis+cluster://")
    if len(set(found)) < len(found):
        raise ValueError("names a server twice")
    return tuple(found)


def _path(path: str, kind: str) -> tuple[str, str]:
    """The service and the database (as text) that stand after the hosts."""
    parts = [unquote(part) for part in path.split("/")] if path else []
    if kind == "sentinel":
        if not parts or not parts[0] or len(parts) > 2:
            raise ValueError("must name the master that the sentinels watch: redis+sentinel://HOST:26379/SERVICE[/0]")
        return parts[0], parts[1] if len(parts) > 1 else "0"
    if kind == "cluster":
        if path and path != "0":
            raise ValueError("names a database; a cluster has database 0 alone")
        return "", "0"
    if len(parts) > 1:
        raise ValueError("has more than a database's number after the host")
    return "", (parts[0] if parts else "") or "0"


def _database(text: str, kind: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= _MOST_DATABASES:
        where = "after the service" if kind == "sentinel" else "after the host"
        raise ValueError(f"has {text[:20]!r} {where}, where a database's number stands")
    return int(text)


def _seconds(parameters: dict[str, str], name: str, otherwise: float) -> float:
    text = parameters.get(name)
    if text is None:
        return otherwise
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= _LONGEST_TIMEOUT:
        raise ValueError(f"has {name}={text[:20]}; it is a number of seconds, 0.001 to 60")
    return seconds


def _choice(parameters: dict[str, str], name: str, choices: dict[str, bool]) -> bool:
    text = parameters.get(name)
    if text is None:
        return True
    if text.lower() not in choices:
        raise ValueError(f"has {name}={text[:20]}; it is one of {', '.join(choices)}")
    return choices[text.lower()]


def _tls(parameters: dict[str, str]) -> Tls:
    certificate, key = parameters.get("ssl_certfile", ""), parameters.get("ssl_keyfile", "")
    if key and not certificate:
        raise ValueError("has ssl_keyfile without ssl_certfile")
    verify = _choice(parameters, "ssl_cert_reqs", _CHECKS)
    check_hostname = _choice(parameters, "ssl_check_hostname", _BOOLEANS)
    return Tls(
        parameters.get("ssl_ca_certs", ""),
        certificate,
        key,
        verify,
        verify and check_hostname,
        parameters.get("ssl_server_name", ""),
    )
