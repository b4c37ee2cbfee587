"""A service's targets and how they are watched: what is refused, and what is made of the rest."""

from __future__ import annotations

import pytest

from gateway.config.services import Health
from tests.config.fakes import load_text, problems

SERVICE = "services: [{name: s, %s}]"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("routes: []", "must have either url or targets"),
        ("url: http://a, targets: [{url: http://b}]", "must have either url or targets"),
        ("targets: [{url: http://a}, {url: http://a}]", "names the target http://a twice; give it a weight instead"),
        ("targets: [{url: http://a}, {url: https://a}]", "must have targets that are all https, or none of them"),
        ("targets: [{url: unix:///a}, {url: https://a}]", "must have targets that are all https, or none of them"),
        ("targets: [{url: http://a/x}, {url: http://b/y}]", "targets of one path: http://a/x and http://b/y differ"),
        ("targets: [{url: unix:///a}, {url: http://b/y}]", "targets of one path: unix:///a and http://b/y differ"),
        ("targets: [{url: http://a, weight: 0}]", "weight"),
        ("targets: [{url: http://a, weight: 65536}]", "weight"),
        ("url: http://a, balance: random", "balance"),
        ("url: http://a, health: {active: {path: up}}", "must be a path such as /health"),
        ("url: http://a, health: {active: {path: /a b}}", "must be a path such as /health"),
        ('url: http://a, health: {active: {path: "/a#b"}}', "must be a path such as /health"),
        ('url: http://a, health: {active: {path: "/a\\r\\nX: y"}}', "must be a path such as /health"),
        ("url: http://a, health: {active: {interval: 0s}}", "must be more than 0"),
        ("url: http://a, health: {active: {timeout: 0s}}", "must be more than 0"),
        ("url: http://a, health: {active: {expect: [99]}}", "expect"),
        ("url: http://a, health: {active: {unhealthy: 0}}", "unhealthy"),
        ("url: http://a, health: {passive: {cooldown: 0s}}", "must be more than 0"),
        ("url: http://a, health: {passive: {failures: 0}}", "failures"),
        ("url: http://a, health: {passive: {statuses: [600]}}", "statuses"),
    ],
)
def test_refused(lines: str, problem: str) -> None:
    (line,) = problems(SERVICE % lines)
    assert problem in line


@pytest.mark.parametrize(
    ("lines", "upstreams"),
    [
        ("url: http://a", (("http://a", 1),)),
        ("targets: [{url: http://a}]", (("http://a", 1),)),
        ("targets: [{url: http://a}, {url: http://b/, weight: 3}]", (("http://a", 1), ("http://b/", 3))),
        ("targets: [{url: unix:///a.sock}, {url: http://b}]", (("unix:///a.sock", 1), ("http://b", 1))),
        ("targets: [{url: http://a/x}, {url: http://b/x}]", (("http://a/x", 1), ("http://b/x", 1))),
    ],
)
def test_upstreams(lines: str, upstreams: tuple[tuple[str, int], ...]) -> None:
    (service,) = load_text(SERVICE % lines).config.services
    assert service.upstreams == upstreams
    assert service.address == upstreams[0][0]


def test_health() -> None:
    text = "url: http://a, health: {active: {path: '/up?full=1', expect: [200, 401]}, passive: {}, slow_start: 30s}"
    (service,) = load_text(SERVICE % text).config.services
    health = service.health
    assert isinstance(health, Health)
    assert health.active is not None
    assert health.passive is not None
    assert (health.active.path, health.active.expect, health.active.interval) == ("/up?full=1", (200, 401), 5.0)
    assert (health.passive.failures, health.passive.cooldown, health.passive.statuses) == (5, 10.0, (502, 503, 504))
    assert health.slow_start == 30.0
