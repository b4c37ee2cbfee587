"""The secret key: given or made, long enough, private."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.core.errors import StartError
from gateway.credentials.secrets import SecretKey, load_secret_key

LONG = "a secret of more than 32 characters"


def test_a_configured_key_is_used_and_no_file_is_made(tmp_path: Path) -> None:
    assert load_secret_key(LONG, tmp_path).legacy_digest(b"x") == SecretKey(LONG).legacy_digest(b"x")
    assert list(tmp_path.iterdir()) == []


def test_one_is_made_once_and_private(tmp_path: Path) -> None:
    first = load_secret_key("", tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "secret.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().strip()) >= 32
    assert load_secret_key("", tmp_path).derive("a") == first.derive("a")


@pytest.mark.parametrize(
    ("content", "mode", "wanted"),
    [
        (b"short", 0o600, "at least 32 characters"),
        (b"", 0o600, "at least 32 characters"),
        (LONG.encode(), 0o644, "chmod 600"),
        (LONG.encode(), 0o640, "chmod 600"),
        (b"\xff" * 40, 0o600, "cannot use the secret key"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, mode: int, wanted: str) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(StartError, match=wanted) as caught:
        load_secret_key("", tmp_path)
    assert LONG not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot use the secret key"):
        load_secret_key("", tmp_path / "nowhere")


def test_a_short_one_is_refused_without_being_shown() -> None:
    with pytest.raises(StartError) as caught:
        SecretKey("hunter2")
    assert "hunter2" not in str(caught.value)


def test_what_derives_from_it() -> None:
    key = SecretKey(LONG)
    assert LONG not in repr(key)
    assert len(key.derive("a")) == 32
    assert key.derive("a") != key.derive("b")
    assert key.derive("a") != SecretKey(LONG + "!").derive("a")
    assert key.legacy_digest(b"x") != SecretKey(LONG + "!").legacy_digest(b"x")
    assert len(key.legacy_digest(b"x")) == 64
