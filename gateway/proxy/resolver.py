"""Names to addresses: the door to aiodns, which is c-ares (law 5), and when to ask again, which is pure.

`/etc/hosts` is read before DNS is asked, and `/etc/resolv.conf` says whom, with which search domains.  An answer holds
for its lifetime (between a second and five minutes).  When asking fails the last answer goes on to hold, and it is
asked again after 1, 2, 4 … 30 seconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from gateway.core.errors import PosternError

if TYPE_CHECKING:
    import aiodns
    from pycares import AddrInfoResult

_SECOND: Final = 1_000_000_000
#: The bounds of an answer's lifetime, in seconds.
SHORTEST: Final = 1
LONGEST: Final = 300
#: The first and the longest pause after a failure, in nanoseconds.
FIRST_PAUSE: Final = _SECOND
LONGEST_PAUSE: Final = 30 * _SECOND

#: How long a name server is given for an answer at first, in seconds (twice as long each time), and how often it is
#: asked.
_TIMEOUT: Final = 1.0
_TRIES: Final = 3
#: How long a channel is used, in seconds.
_CHANNEL_AGE: Final = 30.0


class ResolveError(PosternError):
    """A name has no address, or nobody could be asked."""


@dataclass(frozen=True)
class Resolved:
    """An answer: addresses in a fixed order, and its lifetime in seconds as the records say it."""

    addresses: tuple[str, ...]
    lifetime: int


def is_name(host: str) -> bool:
    """Must DNS be asked for this host of a URL?  Not for an IP literal, and not for `localhost` (RFC 6761 §6.3)."""
    if not host or host == "localhost":
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


class Name:
    """What is known of one name, and when it is to be asked for: pure."""

    __slots__ = ("_pause", "addresses", "asked", "due", "error", "host")

    def __init__(self, host: str) -> None:
        self.host = host
        #: The last answer.
        self.addresses: tuple[str, ...] = ()
        #: True once the first attempt has ended, well or not.
        self.asked = False
        #: When to ask next, in nanoseconds.
        self.due = 0
        #: Why the last attempt failed; "" where it did not.
        self.error = ""
        self._pause = 0

    def answered(self, answer: Resolved, now: int) -> bool:
        """An attempt succeeded; True if the addresses are others than before."""
        self.asked, self.error, self._pause = True, "", 0
        self.due = now + min(max(answer.lifetime, SHORTEST), LONGEST) * _SECOND
        changed = answer.addresses != self.addresses
        self.addresses = answer.addresses
        return changed

    def failed(self, why: str, now: int) -> bool:
        """An attempt failed; True if the one before it had not."""
        first = not self.error
        self.asked, self.error = True, why
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if self._pause else FIRST_PAUSE
        self.due = now + self._pause
        return first


class Resolver:
    """Asks c-ares; see the module.

    c-ares keeps answers itself, up to an hour, and that there is none as well.  Lest that last longer than an answer
    holds here, a channel is used for a short time only, and not again after a failure; a new one remembers nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, servers: Sequence[str] | None = None) -> None:
        """`servers` are name servers to ask in place of the system's, `address:port`; tests alone give them."""
        self._loop = loop
        self._servers = servers
        self._dns: aiodns.DNSResolver | None = None
        self._until = 0.0
        #: All with a question under way, the one in use included.
        self._channels: WeakSet[aiodns.DNSResolver] = WeakSet()

    async def resolve(self, host: str) -> Resolved:
        """All addresses of a name that this machine has a way to.  Raises `ResolveError`."""
        from aiodns.error import DNSError
        from pycares import AresError

        try:
            channel = self._channel()
        except AresError as error:
            raise ResolveError(_text(error)) from error
        try:
            found = await channel.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except DNSError as error:
            if self._dns is channel:
                self._dns = None  # it ends with the last question that is under way on it
            raise ResolveError(_text(error)) from error
        except (UnicodeError, ValueError) as error:
            raise ResolveError(str(error)) from error
        return read(found)

    def close(self) -> None:
        """Give up what is being asked; nothing may be asked any more."""
        self._dns = None
        for channel in list(self._channels):
            channel.cancel()

    def _channel(self) -> aiodns.DNSResolver:
        now = self._loop.time()
        if self._dns is None or now >= self._until:
            import aiodns

            # Files, then DNS is c-ares' default; saying so by `lookups` hands it a buffer that pycares 5 has freed.
            self._dns = aiodns.DNSResolver(self._servers, self._loop, timeout=_TIMEOUT, tries=_TRIES)
            self._until = now + _CHANNEL_AGE
            self._channels.add(self._dns)
        return self._dns


def _text(error: Exception) -> str:
    """c-ares' own words: the second of its exception's arguments."""
    return str(error.args[1]) if len(error.args) > 1 else str(error)


def read(found: AddrInfoResult) -> Resolved:
    """c-ares' answer as ours; raises `ResolveError` where it holds no address."""
    addresses: set[str] = set()
    for node in found.nodes:
        if node.family in (socket.AF_INET, socket.AF_INET6):
            text = node.addr[0]
            addresses.add(text.decode("ascii") if isinstance(text, bytes) else text)
    if not addresses:
        raise ResolveError("the name has no address")
    lifetimes = [node.ttl for node in found.nodes] + [alias.ttl for alias in found.cnames]
    ways = {address for address in addresses if has_way(address)}
    return Resolved(tuple(sorted(ways or addresses)), min(lifetimes))


def has_way(address: str) -> bool:
    """Has this machine a route to the address?  Sends nothing: connecting a UDP socket only looks the route up."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True
