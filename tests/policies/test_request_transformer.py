"""`request-transformer`: what the upstream gets in place of what the client sent, and what may not be written."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.core.context import Context
from gateway.core.decision import ALLOW
from gateway.core.http import fold
from policies.request_transformer import RequestTransformer
from tests.policies.helpers import decide, make_context, make_policy, upstream_lines

Lines = list[str]


def forwarded(context: Context) -> Lines:
    """The lines that the upstream gets: the client's that nobody hid, then those that policies wrote."""
    hidden = {fold(name) for name in context.hidden}
    kept = [line.decode("latin-1") for line in context.lines if fold(line.partition(b":")[0]) not in hidden]
    return kept + upstream_lines(context)


def transformed(config: dict[str, Any], context: Context) -> Context:
    assert decide(make_policy(RequestTransformer, config), context) is ALLOW
    return context


def split(lines: Lines) -> list[tuple[str, str]]:
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


@pytest.mark.parametrize(
    ("config", "sent", "expected"),
    [
        # remove
        ({"remove": {"headers": ["X-A"]}}, ["X-A: 1", "X-B: 2"], ["X-B: 2"]),
        ({"remove": {"headers": ["x-a"]}}, ["X-A: 1", "X-a: 2", "X_A: 3", "X.A: 4", "X-AB: 5"], ["X-AB: 5"]),
        ({"remove": {"headers": ["X-A"]}}, ["X-B: 2"], ["X-B: 2"]),
        ({"remove": {"headers": ["Forwarded"]}}, ["Forwarded: for=1", "X-B: 2"], ["X-B: 2"]),
        # rename
        ({"rename": {"headers": {"X-Old": "X-New"}}}, ["x-old: 1", "X-B: 2"], ["X-B: 2", "X-New: 1"]),
        ({"rename": {"headers": ["X-Old:X-New"]}}, ["X-Old: 1", "X_Old: 2"], ["X-New: 1", "X-New: 2"]),
        ({"rename": {"headers": {"X-Old": "X-New"}}}, ["X-New: 1"], ["X-New: 1"]),
        ({"rename": {"headers": {"X-Old": "X-New"}}}, ["X-New: 1", "X_New: 2", "X-Old: 3"], ["X-New: 3"]),
        ({"rename": {"headers": {"X_Old": "X-Old"}}}, ["X_Old: 1"], ["X-Old: 1"]),
        ({"rename": {"headers": {"X-A": "X-B", "X-B": "X-C"}}}, ["X-A: 1", "X-B: 2"], ["X-C: 1"]),
        ({"rename": {"headers": {"Authorization": "X-Authorization"}}}, ["Authorization: a"], ["X-Authorization: a"]),
        # replace
        ({"replace": {"headers": {"X-A": "new"}}}, ["X-A: 1", "X-B: 2"], ["X-B: 2", "X-A: new"]),
        ({"replace": {"headers": ["X-A:a:b"]}}, ["X-A: 1", "X-A: 2", "x_a: 3"], ["X-A: a:b"]),
        ({"replace": {"headers": {"X-A": "new"}}}, ["X-B: 2"], ["X-B: 2"]),
        ({"replace": {"headers": {"Authorization": "JWT x"}}}, ["Authorization: AWS4 y"], ["Authorization: JWT x"]),
        # add
        ({"add": {"headers": {"X-A": "new"}}}, [], ["X-A: new"]),
        ({"add": {"headers": {"X-A": "new"}}}, ["X-B: 2"], ["X-B: 2", "X-A: new"]),
        ({"add": {"headers": {"X-A": "new"}}}, ["x-a: 1"], ["x-a: 1"]),
        ({"add": {"headers": {"X-A": "new"}}}, ["X_A: 1"], ["X_A: 1"]),
        ({"add": {"headers": ["X-A: new ", "X-B:"]}}, [], ["X-A: new", "X-B: "]),
        ({"add": {"headers": {"Authorization": "Bearer lms"}}}, [], ["Authorization: Bearer lms"]),
        ({"add": {"headers": {"X-A": "Gr\u00fc\u00dfe"}}}, [], ["X-A: Gr\u00fc\u00dfe"]),
        # append
        ({"append": {"headers": {"X-A": "2"}}}, ["X-A: 1"], ["X-A: 1", "X-A: 2"]),
        ({"append": {"headers": ["X-A:2", "X-A:3"]}}, [], ["X-A: 2", "X-A: 3"]),
        # one on what the other left, whatever the order of the file
        ({"add": {"headers": {"X-A": "new"}}, "remove": {"headers": ["X-A"]}}, ["X-A: 1"], ["X-A: new"]),
        ({"remove": {"headers": ["X-A"]}, "replace": {"headers": {"X-A": "new"}}}, ["X-A: 1"], []),
        (
            {
                "rename": {"headers": {"X-A": "X-B"}},
                "replace": {"headers": {"X-B": "r"}},
                "add": {"headers": {"X-A": "a"}},
            },
            ["X-A: 1"],
            ["X-B: r", "X-A: a"],
        ),
        (
            {"rename": {"headers": {"X-A": "X-B"}}, "append": {"headers": {"X-B": "2", "X-A": "3"}}},
            ["X-A: 1"],
            ["X-B: 1", "X-B: 2", "X-A: 3"],
        ),
        ({"remove": {"headers": ["X-A"]}, "append": {"headers": {"X-A": "2"}}}, ["X-A: 1"], ["X-A: 2"]),
    ],
)
def test_headers(config: dict[str, Any], sent: Lines, expected: Lines) -> None:
    context = transformed(config, make_context(headers=split(sent)))
    assert sorted(forwarded(context)) == sorted(expected)
    # Lines of one name keep their order.
    assert [line for line in forwarded(context) if line.startswith("X-B")] == [
        line for line in expected if line.startswith("X-B")
    ]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rename": {"headers": {"Authorization": "X-Stolen"}}}, []),
        ({"rename": {"headers": {"apikey": "X-Stolen"}}}, []),
        ({"append": {"headers": {"Authorization": "Bearer lms"}}}, ["Authorization: Bearer lms"]),
        ({"add": {"headers": {"Authorization": "Bearer lms"}}}, ["Authorization: Bearer lms"]),
        ({"replace": {"headers": {"Authorization": "Bearer lms"}}}, []),
    ],
)
def test_a_hidden_header_is_not_there(config: dict[str, Any], expected: Lines) -> None:
    context = make_context(headers={"Authorization": "Bearer pnpub_a.pnsec_b", "apikey": "pnpub_a.pnsec_b"})
    context.hidden = (b"authorization", b"apikey")
    assert forwarded(transformed(config, context)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rename": {"headers": {"X-Consumer_ID": "X-A"}}}, None),
        ({"rename": {"headers": {"X-Ended": "X-A"}}}, []),
        ({"add": {"headers": {"X-Ended": "new"}}}, ["X-Ended: new"]),
    ],
)
def test_what_ends_here_is_not_there(config: dict[str, Any], expected: Lines | None) -> None:
    context = make_context(headers={"X-Ended": "1", "Connection": "close, x-ended"})
    if expected is None:
        with pytest.raises(ValidationError):
            RequestTransformer.Config.model_validate(config)
    else:
        assert upstream_lines(transformed(config, context)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"add": {"headers": {"X-Correlation-ID": "n"}}}, ["X-Other: o", "X-Correlation-ID: c"]),
        ({"replace": {"headers": {"X-Correlation-ID": "n"}}}, ["X-Other: o", "X-Correlation-ID: n"]),
        ({"remove": {"headers": ["X-Correlation-ID"]}}, ["X-Other: o"]),
        ({"rename": {"headers": {"X-Correlation-ID": "X-Id"}}}, ["X-Other: o", "X-Id: c"]),
        ({"add": {"headers": {"X-New": "n"}}}, ["X-Other: o", "X-Correlation-ID: c", "X-New: n"]),
    ],
)
def test_what_other_policies_wrote_is_there(config: dict[str, Any], expected: Lines) -> None:
    context = make_context(headers={"X-Correlation-ID": "the client's"})
    context.hidden = (b"x-correlation-id",)
    context.upstream_lines = [b"X-Other: o\r\nX-Correlation-ID: c\r\n"]
    assert sorted(upstream_lines(transformed(config, context))) == sorted(expected)


