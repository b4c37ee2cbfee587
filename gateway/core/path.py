"""The canonical path: the one reading of a request's path that is both matched and forwarded (contract §2, Paths).

Law: matching one reading and serving another is how gateways are walked around, so there is exactly one.
What is only a matter of spelling is brought to one spelling; what two servers could read in two ways is
refused.  Pure functions over plain values; an ordinary path costs one regular expression and a decode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class PathRules:
    """The configuration's `paths:`.

    `encoded_slash` - "refuse": `%2F` in a path is a 400.  "keep": it stays `%2F`, is matched as an ordinary
    character of its segment and is forwarded as it is; dot segments beside it are still refused.
    `merge_slashes` - True: `//` is read as `/`.  False: empty segments are kept, matched and forwarded.
    """

    encoded_slash: Literal["refuse", "keep"] = "refuse"
    merge_slashes: bool = True


DEFAULT: Final = PathRules()


class PathError(ValueError):
    """A path that is refused with 400; the text says why and holds nothing of the path itself."""


_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

#: Canonical already under any rules: no escape, no `;`, no empty segment, none that begins with a dot.
_is_ordinary: Final = re.compile(
    rb"(?:/[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-._~!$&'()*+,=:@]*+)++/?|/",
).fullmatch

#: What may not stand in a path as it is: controls, space, DEL and beyond, backslash, `#` and `?`.
_find_illegal: Final = re.compile(r"[\x00-\x20\x7f-\U0010ffff\\#?]").search

#: Every escape, a lone `%`, and what is printable but no pchar (RFC 3986 §3.3).
_rewrite: Final = re.compile(r'%(?:[0-9A-Fa-f]{2})?|["<>^`{|}\[\]]').sub

#: `..;` anywhere, and `.;` as the beginning of a segment: a servlet container reads a dot segment.
_find_parameters: Final = re.compile(r"\.\.(?:;|%3B)|(?:/|%2F)\.(?:;|%3B)").search

_split_encoded: Final = re.compile("%2F").split

_LITERAL: Final = {character: f"%{ord(character):02X}" for character in '"<>^`{|}[]'}


def _escape_spellings() -> dict[str, str]:
    """Every spelling of every allowed escape, to its canonical form; `%2F` is judged by the caller."""
    spellings = dict(_LITERAL)
    for code in range(0x20, 0x100):
        if code in (0x5C, 0x7F):
            continue
        canonical_form = chr(code) if chr(code) in _UNRESERVED else f"%{code:02X}"
        digits = f"{code:02X}"
        high, low = digits[0], digits[1]
        for spelling in {digits, digits.lower(), high.lower() + low, high + low.lower()}:
            spellings["%" + spelling] = canonical_form
    return spellings


_SPELLINGS: Final = _escape_spellings()


def _respell(found: re.Match[str]) -> str:
    written = found[0]
    spelling = _SPELLINGS.get(written)
    if spelling is not None:
        return spelling
    if written == "%":
        raise PathError("the path holds a broken percent escape")
    if written.lower() == "%5c":
        raise PathError("the path holds an encoded backslash")
    raise PathError("the path holds an encoded control character")


def canonical(raw: bytes, rules: PathRules = DEFAULT) -> str:
    """The canonical form of the path part of a request target (what stands before `?`).

    Takes the bytes as they came and returns ASCII text that begins with `/` and holds no dot segment, no
    control character, no quote and no backslash.  `canonical(canonical(x)) == canonical(x)`.
    Raises PathError for what must be answered 400.
    """
    if _is_ordinary(raw) is not None:
        return raw.decode("ascii")
    return _canonical(raw.decode("latin-1"), rules)


def _canonical(text: str, rules: PathRules) -> str:
    if not text.startswith("/"):
        raise PathError("the path does not begin with /")
    if _find_illegal(text) is not None:
        raise PathError("the path holds a character that is not allowed there")
    spelled = _rewrite(_respell, text)
    keeps_slashes = "%2F" in spelled
    if keeps_slashes and rules.encoded_slash == "refuse":
        raise PathError("the path holds an encoded slash")
    if _find_parameters(spelled) is not None:
        raise PathError("the path holds a dot segment with parameters")
    raw_segments = text.split("/")[1:]
    segments = spelled.split("/")[1:]
    for raw_segment, segment in zip(raw_segments, segments, strict=True):
        if segment in (".", "..") and raw_segment != segment:
            raise PathError("the path holds an encoded dot segment")
        if keeps_slashes and "%2F" in segment and any(part in (".", "..") for part in _split_encoded(segment)):
            raise PathError("the path holds a dot segment beside an encoded slash")
    return _remove_dot_segments(segments, rules.merge_slashes)


def _remove_dot_segments(segments: list[str], merge_slashes: bool) -> str:
    """RFC 3986 §5.2.4, save that climbing above the root is refused; with merging, empty segments do not count."""
    last = segments[-1]
    kept: list[str] = []
    for segment in segments[:-1] if last in ("", ".", "..") else segments:
        if segment == "..":
            if not kept:
                raise PathError("the path climbs above /")
            kept.pop()
        elif segment != "." and (segment or not merge_slashes):
            kept.append(segment)
    if last == "..":
        if not kept:
            raise PathError("the path climbs above /")
        kept.pop()
    if last in ("", ".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


#: What may come to stand at the front when a prefix is cut off in the middle of a segment: `../x` of `/a../x`.
_cut_dots = re.compile(r"/?(?:\.{1,2}(?:(?:;|%3B)[^/]*|%2F|(?=/|$)))+").match


def join_upstream(service_path: str, path: str, matched: int, strip: bool) -> str:
    """The path that the upstream gets.

    `service_path` is the path of the service's URL, canonical (or empty); `path` is the request's canonical
    path, of which the route matched the first `matched` characters; `strip` is the route's `strip_path`.
    Returns the service's path followed by the request's path, less the matched part where `strip` is true:

    * exactly one `/` stands between the two;
    * a request for `/` itself is the service's path as it is written, with or without its last `/`;
    * when everything was cut off, the result ends in `/` if and only if the request's path did;
    * dot segments that the cut brings to the front (`/a../x` less `/a`) are dropped: they never climb
      above the service's path.

    The result is canonical.  Never raises.
    """
    if not strip and (service_path == "/" or not service_path):
        return path
    if path == "/":
        return service_path or "/"
    base = service_path.removesuffix("/")
    if not strip:
        return base + path
    rest = path[matched:]
    if not rest:
        return base + "/" if path.endswith("/") else base or "/"
    if rest[0] != "/":
        # The cut went through a segment, whose second half may read as a dot segment.
        dots = _cut_dots(rest)
        if dots is not None:
            rest = rest[dots.end() :]
        if not rest.startswith("/"):
            rest = "/" + rest
    return base + rest
