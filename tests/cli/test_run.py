"""`postern run` as a newcomer runs it: the demo on the shipped file, and starts that cannot be."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest

from gateway.analysis.judge import Carrier, Request
from gateway.cli.demo import curl, shown
from gateway.config.loader import load_bytes
from gateway.config.model import Address

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = (ROOT / "config.yaml").read_text("utf-8")
#: How long a gateway may take to start or to end, in seconds.
PATIENCE = 60.0

Answer = tuple[int, Message, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postern(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", *arguments, "--config", "config.yaml"]


def environment(lms: int) -> dict[str, str]:
    return {**os.environ, "LMS_URL": f"http://127.0.0.1:{lms}", "PYTHONPATH": str(ROOT)}


def ask(url: str, **headers: str) -> Answer:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers, refused.read().decode()


def error_of(answer: Answer) -> str:
    return str(json.loads(answer[2])["error"])


class Demo:
    """A running demo: what it printed, and where it serves."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, lms: int) -> None:
        self.process = process
        self._folder = folder
        self._lms = lms
        assert process.stdout is not None
        for line in process.stdout:
            if "curl " in line:
                break
        words = shlex.split(line)
        assert words[:3] == ["curl", "-i", "-H"]
        self.url = words[-1]
        name, _, value = words[3].partition(": ")
        self.headers = {name: value}
        self.origin = re.match(r"http://[^/]+", self.url)[0]  # type: ignore[index]  # it is a URL

    def key_of(self, username: str) -> dict[str, str]:
        done = subprocess.run(
            postern("keys", "create", "--consumer", username, "--name", "test", "--output", "json"),
            cwd=self._folder, env=environment(self._lms), capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
        return {"Authorization": f"Bearer {json.loads(done.stdout)['key']}"}


@contextmanager
def running(folder: Path) -> Iterator[Demo]:
    lms = free_port()
    text = SHIPPED.replace("0.0.0.0:8000", "127.0.0.1:0").replace("127.0.0.1:8007", "127.0.0.1:0")
    (folder / "config.yaml").write_text(text, "utf-8")
    process = subprocess.Popen(
        postern("run", "--demo", "--access-log", "off"),
        cwd=folder, env=environment(lms), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    late = threading.Timer(PATIENCE, process.kill)
    late.start()
    try:
        yield Demo(process, folder, lms)
        process.send_signal(signal.SIGTERM)
        _, events = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "Traceback" not in events
    finally:
        late.cancel()
        process.kill()
        process.communicate()


def test_the_demo_does_the_main_job(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        status, headers, body = ask(demo.url, **demo.headers)
        assert (status, json.loads(body)["responseCode"]) == (200, "OK")
        assert (headers["RateLimit-Limit"], headers["RateLimit-Remaining"], headers["RateLimit-Reset"]) == (
            "600",
            "599",
            "60",
        )
        assert headers["RateLimit-Policy"] == '"minute";q=600;w=60, "hour";q=5000;w=3600'
        assert headers["RateLimit"] == '"minute";r=599;t=60'

        refused = ask(demo.url)
        assert (refused[0], error_of(refused)) == (401, "Missing authorization header")
        refused = ask(demo.url, **demo.key_of("partner_portal"))
        assert (refused[0], error_of(refused)) == (403, "You cannot consume this service")

        spent = [ask(f"{demo.origin}/api/download/1", **demo.headers) for _ in range(61)]
        assert [answer[0] for answer in spent] == [200] * 60 + [429]
        assert error_of(spent[-1]) == "API rate limit exceeded"
        assert spent[-1][1]["Retry-After"] == spent[-1][1]["RateLimit-Reset"]
        assert (tmp_path / "data" / "postern.db").exists()


@pytest.mark.parametrize(
    ("address", "target", "line"),
    [
        (Address("127.0.0.1", 8000), "/a", "curl -i -H 'X-Key: k' http://127.0.0.1:8000/a"),
        (Address("::1", 8000), "/a", "curl -i -H 'X-Key: k' 'http://[::1]:8000/a'"),
        (Address("127.0.0.1", 80), "/a?b=1&c=2", "curl -i -H 'X-Key: k' 'http://127.0.0.1:80/a?b=1&c=2'"),
        (
            Address("127.0.0.1", 80),
            "https://learn.example.org/a?b",
            "curl -i -H 'Host: learn.example.org' -H 'X-Key: k' 'http://127.0.0.1:80/a?b'",
        ),
        (
            Address("127.0.0.1", 80),
            "http://learn.example.org",
            "curl -i -H 'Host: learn.example.org' -H 'X-Key: k' http://127.0.0.1:80/",
        ),
    ],
)
def test_the_line_to_paste(address: Address, target: str, line: str) -> None:
    assert curl(address, Request("GET", target, ((b"X-Key", b"k"),))) == line


async def test_the_request_to_show_is_one_that_answers_200() -> None:
    text = """
services:
  - name: lms
    url: http://127.0.0.1:9000
    policies: {auth: {any_of: [api-key]}}
    routes:
      - {name: forms, methods: [POST], paths: [/forms]}
      - {name: wrong, paths: [/wrong], policies: {acl: {allow: [teachers]}}}
      - {name: wiki, paths: [/wiki], policies: {auth: {any_of: [api-key], carriers: [query], key_names: [token]}}}
consumers: [{username: alice}]
tests:
  - {request: POST /forms, as: alice, expect: {status: 200}}
  - {request: GET /wiki, expect: {status: 401}}
  - {request: GET /wrong, as: alice, expect: {status: 200}}
  - {request: "GET /wiki?page=1", as: alice, expect: {status: 200}}
"""
    loaded = load_bytes(text.encode(), Path("config.yaml"), environ={})
    assert await shown(loaded) == ("alice", "/wiki?page=1", Carrier("query", "token"))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "options", "status", "said"),
    [
        (
            'listen: {proxy: "127.0.0.1:TAKEN", status: "127.0.0.1:0"}',
            [],
            3,
            "listen.proxy: cannot listen on 127.0.0.1:TAKEN",
        ),
        (
            'listen: {proxy: "127.0.0.1:0", status: "127.0.0.1:TAKEN"}',
            [],
            3,
            "listen.status: cannot listen on 127.0.0.1:TAKEN",
        ),
        (
            'services: [{name: lms, url: "http://127.0.0.1:TAKEN"}]',
            ["--demo"],
            3,
            "the stub LMS did not start on 127.0.0.1:TAKEN; is something else listening there?",
        ),
        (
            "store: sqlite:///config.yaml/postern.db",
            [],
            3,
            "cannot make the data folder config.yaml: ",
        ),
        ("secret_key: ${POSTERN_NOT_SET}", [], 2, "config.yaml:1:13: secret_key: "),
        ("services: [", [], 2, "config.yaml:"),
        ("policies: {acll: {}}", [], 2, "policies.acll: unknown policy (did you mean acl?)"),
        (
            "",
            ["--access-log", "no/such/folder/access.log"],
            3,
            "cannot write the access log no/such/folder/access.log: ",
        ),
    ],
)
def test_a_start_that_cannot_be(
    tmp_path: Path, taken: int, text: str, options: list[str], status: int, said: str
) -> None:
    if "listen" not in text:
        text += '\nlisten: {proxy: "127.0.0.1:0", status: "127.0.0.1:0"}\n'
    (tmp_path / "config.yaml").write_text(text.replace("TAKEN", str(taken)), "utf-8")
    done = subprocess.run(
        postern("run", *options), cwd=tmp_path, env=environment(9), capture_output=True, text=True, check=False,
        timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert said.replace("TAKEN", str(taken)) in done.stderr
