"""From text to a configuration, or to a report of everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config.identities import Consumer, Key
from gateway.config.loader import load, load_bytes
from gateway.config.model import Config
from gateway.config.policies import OFF, effective
from gateway.config.services import Route, Service
from gateway.core.errors import ConfigError
from gateway.core.units import Rate
from tests.config.fakes import OPEN, POLICIES, Door, load_text, problems

ROOT = Path(__file__).resolve().parents[2]
HASH = "$2b$10$" + "a" * 53


def test_defaults() -> None:
    config = load_text("version: 1").config
    assert (str(config.listen.proxy), str(config.listen.admin), str(config.listen.status)) == (
        "0.0.0.0:8000",
        "127.0.0.1:8001",
        "127.0.0.1:8007",
    )
    assert config.guesses.failures == Rate(20, 60, "minute")
    assert config.limits.header_bytes == 32 * 1024
    assert (config.drain.delay, config.drain.timeout, config.max_staleness) == (0, 30, 300)
    assert config.store == "sqlite:///data/postern.db"
    assert config.services == ()


def test_everything_lands_where_it_belongs() -> None:
    loaded = load_text(
        f"""
        listen: {{proxy: ":0", status: "[::1]:9"}}
        trusted_proxies: [10.0.0.0/8, 2001:db8::/32]
        policies: {{lists: {{allow: [a]}}}}
        services:
          - name: lms
            targets: [{{url: "unix:///run/lms.sock"}}]
            read_timeout: 2m
            routes:
              - name: read
                hosts: ["*.Example.org"]
                methods: [GET]
                paths: [/a, = /b, /c*, "/o/{{org}}/l", '~^/d/(?<id>\\d+)$']
                headers: {{X-Version: v1, X-More: [a, b]}}
                policies: {{door: none, lists: off, rules: {{limits: [5/second]}}}}
        organizations: [{{name: springfield, grantable_groups: [a]}}]
        consumers:
          - username: app
            organization: springfield
            groups: [a, b]
            rate_limits: [10/minute]
            keys: [{{name: one two, public: pnpub_x, secret_hash: {HASH}, expires_at: 2030-01-01T00:00:00Z}}]
        tests: [{{request: GET /a, as: app, expect: {{status: 200, route: read}}}}]
        """
    )
    config = loaded.config
    service = config.services[0]
    route = service.routes[0]
    assert config.listen.proxy.host == "0.0.0.0"
    assert str(config.listen.status) == "[::1]:9"
    assert (service.address, service.read_timeout) == ("unix:///run/lms.sock", 120)
    assert route.hosts == ("*.example.org",)
    assert route.headers == {"X-Version": ("v1",), "X-More": ("a", "b")}
    assert config.consumers[0].keys[0].expires_at == 1893456000
    assert (config.tests[0].as_, config.tests[0].method, config.tests[0].target) == ("app", "GET", "/a")
    assert route.policies["lists"] is OFF
    holding = effective(config.levels(service, route))
    assert set(holding) == {"door", "rules"}
    assert holding["door"][0].config == Door.Config(none=True)
    assert (holding["rules"][0].level, holding["rules"][0].scope) == ("route", "route:read")


def test_levels_add_up_and_off_ends_them() -> None:
    text = """
    policies: {lists: {allow: [top]}, door: none}
    services:
      - name: s
        url: http://x
        policies: {lists: {allow: [service]}}
        routes:
          - {name: inherits}
          - {name: ends, policies: {lists: "off"}}
          - {name: adds, policies: {lists: {allow: [route]}}}
    """
    config = load_text(text).config
    service = config.services[0]
    found = {route.name: effective(config.levels(service, route)).get("lists", ()) for route in service.routes}
    assert {name: [e.scope for e in entries] for name, entries in found.items()} == {
        "inherits": ["*", "service:s"],
        "ends": [],
        "adds": ["*", "service:s", "route:adds"],
    }


ROUTE = "services: [{name: s, url: http://x, routes: [{name: r, policies: {door: none}, %s}]}]"
CONSUMER = "consumers: [{username: a, %s}]\n" + OPEN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1:1: (document): is empty"]),
        ("# nothing\n", ["1:1: (document): is empty"]),
        ("[]", ["1:1: (document): must be a mapping of settings"]),
        ("hello", ["1:1: (document): must be a mapping of settings"]),
        ("lisen: {}", ["1:1: lisen: unknown key (did you mean listen?)"]),
        ("version: 2", ["1:10: version: must be 1"]),
        ("listen: {proxy: 8000}", ["1:17: listen.proxy: must be ADDRESS:PORT, such as 127.0.0.1:8000 or [::1]:8000"]),
        ("listen:", ["1:8: listen: is empty and must be a mapping"]),
        ("limits: {headers: many}", ["1:19: limits.headers: must be a whole number"]),
        ("limits: {headers: 0}", ["1:19: limits.headers: must be at least 1"]),
        ("limits: {header_bytes: 0}", ["1:24: limits.header_bytes: must be more than 0"]),
        ("limits: {header_timeout: 0s}", ["1:26: limits.header_timeout: must be more than 0"]),
        ("services: [{name: s, url: http://x, read_timeout: 0}]", ["services[0].read_timeout: must be more than 0"]),
        ("workers: 0", ["1:10: workers: must be at least 1"]),
        ("limits: {connections: true}", ["1:23: limits.connections: must be a whole number"]),
        ("credentials: {bcrypt_rounds: 15}", ["1:30: credentials.bcrypt_rounds: must be at most 14"]),
        (
            "paths: {encoded_slash: keap}",
            ["1:24: paths.encoded_slash: must be 'refuse' or 'keep' (did you mean keep?)"],
        ),
        ("secret_key: short", ["1:13: secret_key: is shorter than 32 characters"]),
        ("a: 1\na: 2", ["1:1: a: unknown key", "2:1: a: stands twice; the first is at line 1, column 1"]),
        (
            'listen: {admin: "0.0.0.0:1"}',
            ["1:17: listen.admin: other addresses than loopback need `admin: {allow_plaintext: true}`"],
        ),
        (
            'listen: {status: "0.0.0.0:8000"}',
            ["1:18: listen.status: the proxy listener has this address already"],
        ),
        (
            'listen: {admin: "1.2.3.4:1"}\nadmin: {allow_plaintext: true, sunbird: {require_token: false}}',
            [
                "2:41: admin.sunbird: Sunbird's consumer API is not available yet",
                "2:57: admin.sunbird.require_token: may be waived on a loopback listener only",
            ],
        ),
        # routes and services
        (ROUTE % "paths: [a]", ["must begin with /"]),
        (ROUTE % "paths: /a", ["paths: must be a list"]),
        (ROUTE % "paths: [/a/../../b]", ["paths[0]: can never match: the path climbs above /"]),
        (ROUTE % "paths: [/a%2fb]", ["paths[0]: can never match: the path holds an encoded slash"]),
        (ROUTE % "paths: ['/a*b']", ["paths[0]: takes one * only"]),
        (ROUTE % "paths: ['/a%4*']", ["paths[0]: cannot be cut off there"]),
        (ROUTE % "paths: ['/a/x{b}']", ["paths[0]: {name} must be a whole segment"]),
        (ROUTE % "paths: ['/{a}/{a}']", ["paths[0]: captures {a} twice"]),
        (ROUTE % "paths: ['/{1}']", ["paths[0]: {name} must hold a name"]),
        (ROUTE % "paths: ['~^/(']", ["paths[0]: is not a regular expression that RE2 takes: missing ): ^/("]),
        (ROUTE % "paths: ['~(?<a>x)(?<a>y)']", ["paths[0]: "]),
        (ROUTE % "paths: ['~']", ["paths[0]: holds no regular expression"]),
        (ROUTE % "hosts: ['a:80']", ["hosts[0]: must be a host name without a port"]),
        (ROUTE % "hosts: ['*']", ["hosts[0]: must be a host name"]),
        (ROUTE % "methods: [get]", ["methods[0]: must be an HTTP method in capitals"]),
        (ROUTE % "headers: {Host: a}", ["headers: names Host; write hosts: instead"]),
        (ROUTE % "headers: {X-A: a, x-a: b}", ["headers: names x-a twice"]),
        (ROUTE % "headers: {X-A: []}", ["headers.X-A: must hold at least 1"]),
        (ROUTE % "headers: {'X A': a}", ["headers.X A: must be the name of a header"]),
        (ROUTE % "strip_path: yes", ["strip_path: must be true or false"]),
        (ROUTE % "strip_pth: true", ["strip_pth: unknown key (did you mean strip_path?)"]),
        ("services: [{name: s}]", ["1:12: services[0]: must have either url or targets"]),
        ("services: [{url: http://x}]", ["1:12: services[0].name: is required"]),
        ("services: [{name: s, url: lms}]", ["1:27: services[0].url: must be a URL"]),
        ("services: [{name: s, url: 'http://u:p@x'}]", ["1:27: services[0].url: must not hold a user"]),
        ("services: [{name: s, url: 'http://x?y'}]", ["1:27: services[0].url: must not hold a query"]),
        ("services: [{name: s, url: 'http://x/a/../b'}]", ["1:27: services[0].url: must have a path in its canonical"]),
        ("services: [{name: s, url: 'http://x:99999'}]", ["1:27: services[0].url: must be a URL"]),
        ("services: [{name: s, url: unix:run.sock}]", ["1:27: services[0].url: must name a socket"]),
        (
            "services: [{name: s, url: http://x, routes: [{name: r}]}]",
            ["1:46: services[0].routes[0]: no policy says who may call this route: add `auth`, or `auth: none`"],
        ),
        (
            "policies: {door: none}\nservices: [{name: s, url: http://x, routes: [{name: r, policies: {door: off}}]}]",
            ["2:46: services[0].routes[0]: no policy says who"],
        ),
        (
            OPEN + "      - name: all\n        policies: {door: none}\n  - {name: lms, url: http://x}\n",
            [
                "7:15: services[0].routes[1].name: another route has the name 'all': services[0].routes[0].name",
                "9:12: services[1].name: another service has the name 'lms': services[0].name",
            ],
        ),
        # policies
        ("policies: {lsts: {}}", ["1:12: policies.lsts: unknown policy (did you mean lists?)"]),
        ("policies: {lists: }", ["1:19: policies.lists: is empty; write {} for the policy's defaults, or off"]),
        ("policies: {lists: {alow: [a]}}", ["is required", "unknown key (did you mean allow?)"]),
        ("policies: {lists: {allow: a}}", ["1:27: policies.lists.allow: must be a list"]),
        ("policies: {lists: {allow: []}}", ["1:27: policies.lists.allow: must hold at least 1"]),
        ("policies: {lists: {allow: [a, -]}}", ["1:31: policies.lists.allow[1]: must be a group"]),
        ("policies: {lists: none}", ["1:19: policies.lists: must be a mapping"]),
        ("policies: {door: nobody}", ["1:18: policies.door: must be a mapping of settings, none or off"]),
        ("policies: {door: {anonymous: guest}}", ["1:30: policies.door.anonymous: no consumer is called 'guest'"]),
        ("policies: {rules: {limits: [often]}}", ["1:29: policies.rules.limits[0]: 'often' is not a rate"]),
        ("policies: {rules: {limit: [5/second]}}", ["is required", "unknown key (did you mean limits?)"]),
        ("policies: {rules: [{limits: [often]}]}", ["1:30: policies.rules[0].limits[0]: 'often' is not a rate"]),
        ("policies: {rules: 5}", ["1:19: policies.rules: must be a mapping or a list"]),
        ("policies: {numbers: [1, x]}", ["1:25: policies.numbers[1]: must be a whole number"]),
        ("policies: {moody: {}}", ["1:12: policies.moody: the policy moody cannot judge its settings: RuntimeError"]),
        ("policies: []", ["1:11: policies: must be a mapping"]),
        # identities
        (CONSUMER % "organization: x", ["1:41: consumers[0].organization: no organization is called 'x'"]),
        (CONSUMER % "custom_id: 5", ["1:38: consumers[0].custom_id: must be text: put it in quotes"]),
        (CONSUMER % "groups: [b, b]", ["1:35: consumers[0].groups: holds 'b' twice"]),
        (CONSUMER % "keys: [{name: k}]", ["must have either public or legacy"]),
        (CONSUMER % "keys: [{name: k, public: pnpub_a}]", ["must have a secret_hash"]),
        (CONSUMER % "keys: [{name: k, public: pnpub_, secret_hash: %s}]" % HASH, ["'pnpub_' and 1 to 64"]),
        (CONSUMER % "keys: [{name: k, public: other_a, secret_hash: %s}]" % HASH, ["'pnpub_' and 1 to 64"]),
        (CONSUMER % "keys: [{name: k, public: pnpub_%s, secret_hash: %s}]" % ("a" * 65, HASH), ["1 to 64"]),
        (CONSUMER % "keys: [{name: k, public: pnpub_a, secret_hash: $2b$15$x}]", ["must be a bcrypt hash"]),
        (
            CONSUMER % "keys: [{name: k, public: pnpub_a, secret_hash: %s, expires_at: soon}]" % HASH,
            ["must be a moment"],
        ),
        (
            "organizations: [{name: a}, {name: a}]",
            ["1:35: organizations[1].name: another organization has the name 'a'"],
        ),
        ("consumers: [{username: a}, {username: a}]", ["1:39: consumers[1].username: another consumer has"]),
        ("credentials: {secret_prefix: pnpub_}", ["1:14: credentials: public_prefix and secret_prefix must differ"]),
        ("tests: [{request: get /, expect: {status: 200}}]", ["1:19: tests[0].request: must be METHOD /path"]),
        ("tests: [{request: GET /, as: a, expect: {status: 200}}]", ["1:30: tests[0].as: no consumer is called 'a'"]),
        ("tests: [{request: GET /, expect: {status: 99, route: x}}]", ["at least 100", "no route is called 'x'"]),
    ],
)
def test_problems(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == len(expected), found
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_everything_is_reported_at_once_in_file_order() -> None:
    file = ROOT / "tests/config/everything_wrong.yaml"
    environ = {"SECRET": "hunter2hunter2/8", "STORE": "bla:hunter2", "PROXY": "hunter3/99"}
    with pytest.raises(ConfigError) as caught:
        load(file, environ=environ)
    expected = file.with_suffix(".txt").read_text("utf-8").splitlines()
    assert [line.removeprefix(f"{file}:") for line in caught.value.problems] == expected


def test_positions_below_an_alias_are_those_of_its_anchor() -> None:
    text = "organizations: [&o {nam: a}]\n" + OPEN + "consumers:\n  - *o\n"
    assert [line for line in problems(text) if "consumers" in line] == [
        "1:17: consumers[0].username: is required",
        "1:21: consumers[0].nam: unknown key",
    ]


@pytest.mark.parametrize("name", ["nope.yaml", ".", "a\0b"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(tmp_path / name, environ={}, policies=POLICIES)
    assert len(caught.value.problems) == 1


def test_hash_follows_the_content_alone(tmp_path: Path) -> None:
    base = load_text(OPEN + "secret_key: ${S}\n", {"S": "s" * 32})
    assert len(base.hash) == 16
    assert load_text("# said\n" + OPEN + "secret_key:   '${S}'\n", {"S": "s" * 32}).hash == base.hash
    assert load_text(OPEN + "secret_key: ${S}\n", {"S": "t" * 32}).hash != base.hash
    assert load_text(OPEN, {}).hash != base.hash


def test_warnings() -> None:
    assert load_text("version: 1").warnings == (
        "config.yaml:1:1: services: there is no route: every request will be answered 404",
    )
    (warning,) = load_text(f"{OPEN}secret_key: {'s' * 32}\n").warnings
    assert warning.startswith("config.yaml:7:13: secret_key: stands in the file itself")
    assert load_text(OPEN).warnings == ()


def test_the_shipped_file_loads_without_a_word() -> None:
    loaded = load(ROOT / "config.yaml", environ={})
    assert loaded.warnings == ()
    assert (ROOT / "config.yaml").read_text().startswith("# yaml-language-server: $schema=docs/config.schema.json\n")


# ── whatever comes in, only ConfigError comes out ───────────────────────────────────────────────

_KEYS = st.sampled_from([*Config.model_fields, *Service.model_fields, *Route.model_fields, *Consumer.model_fields])
_KEYS |= st.sampled_from([*Key.model_fields, *POLICIES, "allow", "limits", "none", "request", "as", "expect", "zzz"])
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["off", "none", "a", "/a", "~(", "GET", "http://x", "5s", "${A}", "${B", HASH, "pnpub_a", "10MB"])
    | st.text(max_size=5)
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=25
)


def _only_config_error(content: bytes) -> None:
    found = ["it loaded"]
    try:
        load_bytes(content, Path("config.yaml"), environ={"A": "x"}, policies=POLICIES)
    except ConfigError as error:
        found = error.problems
    assert found
    assert all("\n" not in line for line in found)


@settings(deadline=None)
@given(st.binary())
@example(b"services: &a [*a]")
@example(b"policies: {door: {kinds: [[]]}}")
def test_any_bytes(content: bytes) -> None:
    _only_config_error(content)


@settings(deadline=None)
@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_structure(value: dict[str, Any]) -> None:
    _only_config_error(yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode())


@settings(deadline=None)
@given(st.data())
def test_any_damage_to_a_good_file(data: st.DataObject) -> None:
    content = bytearray((ROOT / "config.yaml").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=4))
    _only_config_error(bytes(content))
