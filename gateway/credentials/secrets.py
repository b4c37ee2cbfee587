"""The secret key: `secret_key` of the file, or made once into the data folder; everything keyed derives from it.

Law: the key itself is used for nothing but deriving.  Each purpose gets its own key (BLAKE2b with the purpose
as personalisation), so that what one purpose reveals says nothing of another.
"""

from __future__ import annotations

import os
import secrets
import stat
from hashlib import blake2b
from pathlib import Path

from gateway.core.errors import StartError

MIN_LENGTH = 32
FILE_NAME = "secret.key"


class SecretKey:
    """The deployment's secret, at least 32 characters long.  Raises `StartError` for a shorter one."""

    __slots__ = ("_legacy", "_root")

    def __init__(self, text: str) -> None:
        if len(text) < MIN_LENGTH:
            raise StartError(f"secret_key must have at least {MIN_LENGTH} characters, it has {len(text)}")
        self._root = blake2b(text.encode("utf-8"), digest_size=64, person=b"postern root").digest()
        self._legacy = self.derive("legacy-key")

    def __repr__(self) -> str:
        return "SecretKey(…)"

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, a name of at most 16 ASCII characters; always the same for the same secret."""
        return blake2b(key=self._root, digest_size=32, person=purpose.encode("ascii")).digest()

    def legacy_digest(self, token: bytes) -> str:
        """The keyed digest, 64 hexadecimal digits, under which an imported key of any shape is declared (`legacy:`)."""
        return blake2b(token, key=self._legacy, digest_size=32).hexdigest()


def load_secret_key(configured: str, folder: Path) -> SecretKey:
    """The configured secret; where that is empty, the one in `folder`, made now if it is not there yet.

    Raises `StartError` when it is too short, cannot be read or written, or others may read the file.
    """
    if configured:
        return SecretKey(configured)
    path = folder / FILE_NAME
    try:
        try:
            return _read(path)
        except FileNotFoundError:
            _make(path)
            return _read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"cannot use the secret key {path}: {error}") from error


def _read(path: Path) -> SecretKey:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise StartError(f"others may read the secret key {path}: run chmod 600 {path}")
        text = file.read().decode("utf-8").strip()
    if len(text) < MIN_LENGTH:
        raise StartError(f"the secret key in {path} must have at least {MIN_LENGTH} characters")
    return SecretKey(text)


def _make(path: Path) -> None:
    """Write a new secret under its name at once and whole, and only if nobody else has."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(48).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # another process was first; its secret holds
    finally:
        draft.unlink()
