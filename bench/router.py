"""What a match costs, and that it does not grow with the number of routes: `python bench/router.py`.

Prints nanoseconds a match (the best of several rounds) for the ordinary shape with 1 and with 10,000 routes
and their ratio, then the hostile shapes, each with the time that it takes to compile.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Mapping, Sequence

from gateway.core.path import canonical
from gateway.routing.router import Router, RouteSpec

Request = tuple[str, str, str, Mapping[bytes, bytes]]

ROUNDS, CALLS = 15, 20_000


def literal(count: int) -> list[RouteSpec[int]]:
    """`count` literal routes of three segments, in groups of a hundred; the first is the one asked for."""
    return [
        RouteSpec(f"r{n}", n, methods=frozenset({"GET"}), paths=(f"/svc{n // 100}/v1/read{n % 100}",))
        for n in range(count)
    ]


def costs(*asked: tuple[Router[int], Sequence[Request]]) -> list[float]:
    """Nanoseconds a match for each router and its requests: the best of several rounds, taken in turn, so that
    a change of the machine's speed meets all alike; the loop's own cost is taken off."""
    best = [float("inf")] * len(asked)
    for _ in range(ROUNDS):
        for place, (router, requests) in enumerate(asked):
            match = router.match
            repeated = list(requests) * max(1, CALLS // len(requests))
            started = time.perf_counter_ns()
            for method, host, path, index in repeated:
                match(method, host, path, index)
            middle = time.perf_counter_ns()
            for method, host, path, index in repeated:  # noqa: B007  (the empty loop is what is measured)
                pass
            spent = (middle - started) - (time.perf_counter_ns() - middle)
            best[place] = min(best[place], spent / len(repeated))
    return best


def compiled(specs: Sequence[RouteSpec[int]]) -> tuple[Router[int], float]:
    """A router and the seconds that it took, with the collector off, as a snapshot is built."""
    gc.disable()
    started = time.perf_counter()
    router = Router(specs)
    seconds = time.perf_counter() - started
    gc.enable()
    return router, seconds


def main() -> None:
    """Print the table."""
    request: Request = ("GET", "lms.example.org", "/svc0/v1/read0/do_1", {})
    one, _ = compiled(literal(1))
    many, seconds = compiled(literal(10_000))
    each: list[Request] = [("GET", "", f"/svc{n // 100}/v1/read{n % 100}/do_1", {}) for n in range(10_000)]
    random.Random(1).shuffle(each)
    single, crowd, turns = costs((one, [request]), (many, [request]), (many, each))
    print(f"{'1 literal route':<44}{single:>8.0f} ns")
    print(f"{'10,000 literal routes':<44}{crowd:>8.0f} ns   compiled in {seconds:.3f} s   ratio {crowd / single:.3f}")

    print(f"{'10,000 literal routes, each in turn':<44}{turns:>8.0f} ns   (what misses the processor's caches)")

    get = frozenset({"GET"})
    shapes: list[tuple[str, list[RouteSpec[int]], Request]] = [
        (
            "10,000 literal routes and one capture",
            [*literal(10_000), RouteSpec("c", -1, paths=("/orgs/{org}/lessons",))],
            request,
        ),
        (
            "a captured segment among them",
            [*literal(10_000), RouteSpec("c", -1, paths=("/orgs/{org}/lessons",))],
            ("GET", "", "/orgs/springfield/lessons/1", {}),
        ),
        (
            "10,000 hosts with /",
            [RouteSpec(f"r{n}", n, hosts=(f"h{n}.example.org",), paths=("/",)) for n in range(10_000)],
            ("GET", "h9999.example.org", "/svc0/v1/read0/do_1", {}),
        ),
        (
            "10,000 wildcard hosts with /",
            [RouteSpec(f"r{n}", n, hosts=(f"*.h{n}.example.org",), paths=("/",)) for n in range(10_000)],
            ("GET", "www.h9999.example.org", "/svc0/v1/read0/do_1", {}),
        ),
        (
            "10,000 routes on one path by method, header",
            [
                RouteSpec(
                    f"r{n}",
                    n,
                    methods=frozenset({("GET", "POST", "PUT", "PATCH")[n % 4]}),
                    paths=("/svc0/v1/read0",),
                    headers={"x-tenant": (f"t{n // 4}",), "x-kind": ("a",)},
                )
                for n in range(10_000)
            ],
            ("PATCH", "", "/svc0/v1/read0/do_1", {b"x-tenant": b"t2499", b"x-kind": b"a", b"accept": b"*/*"}),
        ),
        (
            "10,000 plain prefixes",
            [RouteSpec(f"r{n}", n, methods=get, paths=(f"/p{n:05d}*",)) for n in range(10_000)],
            ("GET", "", "/p09999xyz/v1/read0/do_1", {}),
        ),
        (
            "1,000 regular expressions",
            [RouteSpec(f"r{n}", n, methods=get, paths=(rf"~^/svc{n}/(?<id>\d+)$",)) for n in range(1_000)],
            ("GET", "", "/svc999/123", {}),
        ),
        (
            "10,000 literal routes, no match",
            literal(10_000),
            ("GET", "", "/nothing/of/the/kind", {}),
        ),
    ]
    for label, specs, asked in shapes:
        router, seconds = compiled(specs)
        print(f"{label:<44}{costs((router, [asked]))[0]:>8.0f} ns   compiled in {seconds:.3f} s")

    raw = b"/content/v1/read/do_1132"
    started = time.perf_counter_ns()
    for _ in range(CALLS):
        canonical(raw)
    print(f"{'the canonical path of 24 bytes':<44}{(time.perf_counter_ns() - started) / CALLS:>8.0f} ns")


if __name__ == "__main__":
    main()
