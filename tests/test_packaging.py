"""What is shipped: the lock files hold what pyproject.toml asks for and no address; the image keeps its promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUNTIME = PROJECT["project"]["dependencies"]
BUILD = PROJECT["build-system"]["requires"]

LOCKS = {
    "requirements.lock": RUNTIME,
    "requirements-dev.lock": [*RUNTIME, *EXTRAS["dev"]],
    "requirements-build.lock": BUILD,
}


def locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """Each requirement of a lock file with the number of its hashes."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    found: dict[str, tuple[Requirement, int]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement = Requirement(line.partition("--hash=")[0].strip())
        found[canonicalize_name(requirement.name)] = (requirement, line.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_project_asks_for(name: str) -> None:
    lock = locked(name)
    for wanted in map(Requirement, LOCKS[name]):
        assert canonicalize_name(wanted.name) in lock, f"{wanted} is not in {name}: run make lock"
        (pin,) = lock[canonicalize_name(wanted.name)][0].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), f"{name} has {wanted.name} {pin.version}: run make lock"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_pinned_by_hash_and_names_no_place(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert not re.search(r"://|--(index|extra-index|find-links|trusted)|@ ", text)
    assert all(hashes for _, hashes in locked(name).values())


def test_the_locks_agree() -> None:
    development = locked("requirements-dev.lock")
    for name in ("requirements.lock", "requirements-build.lock"):
        for package, (requirement, _) in locked(name).items():
            assert development[package][0].specifier == requirement.specifier, f"{package} in {name}: run make lock"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_runtime_lock_serves_every_python_and_system(python: str, system: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "sys_platform": system,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    lock = locked("requirements.lock")
    for wanted in map(Requirement, RUNTIME):
        marker: Marker | None = lock[canonicalize_name(wanted.name)][0].marker
        assert marker is None or marker.evaluate(environment), f"{wanted.name} is not locked for {python} on {system}"


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continuation lines joined, in order."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def final_stage() -> dict[str, str]:
    """The last instruction of each name, of the stage that is shipped."""
    instructions = dockerfile()
    start = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return dict(instructions[start:])


def test_the_image_is_built_in_stages() -> None:
    stages = [rest for word, rest in dockerfile() if word == "FROM"]
    assert len(stages) == 2
    assert all(stage.startswith("python:${PYTHON}-slim") for stage in stages)


def test_the_image_runs_as_an_unprivileged_user_of_a_fixed_number() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", final_stage()["USER"])


def test_the_image_starts_the_gateway_itself_so_that_it_gets_the_signals() -> None:
    stage = final_stage()
    assert json.loads(stage["ENTRYPOINT"]) == ["postern"]
    assert json.loads(stage["CMD"]) == ["run", "--config", "/etc/postern/config.yaml"]
    assert stage["STOPSIGNAL"] == "SIGTERM"


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (0, False)])
def test_the_image_asks_the_gateway_whether_it_is_ready(status: int, healthy: bool) -> None:
    check = final_stage()["HEALTHCHECK"]
    command = json.loads(check[check.index("CMD ") + 4 :])
    assert command[:2] == ["python", "-c"]

    class Status(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/status/ready" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base's name
            """Nothing to say."""

    with HTTPServer(("127.0.0.1", 0), Status) as server:
        program = command[2].replace("127.0.0.1:8007", f"127.0.0.1:{server.server_port}")
        assert program != command[2]
        if status:
            threading.Thread(target=server.handle_request, daemon=True).start()
        else:
            server.server_close()  # nobody listens
        environment = {**os.environ, "http_proxy": "http://127.0.0.1:1"}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert (done.returncode == 0) is healthy


def test_the_image_writes_in_its_volume_alone() -> None:
    stage = final_stage()
    assert stage["WORKDIR"] == stage["VOLUME"] == "/var/lib/postern"
    assert "PYTHONDONTWRITEBYTECODE=1" in stage["ENV"]


def test_the_image_holds_no_secret_and_only_what_is_named() -> None:
    for word, rest in dockerfile():
        if word in {"ENV", "ARG"}:
            assert not re.search(r"secret|token|password|credential|_key", rest, re.IGNORECASE), rest
        if word in {"COPY", "ADD"}:
            assert word == "COPY", "ADD fetches and unpacks"
            assert rest.split()[0] not in {".", "./"}, "COPY . would take whatever lies about"
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert "*" in ignored
    copied = {
        name.rstrip("/")
        for word, rest in dockerfile()
        if word == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    }
    assert {f"!{name}" for name in copied} <= {name.rstrip("/") for name in ignored}


def test_every_install_of_the_image_checks_hashes() -> None:
    for word, rest in dockerfile():
        if word != "RUN":
            continue
        for install in re.findall(r"pip install ([^&]*)", rest):
            assert "--require-hashes" in install or "--no-index" in install, install


TARGETS = ["install", "interpreted", "compiled", "run", "test", "check", "bench", "fmt", "lock", "docs", "clean"]


@pytest.mark.parametrize("target", TARGETS)
def test_make_has_the_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"make \S* ?test\b", script.read_text("utf-8"))
