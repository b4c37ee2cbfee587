"""Certificates for tests: an authority of our own, and what it says of others, right or wrong, as files in PEM."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in two files."""

    certificate: Path
    key: Path
    serial: int

    def yaml(self) -> str:
        """As the configuration names it."""
        return f"{{certificate: {self.certificate}, key: {self.key}}}"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption)


class Authority:
    """Signs certificates; `file(folder)` is its own."""

    def __init__(self, name: str = "tests") -> None:
        self._key = new_key()
        self._name = _name(f"authority of {name}")
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def file(self, folder: Path) -> Path:
        """Its certificate, written there."""
        path = folder / "authority.pem"
        path.write_bytes(self._certificate.public_bytes(_PEM))
        return path

    def issue(
        self,
        folder: Path,
        *names: str,
        file: str = "leaf",
        days: int = 1,
        self_signed: bool = False,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Issued:
        """A certificate for these host names and addresses, written to `file.crt` and `file.key`.

        `days` until it expires (negative: ago).
        """
        key = key or new_key()
        now = datetime.datetime.now(datetime.UTC)
        subject = _name(names[0] if names else "nobody")
        serial = x509.random_serial_number()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        paths = folder / f"{file}.crt", folder / f"{file}.key"
        paths[0].write_bytes(certificate.public_bytes(_PEM))
        paths[1].write_bytes(key_pem(key))
        return Issued(*paths, serial)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@cache
def authority() -> Authority:
    """The one that most tests believe."""
    return Authority()


@cache
def stranger() -> Authority:
    """One that nobody believes."""
    return Authority("strangers")


def client_context(folder: Path, own: Issued | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """What a client of the tests speaks: it believes the authority of `authority()`, and shows `own`."""
    context = ssl.create_default_context(cafile=authority().file(folder))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def server_context(folder: Path, own: Issued, *, client_certificates: bool = False) -> ssl.SSLContext:
    """What an upstream of the tests speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    if client_certificates:
        context.load_verify_locations(authority().file(folder))
        context.verify_mode = ssl.CERT_REQUIRED
    return context
