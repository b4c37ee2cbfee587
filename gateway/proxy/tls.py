"""From certificates and keys on disk to TLS contexts, for clients (SNI) and for upstreams; the door to `cryptography`.

Law: what cannot be used is a `TlsFilesError` that names the setting, found when the configuration is compiled, never at
a handshake.  No text of it holds anything of a file's content.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from gateway.core.errors import PosternError
from gateway.snapshot import ClientTls

#: The largest file that is read, in bytes.
_MAX_FILE = 4 * 1024 * 1024
_ALPN = ["http/1.1"]
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_CERTIFICATES = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

#: Where a problem is, below the settings of TLS: `("certificates", 0, "key")`.
Setting = tuple[str | int, ...]


class TlsFilesError(PosternError):
    """Files that cannot be used; `problems` are `(setting, what is wrong)`."""

    def __init__(self, problems: Sequence[tuple[Setting, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its chain, and its private key; both may be one file."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a service says of its https upstreams; see `snapshot.ClientTls`."""

    verify: bool = True
    ca_file: Path | None = None
    own: KeyPair | None = None


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def _read(file: Path, setting: Setting) -> bytes:
    try:
        # A pipe would be waited for.
        if file.exists() and not file.is_file():
            raise TlsFilesError([(setting, "cannot be read: it is not a regular file")])
        with file.open("rb") as opened:
            return opened.read(_MAX_FILE)
    except OSError as error:
        raise TlsFilesError([(setting, f"cannot be read: {(error.strerror or 'unknown error').lower()}")]) from None


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's own word for what is wrong: `ee key too small`."""
    reason: str | None = error.reason  # None, whatever the stubs say, for what did not come from OpenSSL
    return (reason or "unknown reason").replace("_", " ").lower()


def _no_passphrase() -> str:
    # Without it OpenSSL would ask whoever sits at the terminal.
    raise ValueError("a passphrase is wanted")


def _names(content: bytes) -> list[str]:
    """The host names of the first certificate (RFC 6125: of its subject's alternative names), in lower case.

    Raises ValueError for what is no certificate.
    """
    # Loads its native library: only where there is TLS.
    from cryptography import x509

    certificate = x509.load_pem_x509_certificates(content)[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower().removesuffix(".") for name in names.get_values_for_type(x509.DNSName)]


def _load_pair(context: ssl.SSLContext, pair: KeyPair, setting: Setting) -> list[str]:
    """Load a certificate and its key; returns the certificate's names.  Raises `TlsFilesError`."""
    certificate, key = (*setting, "certificate"), (*setting, "key")
    content = _read(pair.certificate, certificate)
    _read(pair.key, key if pair.key != pair.certificate else certificate)
    try:
        names = _names(content)
    except (ValueError, TypeError):
        raise TlsFilesError([(certificate, "holds no certificate in PEM form")]) from None
    try:
        context.load_cert_chain(pair.certificate, pair.key, password=_no_passphrase)
    except ssl.SSLError as error:
        reason = _reason(error)
        if reason == "key values mismatch":
            raise TlsFilesError([(key, "is not the key of this certificate")]) from None
        if reason.startswith(("ee ", "ca ")):
            raise TlsFilesError([(certificate, f"is not fit for TLS: {reason}")]) from None
        raise TlsFilesError([(key, "holds no private key in PEM form")]) from None
    except ValueError:
        raise TlsFilesError([(key, "has a passphrase: write it without one, readable to the gateway alone")]) from None
    except OSError as error:  # gone since it was read
        raise TlsFilesError([(key, f"cannot be read: {(error.strerror or 'unknown error').lower()}")]) from None
    return names


def _load_authorities(context: ssl.SSLContext, file: Path, setting: Setting) -> None:
    _read(file, setting)
    try:
        context.load_verify_locations(cafile=file)
    except OSError:  # an `SSLError` is one
        raise TlsFilesError([(setting, "holds no certificate in PEM form")]) from None


def _gather(problems: list[tuple[Setting, str]], work: Callable[[], None]) -> None:
    """Do some work; what is wrong joins the rest, so that all of it is told at once."""
    try:
        work()
    except TlsFilesError as error:
        problems += error.problems


# ── towards clients ─────────────────────────────────────────────────────────────────────────────


