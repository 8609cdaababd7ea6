"""Damaged files: what their containers show to be missing, and what a decoder's warning means.

Decoders fill what they do not find with gray or black, mostly without a word.  A file of which rows, tiles,
scans or frames are missing is refused; where the decoder found its way again, the picture gets a note.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from seemore_fast.backends import native
from seemore_fast.image import jpeg_scans, leftovers, texts
from seemore_fast.image.formats import Format, pending_errors

STRICT = {"JPEG": "warning", "TIFF": "warning", "GIF": "warning"}
"""Format name -> what libvips is to fail at; elsewhere errors.  At errors alone it leaves out tiles of TIFF
and rows of JPEG silently; where it does not, warnings are remarks on metadata."""

_DEFLATE, _JPEG = (8, 32946), 7
_REDUCED, _MASK = 1, 4


@dataclass(frozen=True)
class Damage:
    """``lost``: part of the picture is missing.  Otherwise all is there, perhaps blemished: ``text`` tells;
    "" where there is nothing to tell."""

    lost: bool
    text: str
    hopeless: bool = False
    """Whether nothing worth having can be decoded."""


def in_container(file: IO[bytes], format_: Format) -> Damage | None:
    """What the structure of the file shows, without decoding it; None: nothing is wrong."""
    file.seek(0)
    if format_.name == "JPEG":
        return _in_jpeg(file.read())
    if format_.name == "GIF":
        return _in_gif(file.read())
    if format_.name == "TIFF":
        return _in_tiff(file)
    if format_.name == "AVIF":
        return _in_boxes(file)
    if format_.name == "WebP":
        return Damage(True, found) if (found := leftovers.in_webp(file.read())) else None
    return None


def meaning(warning: str, file: IO[bytes], format_: Format) -> Damage:
    """What it means that the strict decoder stopped with ``warning`` ("": a remark on metadata)."""
    if format_.name == "TIFF" and not warning:
        return Damage(bool(left := pending_errors()), left)
    if format_.name != "JPEG":
        return Damage(True, warning)
    if re.search("extraneous bytes|Adobe|ICC", warning):
        return Damage(False, warning)
    file.seek(0)
    restarts = jpeg_scans.restarts(file.read())
    return Damage(not restarts, warning)


def _in_jpeg(data: bytes) -> Damage | None:
    if too_few := jpeg_scans.implausible(data):
        return Damage(True, too_few, hopeless=True)
    fault = jpeg_scans.fault(data)
    return Damage(True, fault) if fault else _in_jpeg_codes(data)


def _in_jpeg_codes(data: bytes) -> Damage | None:
    """What the codes show, where there is the native library: the decoder stops at its last block."""
    if native.lib is None:
        return None
    kind, at, units, left = native.lib.jpeg_fault(data)
    if not kind:
        return None
    said = {
        "short": "its data end before its blocks do",
        "left": f"{left} bytes are left over behind its blocks",
        "padding": f"{left} bytes of nothing are left over behind its blocks",
        "sequence": "its restart markers are out of order",
    }.get(kind, "its data are no picture's")
    confined = jpeg_scans.restarts(data)
    where = "" if confined or kind not in ("code", "range") or not at else f" from block {at} of {units} on"
    # A few bytes that an encoder left behind harm nothing.
    harmless = confined or kind == "padding" or (kind == "left" and left <= leftovers.TRIFLE)
    return Damage(not harmless, said + where)


def _in_gif(data: bytes) -> Damage | None:
    """Walks the blocks: libvips shows the frames that are whole, and says nothing of the rest."""

    def blocks(at: int) -> tuple[bytes, int]:
        """What they hold, and where they end."""
        parts = []
        while data[at]:
            parts.append(data[at + 1 : at + 1 + data[at]])
            at += 1 + data[at]
        return b"".join(parts), at + 1

    frame = 0
    try:
        at = 13 + texts.palette(data[10])
        while at < len(data):
            kind = data[at]
            if kind == 0x3B:
                return None
            if kind == 0x21:
                at = blocks(at + 2)[1]
            elif kind == 0x2C:
                width, height, packed = struct.unpack_from("<HHB", data, at + 5)
                bits = data[at + 10 + texts.palette(packed)]
                codes, at = blocks(at + 11 + texts.palette(packed))
                if leftovers.in_gif_frame(codes, bits, width * height):
                    return Damage(True, f"frame {frame} is damaged")
                frame += 1
            elif kind == 0:
                at += 1
            else:
                return Damage(True, "its frames are followed by something else")
    except (IndexError, struct.error):
        return Damage(True, "it ends within a frame")
    return Damage(False, "its end mark is missing, and perhaps frames before it")


def _in_boxes(file: IO[bytes]) -> Damage | None:
    """Whether the outermost boxes of an AVIF end where the file does (ISO/IEC 14496-12, 4.2)."""
    end, at = file.seek(0, 2), 0
    while at < end:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length == 0:  # it goes to the end
            return None
        if length < 8 or at + length > end:
            return Damage(True, "it ends within its data")
        at += length
    return None


def tiff_pages(file: IO[bytes]) -> tuple[int, int]:
    """The first full picture of a TIFF and how many there are: thumbnails, masks and reduced copies are none.

    Pages between which such lie, or of different kinds, are for libvips to refuse.
    """
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its remarks would reach the terminal
    try:
        file.seek(0)
        with tifffile.TiffFile(file, name="tiff") as tiff:
            full = [i for i, page in enumerate(tiff.pages) if not _subfile(page) & (_REDUCED | _MASK)]
    except Exception:  # of any kind, for what only libtiff understands: libtiff decides
        full = []
    return (full[0], full[-1] + 1 - full[0]) if full else (0, 1)


def _subfile(page: Any) -> int:
    """NewSubfileType: a frame after the first is a page like it unless it has a tag of its own."""
    tags = getattr(page, "tags", None) or page.aspage().tags
    return int(tags.valueof(254, default=0))


def _in_tiff(file: IO[bytes]) -> Damage | None:
    """Deflate's checksums, which libtiff does not ask of strips, and the ends of other codes."""
    import tifffile

    first, count = tiff_pages(file)
    file.seek(0)
    try:
        with tifffile.TiffFile(file, name="tiff") as tiff:  # it has no use for numbers, as pipes have
            for index in range(first, first + count):
                page: Any = tiff.pages.get(index)
                for number, data in enumerate(_pieces(file, page)):
                    if _in_piece(page, number, data):
                        return Damage(True, f"strip or tile {number} of {len(page.dataoffsets)} is damaged")
    except Exception:  # of any kind, for what only libtiff understands: libtiff decides
        return None
    return None


def _in_piece(page: Any, number: int, data: bytes) -> bool:
    if page.compression in _DEFLATE:
        try:
            zlib.decompress(data)
        except zlib.error:
            return True
    if page.compression == _JPEG:
        found = _in_jpeg_codes((page.jpegtables or b"")[:-2] + data[2 if page.jpegtables else 0 :])
        return found is not None and found.lost
    return leftovers.in_tiff_piece(page, number, data)


def _pieces(file: IO[bytes], page: Any) -> Iterator[bytes]:
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        yield file.read(length)
