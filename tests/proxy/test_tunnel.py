"""`proxy/tunnel.py`: where frames end, and the closing frame of the gateway's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from gateway.proxy.tunnel import GOING_AWAY, POLICY_VIOLATION, Frames, closing_frame

SIZES = st.one_of(st.integers(0, 200), st.sampled_from([125, 126, 127, 65535, 65536, 70_000]))


def wire(size: int, mask: bool, final: bool) -> bytes:
    opcode = Opcode.BINARY if final else Opcode.CONT
    return Frame(opcode, b"x" * size, fin=final).serialize(mask=mask)


@given(st.lists(st.tuples(SIZES, st.booleans(), st.booleans()), max_size=6), st.data())
def test_frames_end_where_they_end_however_they_are_cut(
    frames: list[tuple[int, bool, bool]], data: st.DataObject
) -> None:
    pieces = [wire(*frame) for frame in frames]
    stream = b"".join(pieces)
    ends = {0}
    for piece in pieces:
        ends.add(max(ends) + len(piece))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)) | {len(stream)})
    tracker, at = Frames(), 0
    for cut in cuts:
        said = tracker.feed(stream[at:cut])
        inside = [end for end in ends if at < end <= cut]
        assert said == (max(inside) - at if inside else -1)
        at = cut
        assert tracker.between() == (at in ends)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("code", [GOING_AWAY, POLICY_VIOLATION])
def test_a_closing_frame_is_one(code: int, masked: bool) -> None:
    said = closing_frame(code, masked)
    assert bool(said[1] & 0x80) == masked
    size = said[1] & 0x7F
    payload = said[-size:]
    if masked:
        mask = said[2:6]
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    assert (said[0], len(said)) == (0x88, size + (6 if masked else 2))
    assert Close.parse(payload).code == code
    assert Frames().feed(said) == len(said)
