"""`${…}` inside values: what is filled in, what is refused, and that it stays out of reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.interpolate import MAX_FILE, Interpolated, InterpolationError, Interpolator
from tests.config.fakes import OPEN, load_text, problems

ENVIRON = {"A": "one", "EMPTY": "", "DOLLAR": "${A}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "one"),
        ("x${A}y${A}", "xoneyone"),
        ("${NOPE:-two}", "two"),
        ("${NOPE:-}", ""),
        ("${EMPTY:-two}", "two"),
        ("${EMPTY}", ""),
        ("${A:-two}", "one"),
        ("${NOPE:-a:-b}", "a:-b"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("${DOLLAR}", "${A}"),
        ("$2b$10$abc", "$2b$10$abc"),
        ("${file:secret}", "s3cret"),
        ("${file:windows}", "s3cret"),
    ],
)
def test_filled_in(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "secret").write_bytes(b"s3cret\n")
    (tmp_path / "windows").write_bytes(b"s3cret\r\n")
    assert Interpolator(ENVIRON, tmp_path).expand(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${NOPE}", "NOPE is not set"),
        ("${A", "without its }"),
        ("${", "without its }"),
        ("${A:-${EMPTY}}", "without its }"),
        ("${}", "neither"),
        ("${a b}", "neither"),
        ("${A-x}", "neither"),
        ("${BYTES}", "not UTF-8"),
        ("${file:nope}", "No such file"),
        ("${file:}", "names no file"),
        ("${file:.}", "Is a directory"),
        ("${file:large}", "larger than"),
        ("${file:binary}", "not UTF-8"),
        ("${file:nul}", "NUL"),
    ],
)
def test_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE + 1))
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "nul").write_bytes(b"\0")
    with pytest.raises(InterpolationError, match=reason):
        Interpolator({**ENVIRON, "BYTES": "\udcff"}, tmp_path).expand(text)


@given(st.text("${}:-Afile/ \n.\0"))
def test_any_text_expands_or_is_refused(text: str) -> None:
    try:
        expanded = Interpolator(ENVIRON, Path("/nonexistent")).expand(text)
    except InterpolationError:
        return
    assert isinstance(expanded, Interpolated) or "${" not in text.replace("$${", "")


def test_files_are_remembered_for_the_watcher(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 40 + "\n")
    loaded = load_text("secret_key: ${file:key}\n" + OPEN, folder=tmp_path)
    assert loaded.files == (tmp_path / "config.yaml", tmp_path / "key")
    assert loaded.config.secret_key.get_secret_value() == "k" * 40
    assert "kkkk" not in repr(loaded)


def test_a_missing_variable_is_one_located_problem() -> None:
    assert problems("workers: ${NOPE}\nstore: ${NEITHER}\n" + OPEN) == [
        "1:10: workers: the environment variable NOPE is not set",
        "2:8: store: the environment variable NEITHER is not set",
    ]


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("limits: {headers: '${N}'}", {"N": "7"}),
        ("limits:\n  headers: ${N}", {"N": "7"}),
        ("limits:\n  headers: ${N:-7}", {}),
        ("version: ${V}\nworkers: ${W}\nlimits:\n  headers: ${N}", {"V": "1", "W": "1", "N": "7"}),
    ],
)
def test_numbers_may_be_filled_in(text: str, environ: dict[str, str]) -> None:
    assert load_text(f"{text}\n{OPEN}", environ).config.limits.headers == 7


def test_text_stays_text_where_text_is_wanted() -> None:
    text = OPEN + "consumers:\n  - username: ${U}\n    custom_id: ${U}\n"
    consumer = load_text(text, {"U": "12345"}).config.consumers[0]
    assert (consumer.username, consumer.custom_id) == ("12345", "12345")


SECRET = "hunter2 Correct-Horse/8'\"\\"


@pytest.mark.parametrize(
    "setting",
    [
        "guesses: {failures: '${S}'}",
        "max_staleness: ${S}",
        "limits: {header_bytes: '${S}'}",
        "limits: {headers: '${S}'}",
        "trusted_proxies: ['${S}']",
        "listen: {proxy: '${S}'}",
        "workers: ${S}",
        "store: ${S}",
        "counters: x${S}",
        "secret_key: ${S}",
        "credentials: {public_prefix: '${S}'}",
        "credentials: {public_prefix: '${S}', secret_prefix: '${S}'}",
        "paths: {encoded_slash: '${S}'}",
        "version: ${S}",
        "policies: {lists: '${S}'}",
        "policies: {door: '${S}'}",
        "policies: {door: {anonymous: '${S}'}}",
        "policies: {door: {kinds: ['${S}']}}",
        "policies: {lists: {allow: ['${S}']}}",
        "policies: {rules: {limits: ['${S}']}}",
        "consumers: [{username: '${S}'}, {username: '${S}'}]",
        "consumers: [{username: a, keys: [{name: '${S}', public: '${S}', secret_hash: '${S}'}]}]",
        "consumers: [{username: a, groups: ['${S}', '${S}'], organization: '${S}'}]",
        "tests: [{request: '${S}', as: '${S}', expect: {status: 200, route: '${S}'}}]",
        "services: [{name: '${S}', url: '${S}', routes: [{name: '${S}', hosts: ['${S}'], paths: ['${S}', '~(${S}']}]}]",
        "services: [{name: a, url: 'http://${S}', routes: [{name: a, headers: {Host: '${S}'}, methods: ['${S}']}]}]",
    ],
)
def test_what_was_filled_in_is_never_reported(setting: str) -> None:
    report = "\n".join(problems(setting, {"S": SECRET}))
    assert report
    for part in ("hunter2", "orrect", "orse"):
        assert part.lower() not in report.lower()


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("secret_key: ${S}", {"S": "short"}, "secret_key: is shorter than 32 characters"),
        ("secret_key: ${S}", {"S": "characters"}, "secret_key: is shorter than 32 characters"),
        ("paths: {encoded_slash: '${S}'}", {"S": "refused"}, "must be 'refuse' or 'keep' (did you mean refuse?)"),
        ("limits: {headers: '${S}'}", {"S": "number"}, "limits.headers: must be a whole number"),
        ("workers: ${S}", {"S": "available"}, "workers: must be a whole number or 'auto'"),
        # What was filled in elsewhere hides no word of a text that quotes something else.
        ("limits: {header_bytes: 9 cats}\nmax_staleness: ${S}", {"S": "4096"}, "'9 cats' is not a size such as 64KiB"),
        # A default stands in the file.
        (
            "store: ${S:-sqlite:///data/x}\nlimits: {header_bytes: '${S:-4096 cats}'}",
            {},
            "'${S:-4096 cats}' is not a size such as 64KiB, 1MB or 4096",
        ),
    ],
)
def test_our_own_words_stay(text: str, environ: dict[str, str], expected: str) -> None:
    assert expected in "\n".join(problems(f"{text}\n{OPEN}", environ))
