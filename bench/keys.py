"""The thousand keys of the run, the same for every peer, made afresh each time."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

CONSUMERS = 100
KEYS_EACH = 10
GROUP = "contentUser"


@dataclass(frozen=True, slots=True)
class Key:
    """One key and who holds it; `group` is the consumer's only ACL group."""

    public: str
    secret: str
    consumer: str
    group: str = GROUP

    @property
    def token(self) -> str:
        """What follows `Bearer`."""
        return f"{self.public}.{self.secret}"


def make_keys() -> list[Key]:
    """A hundred consumers with ten keys each."""
    return [
        Key(f"pnpub_{secrets.token_hex(12)}", f"pnsec_{secrets.token_hex(20)}", f"consumer-{number:03}")
        for number in range(CONSUMERS)
        for _ in range(KEYS_EACH)
    ]


def make_outsider() -> Key:
    """A key whose consumer is in a group that the route does not admit."""
    return Key(f"pnpub_{secrets.token_hex(12)}", f"pnsec_{secrets.token_hex(20)}", "outsider", "guests")
