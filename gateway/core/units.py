"""Values with units, parsed: durations, sizes, rates, networks.

Pure; every parser raises ValueError with a plain text.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_SIZE_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
}

_RATE = re.compile(r"(\d+)\s*/\s*(?:(second|minute|hour|day)|(\d+)\s*(s|m|h|d))")
_RATE_WINDOWS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}

#: The longest duration that a setting can have, in seconds (a hundred years), and the largest size, in bytes.
MAX_DURATION = 36_500 * 86400
MAX_SIZE = 1 << 62

#: The longest window that can be counted, in seconds.
MAX_WINDOW = 366 * 86400


def parse_duration(text: str) -> float:
    """`500ms`, `5s`, `1h`, `90d` as seconds; a bare `0` is zero."""
    text = text.strip()
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 5s, 10m, 1h or 90d")
    seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if seconds > MAX_DURATION:
        raise ValueError("a duration must be at most 36500d")
    return seconds


def parse_size(text: str) -> int:
    """`64KiB`, `1MB`, `4096` as bytes: K, M, G are powers of 1000; Ki, Mi, Gi powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 64KiB, 1MB or 4096")
    size = float(match[1]) * _SIZE_UNITS[(match[2] or "").lower()]
    if size > MAX_SIZE:
        raise ValueError("a size must be at most 4194304TiB")
    return int(size)


@dataclass(frozen=True)
class Rate:
    """At most `limit` requests in any `seconds`; `name` is the window's name in headers (`minute`, `30s`)."""

    limit: int
    seconds: int
    name: str

    def __str__(self) -> str:
        return f"{self.limit}/{self.name}"


def parse_rate(text: str) -> Rate:
    """`600/minute`, `5000/hour`, `10/second`, `1000/day`, `20/30s` as a `Rate`."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a rate such as 600/minute, 5000/hour or 20/30s")
    limit = int(match[1])
    if match[2]:
        seconds, name = _RATE_WINDOWS[match[2]], match[2]
    else:
        seconds = int(match[3]) * int(_DURATION_UNITS[match[4]])
        name = f"{match[3]}{match[4]}"
    if limit < 1:
        raise ValueError(f"{text!r}: the limit must be at least 1")
    if not 1 <= seconds <= MAX_WINDOW:
        raise ValueError(f"{text!r}: the window must be between 1 second and 366 days")
    if limit > 10**9:
        raise ValueError(f"{text!r}: the limit must be at most 1000000000")
    return Rate(limit, seconds, name)


def parse_network(text: str) -> Network:
    """`10.0.0.0/8`, `2001:db8::/32` or a single address as a network; host bits must be zero."""
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address or a CIDR network: {error}") from None
