"""Failed authentications, limited by address: a sliding window of failures and a reservation for each guess in flight.

Pure arithmetic over an injected monotonic clock in nanoseconds.  Laws:

* A guess is reserved before anything is spent on it, so a burst of parallel wrong keys costs no more hashes
  than the limit says; what turns out right gives its reservation back.
* No address ever sees more than `limit` failures counted in any `seconds`.
* Nobody can lock a key: nothing is counted by the public part alone.  A count by (public part, address) would
  follow the same rate, and each of its failures is one of the address's too, so the address's own count is
  always the first to be exhausted and stands for both.
* Memory is bounded: past `addresses`, newcomers share hashed windows, stricter, never looser.
"""

from __future__ import annotations

import ipaddress
from array import array
from collections import OrderedDict

from gateway.core.units import Rate

_NANOSECONDS = 1_000_000_000
_SHARED = 256


def network(client: str) -> str:
    """What guesses are counted by: an IPv4 address, an IPv6 address's /64, or the text itself where it is neither."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{int(address) >> 64:016x}/64"


class Guesses:
    """The counts.  `rate` is the limit, `addresses` how many have a window of their own."""

    def __init__(self, rate: Rate, addresses: int = 16_384) -> None:
        self._addresses = addresses
        self._windows: OrderedDict[str, array[int]] = OrderedDict()
        self._shared: dict[int, array[int]] = {}
        self._in_flight: dict[str, int] = {}
        self.configure(rate)

    def configure(self, rate: Rate) -> None:
        """Go on with another limit; the counts stand."""
        self._limit = rate.limit
        self._window = rate.seconds * _NANOSECONDS

    def __len__(self) -> int:
        return len(self._windows) + len(self._shared)

    def blocked(self, address: str, now_ns: int) -> int:
        """Nanoseconds until the address may fail again; 0 when it may now."""
        failures = self._failures(address, now_ns)
        excess = len(failures) - self._limit
        return failures[excess] + self._window - now_ns if excess >= 0 else 0

    def reserve(self, address: str, now_ns: int) -> bool:
        """Take room for one guess in flight; False when failures and guesses in flight fill the window."""
        flying = self._in_flight.get(address, 0)
        if len(self._failures(address, now_ns)) + flying >= self._limit:
            return False
        self._in_flight[address] = flying + 1
        return True

    def release(self, address: str) -> None:
        """Give one reservation back."""
        flying = self._in_flight[address] - 1
        if flying:
            self._in_flight[address] = flying
        else:
            del self._in_flight[address]

    def fail(self, address: str, now_ns: int) -> bool:
        """Count one failure; False when the window is full, and then nothing is counted."""
        if len(self._failures(address, now_ns)) >= self._limit:
            return False
        window = self._windows.get(address)
        if window is None:
            window = self._open(address, now_ns)
        else:
            self._windows.move_to_end(address)
        window.append(now_ns)
        return True

    def _open(self, address: str, now_ns: int) -> array[int]:
        """A window for a newcomer, in place of the one idle longest, or else a shared one."""
        if len(self._windows) >= self._addresses:
            oldest = next(iter(self._windows))
            if self._prune(self._windows[oldest], now_ns):
                return self._shared.setdefault(hash(address) % _SHARED, array("q"))
            del self._windows[oldest]
        return self._windows.setdefault(address, array("q"))

    def _failures(self, address: str, now_ns: int) -> list[int]:
        """When the address failed within the window, oldest first."""
        own = self._windows.get(address)
        times = list(self._prune(own, now_ns)) if own else []
        if self._shared:
            bucket = hash(address) % _SHARED
            shared = self._shared.get(bucket)
            if shared is not None:
                if self._prune(shared, now_ns):
                    times = sorted(times + list(shared))
                else:
                    del self._shared[bucket]
        return times

    def _prune(self, window: array[int], now_ns: int) -> array[int]:
        horizon, gone = now_ns - self._window, 0
        while gone < len(window) and window[gone] <= horizon:
            gone += 1
        if gone:
            del window[:gone]
        return window
