"""What is not there yet is refused, never accepted silently."""

from __future__ import annotations

import pytest

from gateway.config.availability import GATES
from tests.config.fakes import load_text, problems

SERVICE = "services: [{name: s, %s}]"
CASES = {
    "store": "store: postgresql://u:p@h/d\nsecret_key: " + "s" * 32,
    "audit": "audit: {requests: none}",
    "oauth": "oauth: {issuer: https://learn.example.org}",
    "issuers": "issuers: [{issuer: https://sso.example.org, audience: [lms]}]",
    "clients": "consumers: [{username: a}]\n"
    "clients: [{client_id: c, name: c, consumer: a, grant_types: [refresh_token], confidential: false}]",
    "admin.sunbird": "admin: {sunbird: {}}",
    "self_service": "self_service: {}",
}


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.path)
def test_gates(gate: object) -> None:
    path = getattr(gate, "path", "")
    (line,) = problems(CASES[path])
    assert f"{path.replace('[]', '[0]')}: " in line
    assert line.endswith(" is not available yet")


def test_what_means_the_same_as_leaving_it_out_is_accepted() -> None:
    text = "store: sqlite:///x.db\ncounters: memory://\nissuers: []\nclients: []\noauth: null\nadmin: {}\n"
    load_text(text + SERVICE % "targets: [{url: http://x}], tls_verify: false")
