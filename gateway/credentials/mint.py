"""New API keys, from the operating system's randomness.

A public part has 96 bits, enough never to meet its like; a secret part has 256 (with a prefix of more than 29
characters a few less), and stays within the 72 bytes that bcrypt reads.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field

from gateway.credentials.hashing import SECRET_LIMIT
from gateway.credentials.parse import Prefixes

_ALPHABET = string.ascii_letters + string.digits

#: 43 characters of 62 are 256 bits; 32 of them, 190 bits, are the least that we make.
_SECRET_LENGTH, _LEAST = 43, 32
_PUBLIC_BYTES = 12


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: `key` is `<public>.<secret>` and is shown once, `secret_hash` is what is kept."""

    public: str
    secret: bytes = field(repr=False)
    secret_hash: str = field(default="", repr=False)

    @property
    def key(self) -> str:
        return f"{self.public}.{self.secret.decode('ascii')}"


def mint_key(prefixes: Prefixes) -> NewKey:
    """Make a new key under the configured prefixes.

    Raises ValueError when the secret's prefix leaves too little room for chance.
    """
    length = min(_SECRET_LENGTH, SECRET_LIMIT - len(prefixes.secret))
    if length < _LEAST:
        raise ValueError(f"a secret_prefix may have at most {SECRET_LIMIT - _LEAST} characters")
    public = prefixes.public + secrets.token_hex(_PUBLIC_BYTES)
    secret = prefixes.secret + "".join(secrets.choice(_ALPHABET) for _ in range(length))
    return NewKey(public, secret.encode("ascii"))
