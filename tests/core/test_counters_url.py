"""The URL of `counters`: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.counters_url import PATTERN, Address, RedisLocation, Tls, parse_counters_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("memory://", None),
        ("redis://localhost", RedisLocation("single", (Address("localhost", 6379),))),
        ("redis://10.0.0.1:7000/3", RedisLocation("single", (Address("10.0.0.1", 7000),), database=3)),
        ("redis://h?db=4", RedisLocation("single", (Address("h", 6379),), database=4)),
        ("redis://[::1]:7000/", RedisLocation("single", (Address("::1", 7000),))),
        ("redis://:p%40ss%2F@h", RedisLocation("single", (Address("h", 6379),), password="p@ss/")),
        ("redis://al:p:w@h", RedisLocation("single", (Address("h", 6379),), username="al", password="p:w")),
        ("unix:///run/redis.sock?db=2", RedisLocation("single", (Address("/run/redis.sock", 0),), database=2)),
        ("unix://:pw@/run/a@b", RedisLocation("single", (Address("/run/a@b", 0),), password="pw")),
        ("rediss://h", RedisLocation("single", (Address("h", 6379),), tls=Tls())),
        (
            "rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_server_name=redis.example",
            RedisLocation(
                "single",
                (Address("h", 6379),),
                tls=Tls("/ca.pem", "/c.pem", "/k.pem", server_name="redis.example"),
            ),
        ),
        (
            "rediss://h?ssl_cert_reqs=none",
            RedisLocation("single", (Address("h", 6379),), tls=Tls(verify=False, check_hostname=False)),
        ),
        (
            "rediss://h?ssl_check_hostname=False",
            RedisLocation("single", (Address("h", 6379),), tls=Tls(check_hostname=False)),
        ),
        (
            "redis+sentinel://u:p@a,b:26380/mymaster/1?sentinel_username=s&sentinel_password=t",
            RedisLocation(
                "sentinel", (Address("a", 26379), Address("b", 26380)), "mymaster", 1, "u", "p", "s", "t"
            ),
        ),
        ("rediss+sentinel://a/m", RedisLocation("sentinel", (Address("a", 26379),), "m", tls=Tls())),
        ("redis+cluster://a,b:7001/0", RedisLocation("cluster", (Address("a", 6379), Address("b", 7001)))),
        (
            "redis://h?socket_timeout=0.1&socket_connect_timeout=2",
            RedisLocation("single", (Address("h", 6379),), patience=0.1, connect_patience=2.0),
        ),
    ],
)  # fmt: skip
def test_what_a_url_means(url: str, location: RedisLocation | None) -> None:
    assert parse_counters_url(url) == location
    assert re.search(PATTERN, url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("memcached://h", "must be memory://, redis://HOST:6379/0"),
        ("redis:/h", "must be memory://"),
        ("memory://x", "must be memory://"),
        ("redis://", "must name a server as HOST or HOST:PORT"),
        ("redis://h:0", "has the port 0; ports go from 1 to 65535"),
        ("redis://h:65536", "has the port 65536"),
        ("redis://h:x", "must name a server as HOST or HOST:PORT"),
        ("redis://a,b", "names several servers; use redis+sentinel:// or redis+cluster://"),
        ("redis+cluster://a,a", "names a server twice"),
        ("redis+cluster://a,,b", "must name a server as HOST or HOST:PORT, several with a comma"),
        ("redis://h/x", "has 'x' after the host, where a database's number stands"),
        ("redis://h/1/2", "has more than a database's number after the host"),
        ("redis://h/-1", "has '-1' after the host"),
        ("redis+cluster://a/1", "a cluster has database 0 alone"),
        ("redis+sentinel://a", "must name the master that the sentinels watch"),
        ("redis+sentinel://a/m/x", "has 'x' after the service"),
        ("unix://run/redis.sock", "must name the socket by its whole path"),
        ("redis://user@h", "has an @ but no password before it"),
        ("redis://h?sockettimeout=1", "which redis:// does not take (did you mean socket_timeout?)"),
        ("redis://h?zzz=1", "there are socket_timeout, socket_connect_timeout, db"),
        ("redis://h?ssl_ca_certs=/x", "TLS is asked for by rediss in place of redis"),
        ("redis://h?socket_timeout=1&socket_timeout=2", "has the parameter socket_timeout twice"),
        ("redis://h?socket_timeout=0", "it is a number of seconds, 0.001 to 60"),
        ("redis://h?socket_timeout=nan", "it is a number of seconds, 0.001 to 60"),
        ("redis://h?socket_timeout", "has something after ? that is not NAME=VALUE"),
        ("rediss://h?ssl_cert_reqs=maybe", "it is one of required, none"),
        ("rediss://h?ssl_keyfile=/k", "has ssl_keyfile without ssl_certfile"),
        ("redis://h#x", "has a #; in a password it is written %23"),
    ],
)
def test_what_is_wrong(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_counters_url(url)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:{SECRET}/x@h/0",
        f"redis://u:a?{SECRET}=1@h/0",
        f"redis://u:{SECRET}#@h/0",
        f"redis://:{SECRET}@h:99999",
        f"redis://:{SECRET}@/1",
        f"redis+sentinel://:{SECRET}@h/m?sentinel_password={SECRET}&sentinel_pasword=x",
    ],
)
def test_no_error_tells_a_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - which text, the table above says
        parse_counters_url(url)
    assert SECRET not in str(caught.value)


def test_nothing_else_tells_one() -> None:
    location = parse_counters_url(f"redis+sentinel://al:{SECRET}@a,b/m?sentinel_password={SECRET}")
    assert SECRET not in f"{location!r} {location}"
    assert str(location) == "m by sentinel a:26379,b:26379"


@given(st.text(alphabet="redisunix+sentinelcluster:/@?#=&%[],.0129a ", max_size=60))
def test_any_text_is_a_url_or_a_problem(text: str) -> None:
    for url in (text, f"redis://{text}", f"redis+sentinel://{text}", f"unix://{text}"):
        with suppress(ValueError):
            parse_counters_url(url)
