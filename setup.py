"""The optional compiled build: the modules of the hot path through mypyc, from the very same sources.

Everything else about the distribution is in pyproject.toml.  Without `POSTERN_COMPILE=1` nothing is compiled and
Postern runs interpreted; with it a C compiler is needed, and `gateway/_compiled.json` says what the compiled
modules were made from (`gateway/compiled.py` checks it).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import setup  # type: ignore[import-untyped]  # it has no stubs

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

#: What every request runs through and what profits; modules with pydantic models stay interpreted.
COMPILED = [
    "gateway/core/context.py",
    "gateway/core/decision.py",
    "gateway/core/http.py",
    "gateway/core/identity.py",
    "gateway/core/path.py",
    "gateway/core/ports.py",
    "gateway/counters/hub.py",
    "gateway/counters/hub_frames.py",
    "gateway/counters/hub_server.py",
    "gateway/counters/memory.py",
    "gateway/counters/redis/asking.py",
    "gateway/counters/redis/cluster.py",
    "gateway/counters/redis/node.py",
    "gateway/counters/redis/questions.py",
    "gateway/counters/redis/refusals.py",
    "gateway/counters/redis/reservation.py",
    "gateway/counters/redis/single.py",
    "gateway/counters/redis/wire.py",
    "gateway/counters/sliding.py",
    "gateway/counters/windows.py",
    "gateway/credentials/delegated.py",
    "gateway/credentials/memory.py",
    "gateway/credentials/verify.py",
    "gateway/pipeline.py",
    "gateway/proxy/attempt.py",
    "gateway/proxy/balancer.py",
    "gateway/proxy/downstream.py",
    "gateway/proxy/exchange.py",
    "gateway/proxy/framing.py",
    "gateway/proxy/health.py",
    "gateway/proxy/http1.py",
    "gateway/proxy/lasting.py",
    "gateway/proxy/lines.py",
    "gateway/proxy/messages.py",
    "gateway/proxy/overload.py",
    "gateway/proxy/peers.py",
    "gateway/proxy/plane.py",
    "gateway/proxy/pool.py",
    "gateway/proxy/record.py",
    "gateway/proxy/retries.py",
    "gateway/proxy/ring.py",
    "gateway/proxy/sinks.py",
    "gateway/proxy/states.py",
    "gateway/proxy/targets.py",
    "gateway/proxy/tls_connection.py",
    "gateway/proxy/tunnel.py",
    "gateway/proxy/upstream.py",
    "gateway/routing/level.py",
    "gateway/routing/router.py",
    "gateway/routing/tree.py",
    "gateway/snapshot.py",
    "gateway/telemetry/access.py",
    "gateway/telemetry/redact.py",
    "policies/_cache_body.py",
    "policies/_cache_course.py",
    "policies/_cache_directives.py",
    "policies/_cache_entry.py",
    "policies/_cache_flights.py",
    "policies/_cache_freshness.py",
    "policies/_cache_keys.py",
    "policies/_rate_limit_claims.py",
    "policies/_rate_limit_decision.py",
    "policies/_rate_limit_headers.py",
    "policies/_request_transform.py",
    "policies/auth/api_key.py",
    "policies/auth/carriers.py",
    "policies/auth/establish.py",
]

if os.environ.get("POSTERN_COMPILE") == "1":
    from mypyc.build import mypycify

    from gateway.compiled import write_manifest

    modules = mypycify([*COMPILED], opt_level="3", debug_level="0", strip_asserts=False, group_name="gateway.hot")
    write_manifest(ROOT, COMPILED)
else:
    modules = []

setup(ext_modules=modules)
