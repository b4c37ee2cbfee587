"""What must not reach a log: values of secret-looking parameters and fields, and anything shaped like a secret.

Pure functions.  In doubt a value is hidden: a log line loses little by one `***` too many.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import unquote_to_bytes

MASK = "***"
_MASK = MASK.encode()

#: Query parameters that hold a secret, though the words they are made of are innocent elsewhere.
_SECRET_PARAMETERS = frozenset({"code", "code_verifier", "key", "sig"})

#: Words that make any name with one of them secret: `client_secret`, `access-token`, `user[password]`.
_SECRET_WORDS = frozenset(
    {
        "apikey",
        "assertion",
        "auth",
        "authorization",
        "cookie",
        "jwt",
        "otp",
        "passphrase",
        "passwd",
        "password",
        "privatetoken",
        "pwd",
        "secret",
        "sesskey",
        "session",
        "sessionid",
        "signature",
        "token",
        "wstoken",
    }
)

_MEMO_LIMIT = 1024
_LONGEST_REMEMBERED = 64

_WORDS = re.compile(r"[^a-z0-9]+")
_SEPARATORS = re.compile(rb"([&;])")

_JWT = r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
_SCHEME = r"(?i:\b(bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
_URL_PASSWORD = r"(://[^/\s:@]*:)[^/\s]+@"


def is_secret_field(name: str) -> bool:
    """Whether a field of this name, of an event or a header, holds a secret: `client_secret`, `api-key`."""
    words = _WORDS.split(name.lower())
    return not _SECRET_WORDS.isdisjoint(words) or ("api" in words and "key" in words)


def is_secret_parameter(name: str, names: Collection[str] = ()) -> bool:
    """Whether a query parameter of this name holds a secret; `names` are further ones, in lower case."""
    lower = name.strip().lower()
    return lower in names or lower.replace("-", "_") in _SECRET_PARAMETERS or is_secret_field(lower)


class QueryRedactor:
    """Hides the values of secret parameters in query strings, and leaves all else byte for byte."""

    def __init__(self, names: Collection[str] = ()) -> None:
        """`names` are the routes' own secret parameters (`key_names`), in any case."""
        self._names = frozenset(name.lower() for name in names)
        self._known: dict[bytes, bool] = {}

    def redact(self, query: bytes) -> bytes:
        """A query string with the values of secret parameters as `***`.

        Both `&` and `;` separate parameters, because some servers read `;` so; names may be percent-encoded.
        """
        parts = query.split(b"&") if b";" not in query else _SEPARATORS.split(query)
        changed = False
        for position, part in enumerate(parts):
            name, _, value = part.partition(b"=")
            if value and self._is_secret(name):
                parts[position] = name + b"=" + _MASK
                changed = True
        if not changed:
            return query
        return (b"&" if b";" not in query else b"").join(parts)

    def _is_secret(self, name: bytes) -> bool:
        secret = self._known.get(name)
        if secret is None:
            plain = unquote_to_bytes(name.replace(b"+", b" ")).decode("latin-1")
            secret = is_secret_parameter(plain, self._names)
            if len(name) <= _LONGEST_REMEMBERED and len(self._known) < _MEMO_LIMIT:
                self._known[name] = secret
        return secret


class TextRedactor:
    """Hides what is shaped like a secret, wherever it stands in a text.

    Those are our own keys by their secret prefix, JWTs, the values of `Bearer` and `Basic`, and passwords in URLs.
    """

    def __init__(self, secret_prefix: str = "pnsec_") -> None:
        self.secret_prefix = secret_prefix
        self._key = re.compile(re.escape(secret_prefix) + r"[A-Za-z0-9_-]+")
        self._shapes = re.compile(f"{_SCHEME}|{_URL_PASSWORD}|{_JWT}")

    def key(self, text: str) -> str:
        """The text with every secret part of a key as its prefix and `***`."""
        if self.secret_prefix not in text:
            return text
        return self._key.sub(self.secret_prefix + MASK, text)

    def text(self, text: str) -> str:
        """The text with everything that is shaped like a secret hidden."""
        return self._shapes.sub(_shape, self.key(text))

    def field(self, name: str, value: object, depth: int = 4) -> object:
        """A field's value: hidden altogether where its name says that it is a secret, else hidden within."""
        if is_secret_field(name) and not isinstance(value, bool | int | float | None):
            return MASK
        return self.value(value, depth)

    def value(self, value: object, depth: int = 4) -> object:
        """A value with what is secret in it hidden: texts, and mappings and lists of them, `depth` levels deep."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode("latin-1"))
        if depth == 0 or value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {str(name): self.field(str(name), inner, depth - 1) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(inner, depth - 1) for inner in value]
        return self.text(str(value))


def _shape(match: re.Match[str]) -> str:
    if match[1]:
        return f"{match[1]} {MASK}"
    if match[2]:
        return f"{match[2]}{MASK}@"
    return MASK
