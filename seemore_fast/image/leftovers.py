"""Whether compressed data end where their picture does.

A decoder stops when it has enough pixels.  Of codes whose lengths vary, damage leaves some over, or too few.
Without the native library only WebP is looked at.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from seemore_fast.backends import native
from seemore_fast.image.formats import vips

TRIFLE = 16
"""Bytes behind the last code that need not come from damage."""

_LZW, _PACKBITS = 5, 32773
_YCBCR = 6
_LITTLE = 64  # bytes of a WebP's part that are too few to be shortened
_CUT = 12  # bytes by which a part is shortened: the VP8 encoders leave up to 5 behind their last bit


def in_tiff_piece(page: Any, number: int, data: bytes) -> bool:
    """Whether strip or tile ``number`` of a tifffile page, LZW or PackBits, is damaged."""
    if native.lib is None or page.compression not in (_LZW, _PACKBITS) or page.fillorder != 1:
        return False
    if page.photometric == _YCBCR or data[:2] in (b"\0\1", b"\0\3"):  # subsampled; LZW before TIFF 6.0
        return False
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    width, most = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    rows = most
    if not page.is_tiled:
        most = min(most, page.imagelength)
        rows = min(most, page.imagelength - number % math.ceil(page.imagelength / most) * most)
    row = math.ceil(width * samples * page.bitspersample / 8)
    walk = native.lib.packbits_length(data) if page.compression == _PACKBITS else _lzw(data, 8, gif=False)
    broken, produced, left = walk
    # Some encoders fill up the last strip.
    return bool(broken or produced not in (rows * row, most * row) or left > TRIFLE)


def in_gif_frame(data: bytes, bits: int, pixels: int) -> bool:
    """Whether a frame's codes, of literals of so many bits, are those of another number of pixels."""
    if native.lib is None or not 1 <= bits <= 8:
        return False
    broken, produced, _ = _lzw(data, bits, gif=True)
    return bool(broken or produced != pixels)


def _lzw(data: bytes, bits: int, *, gif: bool) -> tuple[bool, int, int]:
    found: tuple[bool, int, int] = native.require().lzw_length(data, bits, gif)
    return found


def in_webp(data: bytes) -> str:
    """What is wrong with a WebP's structure or the ends of its frames' data, in words; "": nothing.

    Its arithmetic and prefix codes have no end mark, but a sound frame cannot be decoded without its last
    bytes.
    """
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        return "it ends within its data"
    for number, (kind, frame) in enumerate(_frames(data)):
        if any(_decodes(kind, shorter) for shorter in _shortened(kind, frame)):
            return f"bytes are left over behind the data of frame {number}"
    return ""


def _frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, body in _chunks(data, 12):
        if kind == b"ANMF":
            yield from (part for part in _chunks(body, 16) if part[0] in (b"VP8 ", b"VP8L"))
        elif kind in (b"VP8 ", b"VP8L"):
            yield kind, body


def _chunks(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _shortened(kind: bytes, frame: bytes) -> Iterator[bytes]:
    """A frame's data without the last bytes of one of its parts (RFC 6386, 9.1)."""
    if len(frame) > _LITTLE:
        yield frame[:-_CUT]
    if kind == b"VP8L":
        return
    tag = int.from_bytes(frame[:3], "little")
    first = tag >> 5
    if _LITTLE < first < len(frame):
        shorter = (tag & 31 | first - _CUT << 5).to_bytes(3, "little")
        yield shorter + frame[3 : 10 + first - _CUT] + frame[10 + first :]


def _decodes(kind: bytes, frame: bytes) -> bool:
    body = b"WEBP" + kind + struct.pack("<I", len(frame)) + frame + bytes(len(frame) % 2)
    try:
        vips().Image.webpload_buffer(b"RIFF" + struct.pack("<I", len(body)) + body, fail_on="error").avg()
    except vips().Error:
        return False
    return True