@pytest.mark.parametrize(
    ("sent", "hidden"),
    [
        ([], {b"x-a", b"x-b", b"x-c", b"x-d"}),
        (["X-A: 1", "X-B: 2"], {b"x-a", b"x-b", b"x-n", b"x-c", b"x-d"}),
        (["X-C: 1", "X-D: 2"], {b"x-a", b"x-b", b"x-c"}),  # X-D stays as it came, in front and behind
    ],
)
def test_nothing_gets_past_the_steps_behind_a_chunked_body(sent: Lines, hidden: set[bytes]) -> None:
    config = {
        "remove": {"headers": ["X-A"]},
        "rename": {"headers": {"X-B": "X-N"}},
        "replace": {"headers": {"X-C": "c"}},
        "add": {"headers": {"X-D": "d"}},
        "append": {"headers": {"X-E": "e"}},
    }
    context = make_context(headers=split(sent), content_length=None)
    assert set(transformed(config, context).hidden) == hidden


@pytest.mark.parametrize(
    ("config", "sent", "expected"),
    [
        # remove
        ({"remove": {"query": ["a"]}}, b"a=1&b=2&a", b"b=2"),
        ({"remove": {"querystring": ["a"]}}, b"a=1", b""),
        ({"remove": {"query": ["a"]}}, b"b=%7e+x&&c", None),
        ({"remove": {"query": ["a b"]}}, b"a+b=1&a%20b=2&%61%20b=3&c=%7E", b"c=%7E"),
        ({"remove": {"query": ["a"]}}, b"A=1&aa=2&a[]=3", None),
        ({"remove": {"query": ["a"]}}, b"", None),
        # rename
        ({"rename": {"query": {"a": "b"}}}, b"x&a=%7e&y=&%61&a=", b"x&b=%7e&y=&b&b="),
        ({"rename": {"query": ["a:b"]}}, b"b=1&a=2", b"b=2"),
        ({"rename": {"query": {"a": "b"}}}, b"b=1", None),
        ({"rename": {"query": {"a": "b c"}}}, b"a=1", b"b%20c=1"),
        ({"rename": {"query": {"a": "a"}}}, b"%61=1", b"a=1"),
        # replace
        ({"replace": {"query": {"a": "n&m"}}}, b"x=1&a=2&a=3&y", b"x=1&a=n%26m&y"),
        ({"replace": {"query": {"a": "n"}}}, b"x=1", None),
        # add
        ({"add": {"query": {"a": "n", "b": "m"}}}, b"", b"a=n&b=m"),
        ({"add": {"query": {"a": "n"}}}, b"x=%7e", b"x=%7e&a=n"),
        ({"add": {"query": {"a": "n"}}}, b"%61", None),
        ({"add": {"query": ["a: n", "b:"]}}, b"", b"a=%20n&b="),
        # append
        ({"append": {"query": ["a:n", "a:m"]}}, b"a=1&x", b"a=1&x&a=n&a=m"),
        # one on what the other left
        ({"remove": {"query": ["a"]}, "add": {"query": {"a": "n"}}}, b"a=1", b"a=n"),
        ({"rename": {"query": {"a": "b"}}, "replace": {"query": {"b": "n"}}}, b"a=1&b=2", b"b=n"),
    ],
)
def test_parameters(config: dict[str, Any], sent: bytes, expected: bytes | None) -> None:
    context = transformed(config, make_context(query=sent))
    assert context.upstream_query == expected
    assert context.query == sent


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rename": {"query": {"apikey": "stolen"}}}, None),
        ({"replace": {"query": {"apikey": "x"}}}, None),
        ({"rename": {"query": {"a": "b"}}}, b"b=1"),
        # What a step puts in under its name is the LMS's own.
        ({"add": {"query": {"apikey": "lms"}}}, b"a=1&apikey=lms"),
        ({"add": {"query": {"b": "2"}}}, b"a=1&b=2"),
        ({"rename": {"query": {"a": "apikey"}}}, b"apikey=1"),
    ],
)
def test_a_hidden_parameter_is_not_there(config: dict[str, Any], expected: bytes | None) -> None:
    context = make_context(query=b"apikey=pnsec&a=1&%61pikey=2")
    context.hidden_query = ("apikey",)
    assert transformed(config, context).upstream_query == expected
    assert context.hidden_query == (("apikey",) if expected is None else ())


