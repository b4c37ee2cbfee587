"""The shape of an API key, and its minting counterpart's: `<public>.<secret>`, each its prefix and 1 to 64 characters.

Pure.  It judges a token's shape alone: where in a request the token stood is the policy's business, and
whether it is genuine the verifier's.  Two dot-separated parts are a key, ours or not; a key with other
prefixes or of another length is told apart only after a hash has been spent on it, like any wrong one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TWO_PARTS = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

#: The most characters that may follow a prefix.
PART_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What the two parts of our keys begin with (`credentials:` in the file)."""

    public: str = "pnpub_"
    secret: str = "pnsec_"


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a key's shape: its public part, its secret part, and whether both have our form."""

    public: str
    secret: bytes
    ours: bool

    def __repr__(self) -> str:
        return f"Token(public={self.public[:80]!r}, ours={self.ours})"


def _follows(part: bytes, prefix: str) -> bool:
    return part.startswith(prefix.encode()) and 1 <= len(part) - len(prefix) <= PART_LIMIT


def parse_token(token: bytes, prefixes: Prefixes) -> Token | None:
    """Split a token into its parts; None when it is not two dot-separated parts of `A-Za-z0-9_-`."""
    match = _TWO_PARTS.fullmatch(token)
    if match is None:
        return None
    public, secret = match[1], match[2]
    ours = _follows(public, prefixes.public) and _follows(secret, prefixes.secret)
    return Token(public.decode("ascii"), secret, ours)