class _ByName:
    """The contexts of several certificates, chosen by the name that a client asks for (RFC 6066 §3)."""

    def __init__(self) -> None:
        self._exact: dict[str, ssl.SSLContext] = {}
        self._wildcard: dict[str, ssl.SSLContext] = {}

    def add(self, names: Iterable[str], context: ssl.SSLContext) -> None:
        """A name that two certificates have is the first one's."""
        for name in names:
            if name.startswith("*."):
                self._wildcard.setdefault(name[2:], context)
            else:
                self._exact.setdefault(name, context)

    def choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """OpenSSL's question in the middle of a handshake; without an answer the first certificate stays."""
        if name is None:
            return
        name = name.lower().removesuffix(".")
        # A wildcard stands for one label (RFC 6125 §6.4.3).
        found = self._exact.get(name) or self._wildcard.get(name.partition(".")[2])
        if found is not None:
            connection.context = found


def server_context(
    pairs: Sequence[KeyPair],
    *,
    min_version: str = "1.2",
    client_ca: Path | None = None,
    client_certificates: str = "off",
) -> ssl.SSLContext:
    """The context of the proxy listener; settings as in `tls` of the configuration.

    Raises `TlsFilesError` with every problem.
    """
    problems: list[tuple[Setting, str]] = []
    names = _ByName()
    contexts: list[ssl.SSLContext] = []
    for number, pair in enumerate(pairs):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[min_version]
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(_ALPN)
        contexts.append(context)

        def load(context: ssl.SSLContext = context, pair: KeyPair = pair, number: int = number) -> None:
            names.add(_load_pair(context, pair, ("certificates", number)), context)

        def trust(context: ssl.SSLContext = context) -> None:
            if client_ca is not None:
                _load_authorities(context, client_ca, ("client_ca",))
                context.verify_mode = _CLIENT_CERTIFICATES[client_certificates]

        _gather(problems, load)
        _gather(problems, trust)
    if problems:
        raise TlsFilesError(list(dict.fromkeys(problems)))
    default = contexts[0]
    if len(contexts) > 1:
        default.sni_callback = names.choose
    return default


# ── towards upstreams ───────────────────────────────────────────────────────────────────────────


def client_tls(settings: ClientSettings, server_name: str) -> ClientTls:
    """How TLS is spoken to an upstream that is called `server_name` (a host name or an address, without brackets).

    Raises `TlsFilesError`, settings as in a service's `tls`.
    """
    own = settings.own
    digest = blake2b(digest_size=16)
    problems: list[tuple[Setting, str]] = []
    files: list[tuple[str, Path | None]] = [
        ("ca_file", settings.ca_file),
        ("certificate", own.certificate if own is not None else None),
        ("key", own.key if own is not None else None),
    ]
    for setting, file in files:

        def add(setting: str = setting, file: Path | None = file) -> None:
            content = _read(file, (setting,)) if file is not None else b""
            digest.update(blake2b(content).digest())

        _gather(problems, add)
    if problems:
        raise TlsFilesError(list(dict.fromkeys(problems)))
    content = digest.hexdigest()
    context = _client_context(settings, content)
    named = blake2b(f"{settings.verify}\0{server_name}\0{content}".encode(), digest_size=8).hexdigest()
    return ClientTls(
        verify=settings.verify,
        server_name=server_name,
        ca_file=str(settings.ca_file or ""),
        certificate=str(own.certificate) if own is not None else "",
        key=str(own.key) if own is not None else "",
        fingerprint=named,
        context=context,
    )


@lru_cache(maxsize=256)
def _client_context(settings: ClientSettings, content: str) -> ssl.SSLContext:
    """Made once for each `content` of the files: reading the system's authorities takes tens of milliseconds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_ALPN)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca_file is not None:
        _load_authorities(context, settings.ca_file, ("ca_file",))
        # An intermediate authority, or the upstream's own certificate, may be all that is believed.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if settings.own is not None:
        _load_pair(context, settings.own, ())
    return context


def ignore_unreadable_names() -> None:
    """Keep quiet about clients that ask for a name which is no text.

    Their handshake fails as it should; but Python cannot raise what it finds in the middle of OpenSSL, and would write
    a traceback for each to standard error.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            before(unraisable)

    sys.unraisablehook = hook


def explain(error: Exception) -> str:
    """Why a connection could not be made, for the log: exactly, and of TLS without OpenSSL's decorations."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {_reason(error)}"
    return str(error) or type(error).__name__