def test_each_line_stands_alone() -> None:
    """Policies after this one look for lines of theirs."""
    config = {"add": {"headers": {"X-A": "1", "X-B": "2"}}, "append": {"headers": ["X-C:3"]}}
    lines = [b"X-A: 1\r\n", b"X-B: 2\r\n", b"X-C: 3\r\n"]
    assert transformed(config, make_context()).upstream_lines == lines
    assert transformed(config, make_context(headers={"X-C": "0"})).upstream_lines == lines


def test_what_another_policy_made_of_the_query_goes_on() -> None:
    context = make_context(query=b"a=1")
    context.upstream_query = b"b=2"
    assert transformed({"add": {"query": {"a": "n"}}}, context).upstream_query == b"b=2&a=n"


@given(st.binary(max_size=40).filter(lambda query: b"\r" not in query and b"\n" not in query))
def test_any_query_keeps_what_no_step_names(query: bytes) -> None:
    config = {"remove": {"query": ["a"]}, "add": {"query": {"added": "n"}}}
    context = transformed(config, make_context(query=query))
    made = context.upstream_query
    assert made is not None
    kept = [part for part in query.split(b"&") if part]
    for part in made.split(b"&")[:-1]:
        assert part in kept or not part
    names = [name for name, _ in parse_qsl(made.decode("latin-1"), keep_blank_values=True, encoding="latin-1")]
    assert "a" not in names
    assert "added" in names


