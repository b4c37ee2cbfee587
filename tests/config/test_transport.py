"""The settings of TLS and of the PROXY protocol."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from tests.config.fakes import load_text, problems

HTTPS = "services: [{name: s, url: https://x, %s}]"
TLS = "tls: {certificates: [{certificate: a.crt, key: a.key}]%s}"

ACCEPTED = {
    TLS % "": ["a.crt", "a.key"],
    "tls: {certificates: [{certificate: both.pem}, {certificate: a, key: b}], min_version: 1.3}": [
        "both.pem",
        "a",
        "b",
    ],
    TLS % ", client_ca: ca.pem, client_certificates: required": ["ca.pem", "a.crt", "a.key"],
    TLS % ", client_ca: ca.pem, client_certificates: off": ["ca.pem", "a.crt", "a.key"],
    HTTPS % "tls_verify: false": [],
    HTTPS % "tls: {server_name: 'LMS.internal.', ca_file: /ca.pem}": ["/ca.pem"],
    HTTPS % "tls: {certificate: own.pem}": ["own.pem"],
    HTTPS % "tls: {certificate: own.crt, key: own.key, server_name: '2001:db8::1'}": ["own.crt", "own.key"],
    "listen: {proxy_protocol: on, proxy_protocol_from: [10.0.0.0/8]}": [],
    "listen: {proxy_protocol: off}": [],
}

REFUSED = {
    "tls: {}": "1:6: tls.certificates: is required",
    "tls: {certificates: []}": "1:21: tls.certificates: ",
    "tls: {certificates: [{key: a.key}]}": "tls.certificates[0].certificate: is required",
    "tls: {certificates: [{certificate: ''}]}": "tls.certificates[0].certificate: must be the path of a file",
    "tls: {certificates: [{certificate: tls/}]}": "tls.certificates[0].certificate: must be the path of a file",
    TLS % ", min_version: 1.1": "tls.min_version: must be '1.2' or '1.3'",
    TLS % ", min_version: TLSv1.2": "tls.min_version: must be '1.2' or '1.3'",
    TLS % ", client_certificates: required": "tls: must name a client_ca",
    TLS % ", client_ca: ca.pem": "tls: must say client_certificates",
    TLS % ", ciphers: ALL": "tls.ciphers: unknown key",
    HTTPS % "tls: {key: a.key}": "services[0].tls: must name the certificate",
    HTTPS % "tls: {server_name: '*.internal'}": "services[0].tls.server_name: must be a host name",
    HTTPS % "tls: {server_name: 'lms:443'}": "services[0].tls.server_name: must be a host name",
    "services: [{name: s, url: http://x, tls: {ca_file: a}}]": "services[0]: must have https URLs, where there is tls",
    "listen: {proxy_protocol: true}": "listen.proxy_protocol: must be 'off' or 'on'",
    "listen: {proxy_protocol_from: [10.0.0.0/8]}": "listen: must say proxy_protocol: on",
    "listen: {proxy_protocol: on, proxy_protocol_from: [lb]}": "listen.proxy_protocol_from[0]: ",
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_is_accepted_and_the_files_that_it_names(text: str, tmp_path: Path) -> None:
    loaded = load_text(text, folder=tmp_path)
    named = [PurePath(file) for file in ACCEPTED[text]]
    assert loaded.config.files() == named
    # They are watched with the configuration, and lie beside it.
    assert list(loaded.files) == [tmp_path / "config.yaml", *(tmp_path / file for file in named)]
    assert [loaded.beside(str(file)) for file in named] == list(loaded.files[1:])


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str) -> None:
    (line,) = problems(text)
    assert REFUSED[text] in line


def test_values_as_they_are_meant() -> None:
    config = load_text("tls: {certificates: [{certificate: a}], min_version: 1.3}").config
    assert config.tls is not None
    assert (config.tls.min_version, config.tls.client_certificates) == ("1.3", "off")
    service = load_text(HTTPS % "tls: {server_name: 'LMS.Internal.'}").config.services[0]
    assert service.tls is not None
    assert (service.tls_verify, service.tls.server_name) == (True, "lms.internal")
