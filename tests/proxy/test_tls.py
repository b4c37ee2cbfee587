"""Contexts made of files: what is wrong with a file is said of its setting, and nothing of its content."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.proxy import tls
from gateway.proxy.tls import ClientSettings, KeyPair, TlsFilesError, client_tls, explain, server_context
from tests.certificates import Authority, Issued, authority, key_pem, new_key


def locked(folder: Path, issued: Issued) -> KeyPair:
    key = new_key()
    authority().issue(folder, "a", file="locked", key=key)
    (folder / "locked.key").write_bytes(key_pem(key, b"hunter2"))
    return KeyPair(folder / "locked.crt", folder / "locked.key")


def piped(folder: Path, issued: Issued) -> KeyPair:
    os.mkfifo(folder / "pipe")
    return KeyPair(issued.certificate, folder / "pipe")


CASES: dict[str, tuple[Callable[[Path, Issued], KeyPair], str, str]] = {
    "no certificate": (lambda f, i: KeyPair(f / "none", i.key), "certificate", "cannot be read: no such file"),
    "no key": (lambda f, i: KeyPair(i.certificate, f / "none"), "key", "cannot be read: no such file"),
    "a folder": (lambda f, i: KeyPair(i.certificate, f), "key", "cannot be read: it is not a regular file"),
    "a pipe": (piped, "key", "cannot be read: it is not a regular file"),
    "below a file": (lambda f, i: KeyPair(i.key / "x", i.key), "certificate", "cannot be read: not a directory"),
    "another key": (
        lambda f, i: KeyPair(i.certificate, Authority().issue(f, "b", file="b").key),
        "key",
        "is not the key of this certificate",
    ),
    "a passphrase": (locked, "key", "has a passphrase"),
    "no text": (lambda f, i: KeyPair(f / "binary", i.key), "certificate", "holds no certificate in PEM form"),
    "empty": (lambda f, i: KeyPair(f / "empty", i.key), "certificate", "holds no certificate in PEM form"),
    "garbage in PEM": (lambda f, i: KeyPair(f / "garbage", i.key), "certificate", "holds no certificate in PEM form"),
    "garbage for a key": (lambda f, i: KeyPair(i.certificate, f / "garbage"), "key", "holds no private key in PEM"),
    "an empty key": (lambda f, i: KeyPair(i.certificate, f / "empty"), "key", "holds no private key in PEM form"),
}


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    (tmp_path / "binary").write_bytes(os.urandom(100))
    (tmp_path / "empty").write_bytes(b"")
    pem = b"-----BEGIN CERTIFICATE-----\nhunter2hunter2hunter2==\n-----END CERTIFICATE-----\n"
    (tmp_path / "garbage").write_bytes(pem)
    return authority().issue(tmp_path, "lms.example.org")


@pytest.mark.parametrize("name", CASES)
def test_a_pair_that_cannot_be_used(name: str, tmp_path: Path, issued: Issued) -> None:
    make, setting, text = CASES[name]
    pair = make(tmp_path, issued)
    with pytest.raises(TlsFilesError) as server:
        server_context([KeyPair(issued.certificate, issued.key), pair])
    with pytest.raises(TlsFilesError) as client:
        client_tls(ClientSettings(own=pair), "lms.internal")
    ((where, said),) = server.value.problems
    assert (where, said.startswith(text)) == (("certificates", 1, setting), True), said
    assert [(place, what.startswith(text)) for place, what in client.value.problems] == [((setting,), True)]
    assert "hunter2" not in f"{server.value} {client.value}"


def test_everything_wrong_is_told_at_once(tmp_path: Path, issued: Issued) -> None:
    none = tmp_path / "none"
    with pytest.raises(TlsFilesError) as caught:
        server_context(
            [KeyPair(none, none), KeyPair(issued.certificate, none)], client_ca=none, client_certificates="required"
        )
    assert [where for where, _ in caught.value.problems] == [
        ("certificates", 0, "certificate"),
        ("client_ca",),
        ("certificates", 1, "key"),
    ]
    with pytest.raises(TlsFilesError) as caught:
        client_tls(ClientSettings(ca_file=none, own=KeyPair(none, issued.key)), "x")
    assert [where for where, _ in caught.value.problems] == [("ca_file",), ("certificate",)]


def test_a_key_in_the_certificates_file(tmp_path: Path, issued: Issued) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(issued.key.read_bytes() + issued.certificate.read_bytes())
    assert server_context([KeyPair(both, both)]).get_ca_certs() == []


def test_a_fingerprint_follows_everything(tmp_path: Path, issued: Issued) -> None:
    ca = authority().file(tmp_path)
    pair = KeyPair(issued.certificate, issued.key)
    made = [
        client_tls(ClientSettings(), "a"),
        client_tls(ClientSettings(), "b"),
        client_tls(ClientSettings(verify=False), "a"),
        client_tls(ClientSettings(ca_file=ca), "a"),
        client_tls(ClientSettings(own=pair), "a"),
        client_tls(ClientSettings(ca_file=ca, own=pair), "a"),
    ]
    assert len({each.fingerprint for each in made}) == len(set(made)) == len(made)
    # The same again is the same, and shares what OpenSSL made of it.
    again = client_tls(ClientSettings(ca_file=ca, own=pair), "a")
    assert (again, hash(again)) == (made[-1], hash(made[-1]))
    assert again.context is made[-1].context
    assert made[0].context is made[1].context
    authority().issue(tmp_path, "lms.example.org")
    renewed = client_tls(ClientSettings(ca_file=ca, own=pair), "a")
    assert renewed != again
    assert renewed.context is not again.context
    assert str(issued.key) not in repr(again).replace(again.key, "") or again.key == str(issued.key)
    assert "PRIVATE" not in repr(again)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (ConnectionResetError(), "ConnectionResetError"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_why_in_words(error: Exception, text: str) -> None:
    assert explain(error) == text


def test_unreadable_names_alone_are_kept_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    tls.ignore_unreadable_names()

    class Unraisable:
        def __init__(self, value: BaseException, of: object) -> None:
            self.exc_value, self.object = value, of

    quiet = Unraisable(UnicodeDecodeError("ascii", b"\xff", 0, 1, ""), b"\xff")
    loud = [Unraisable(ValueError(), b"\xff"), Unraisable(UnicodeDecodeError("ascii", b"\xff", 0, 1, ""), object())]
    for each in (quiet, *loud):
        sys.unraisablehook(each)  # type: ignore[arg-type]  # as much of one as the hook looks at
    assert told == loud