VALUE, NAME = "NAME:VALUE", "OLD:NEW"


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "must remove, rename"),
        ({"remove": {}}, "must remove, rename"),
        ({"remove": {"headers": ["X A"]}}, "must be the name of a header"),
        ({"remove": {"headers": ["X-A", "x_a"]}}, "holds x_a twice"),
        ({"remove": {"headers": ["X-Consumer_Username"]}}, "gateway alone writes"),
        ({"remove": {"headers": ["X-Forwarded-For"]}}, "gateway alone writes"),
        ({"remove": {"headers": ["host"]}}, "gateway alone writes"),
        ({"remove": {"headers": ["Connection"]}}, "ends at each hop"),
        ({"remove": {"query": [""]}}, "name of a query parameter"),
        ({"remove": {"query": ["a"], "querystring": ["b"]}}, "are the same"),
        ({"remove": {"body": ["a"]}}, "Extra inputs"),
        ({"rename": {"headers": {"X-A": "X_Organization.ID"}}}, "gateway alone writes"),
        ({"rename": {"headers": {"X-Request-ID": "X-A"}}}, "gateway alone writes"),
        ({"rename": {"headers": {"X-A": "X-HTTP-Method-Override"}}}, "trusted proxies only"),
        ({"rename": {"headers": {"X-A": "X-B\r\nX-C"}}}, "name of a header"),
        ({"rename": {"headers": {"X-A": ""}}}, "name of a header"),
        ({"rename": {"headers": ["X-A"]}}, "must be OLD:NEW"),
        ({"rename": {"headers": ["X-A:X-B", "x_a:X-C"]}}, "names x_a twice"),
        ({"rename": {"query": {"m": "_method"}}}, "another method"),
        ({"rename": {"query": {"m": " .METHOD[]"}}}, "another method"),
        ({"replace": {"headers": {"Host": "x"}}}, "gateway alone writes"),
        ({"replace": {"headers": {"X_API_Key": "x"}}}, "gateway alone writes"),
        ({"add": {"headers": {"Content-Length": "1"}}}, "gateway alone writes"),
        ({"add": {"headers": {"Transfer-Encoding": "chunked"}}}, "gateway alone writes"),
        ({"add": {"headers": {"Forwarded": "for=1"}}}, "trusted proxies only"),
        ({"add": {"headers": {"TE": "trailers"}}}, "ends at each hop"),
        ({"add": {"headers": {"Proxy": "x"}}}, "ends at each hop"),
        ({"add": {"headers": {"X-A": "a\r\nX-B: b"}}}, "fit on one line"),
        ({"add": {"headers": {"X-A": "a\0"}}}, "fit on one line"),
        ({"add": {"headers": {"X-A": "\u0416"}}}, "fit on one line"),
        ({"add": {"headers": {"X-A": "$(headers.b)"}}}, "values are literal"),
        ({"add": {"headers": {"X-A": 1}}}, "put it in quotes"),
        ({"add": {"headers": {"X-A": None}}}, "put it in quotes"),
        ({"add": {"headers": "X-A:b"}}, "must be a mapping, or a list of NAME:VALUE"),
        ({"add": {"headers": [["X-A", "b"]]}}, "must be NAME:VALUE"),
        ({"add": {"headers": ["X-A:1", "X-A:2"]}}, "names X-A twice"),
        ({"add": {"query": {"_method": "DELETE"}}}, "another method"),
        ({"add": {"query": {"a": "b\n"}}}, "control characters"),
        ({"append": {"query": {"a\r": "b"}}}, "name of a query parameter"),
    ],
)
def test_bad_config_is_refused(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        RequestTransformer.Config.model_validate(config)


def test_a_value_is_told_to_nobody() -> None:
    config = RequestTransformer.Config.model_validate({"add": {"headers": {"Authorization": "Bearer hunter2"}}})
    assert "hunter2" not in repr(config)
    with pytest.raises(ValidationError) as caught:
        RequestTransformer.Config.model_validate({"add": {"headers": {"Authorization": "hunter2\r\n"}}})
    assert "hunter2" not in str(caught.value)
