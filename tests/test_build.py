"""What one process's share of the node's limits makes of a snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.build import Ports, build
from gateway.config.loader import load_bytes
from gateway.control.share import Share
from gateway.counters.memory import MemoryCounters
from tests.integration.gateways import NobodyIsKnown, RouteStats, SystemClock

TEXT = b"""
version: 1
limits: {connections: 10, connections_per_client: 6}
policies: {auth: none}
services:
  - {name: bounded, url: "http://127.0.0.1:9000", max_connections: 5, routes: [{name: a, paths: [/a]}]}
  - {name: free, url: "http://127.0.0.1:9001", routes: [{name: b, paths: [/b]}]}
"""


@pytest.mark.parametrize(
    ("slot", "connections", "bounded"), [(0, 4, 2), (1, 3, 2), (2, 3, 1)], ids=["first", "second", "third"]
)
def test_limits_are_divided(slot: int, connections: int, bounded: int) -> None:
    ports = Ports(SystemClock(), MemoryCounters(), NobodyIsKnown(), lambda service, route: RouteStats())
    snapshot = build(load_bytes(TEXT, Path("config.yaml"), environ={}), ports, share=Share(slot, 3))
    assert snapshot.connections == connections
    assert [service.max_connections for service in snapshot.services] == [bounded, 0]
    assert [route.service.max_connections for route in snapshot.routes] == [bounded, 0]
    assert snapshot.connections_per_client == 6
