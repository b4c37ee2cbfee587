"""What connections are made of: TLS towards clients, TLS towards upstreams.

The models name files; whether they can be used is found where they are read (`gateway.build`), which reports it by line
and column as everything else of the file.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gateway.config.types import Settings

_LABEL = r"[a-z0-9_](?:[a-z0-9_\-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}|[0-9a-f:.]*:[0-9a-f:.]*")


def _check_file(value: str) -> str:
    if not value or not value.isprintable() or value != value.strip() or value.endswith("/"):
        raise ValueError("must be the path of a file")
    return value


def _check_server_name(value: str) -> str:
    lower = value.lower().removesuffix(".")
    if len(lower) > 253 or _HOST.fullmatch(lower) is None:
        raise ValueError("must be a host name or an address without a port, such as lms.internal")
    return lower


def _written_plainly(value: Any) -> Any:
    """YAML reads 1.2 as a number."""
    return str(value) if isinstance(value, float) else value


FilePath = Annotated[
    str,
    AfterValidator(_check_file),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Path",
            "description": "A file; a relative path starts at the configuration's folder.",
            "examples": ["/etc/postern/tls.crt"],
        }
    ),
]
"""The path of a file, relative to the configuration's folder."""

TlsVersion = Annotated[
    Literal["1.2", "1.3"],
    BeforeValidator(_written_plainly),
    WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3], "title": "TLS version", "examples": ["1.2", "1.3"]}),
]
"""The lowest version of TLS that is spoken."""

ServerName = Annotated[
    str,
    AfterValidator(_check_server_name),
    WithJsonSchema(
        {
            "type": "string",
            "title": "Host",
            "description": "A host name or an address, without a port.",
            "examples": ["lms.internal"],
        }
    ),
]
"""The name in an upstream's certificate, in lower case."""


class Certificate(Settings):
    """A certificate with its chain, and its key."""

    certificate: FilePath = Field(description="The certificate, then the chain that leads to its root, in PEM.")
    key: FilePath | None = Field(
        default=None, description="Its private key in PEM, without a passphrase; left out: in the certificate's file."
    )


class Tls(Settings):
    """TLS on the proxy listener. Certificates are read again whenever their files change."""

    certificates: tuple[Certificate, ...] = Field(
        min_length=1,
        description="Chosen by the name that the client asks for (SNI), an exact name before a wildcard; "
        "the first one stands in where none fits.",
    )
    min_version: TlsVersion = Field(default="1.2", description="The lowest version that is spoken.")
    client_ca: FilePath | None = Field(
        default=None, description="The authorities (PEM) that clients' certificates are verified against."
    )
    client_certificates: Literal["off", "optional", "required"] = Field(
        default="off",
        description="Whether clients are asked for a certificate; one that is shown must be good, `optional` or not.",
    )

    @model_validator(mode="after")
    def _verifiable(self) -> Tls:
        if self.client_ca is None and self.client_certificates != "off":
            raise ValueError("must name a client_ca, against which clients' certificates are verified")
        if self.client_ca is not None and "client_certificates" not in self.model_fields_set:
            raise ValueError("must say client_certificates: required, optional or off, where there is a client_ca")
        return self


class UpstreamTls(Settings):
    """How a service's https targets are spoken to."""

    server_name: ServerName | None = Field(
        default=None, description="The name that is asked for (SNI) and verified; left out: the URL's host."
    )
    ca_file: FilePath | None = Field(
        default=None, description="The authorities (PEM) that are believed in place of the system's."
    )
    certificate: FilePath | None = Field(
        default=None, description="Our own certificate and its chain (PEM), for upstreams that ask who we are."
    )
    key: FilePath | None = Field(
        default=None, description="Its private key in PEM, without a passphrase; left out: in the certificate's file."
    )

    @model_validator(mode="after")
    def _whole(self) -> UpstreamTls:
        if self.key is not None and self.certificate is None:
            raise ValueError("must name the certificate that the key belongs to")
        return self


def files_of(settings: Settings) -> list[PurePath]:
    """Every file that these settings, or those within them, name; as they are written."""
    found: list[PurePath] = []
    for name in ("certificate", "key", "client_ca", "ca_file"):
        written = getattr(settings, name, None)
        if written is not None:
            found.append(PurePath(written))
    for inner in getattr(settings, "certificates", ()):
        found += files_of(inner)
    return found
