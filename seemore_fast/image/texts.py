"""Texts inside pictures: PNG's text chunks (titles, prompts, workflows), JPEG's and GIF's comments.

libvips reads the ones as Latin-1 or loses them, and does not know the others.
"""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from typing import IO

Texts = tuple[tuple[str, str], ...]
"""Keyword and text, in the file's order."""

KEPT_BY = ("PNG", "JPEG", "GIF")
"""Names of the formats that have a place for them."""

_MOST = 1 << 24  # bytes of one text
_COMMENT = "Comment"  # the keyword of what has none: PNG's own for it
# What libvips reads as XMP, EXIF and so on; it would be written twice.
_METADATA = re.compile(r"XML:com\.adobe\.xmp|Raw profile type .*")


def png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk; the file stands at its data."""
    at = 8
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        at += 12 + length


def animated_png(file: IO[bytes]) -> bool:
    """Whether a PNG has frames, which libvips does not tell: it reads the first."""
    for kind, _ in png_chunks(file):
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
    return False


def of_png(file: IO[bytes]) -> Texts:
    """The texts of a PNG; those that are damaged are left out."""
    found = []
    for kind, length in png_chunks(file):
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or length > _MOST:
            continue
        keyword, _, rest = file.read(length).partition(b"\0")
        name = keyword.decode("latin-1")
        try:
            if kind == b"tEXt":
                text = rest.decode("latin-1")
            elif kind == b"zTXt":
                text = _inflated(rest[1:]).decode("latin-1")
            else:
                _, _, rest_text = rest[2:].partition(b"\0")[2].partition(b"\0")
                text = (_inflated(rest_text) if rest[:1] == b"\1" else rest_text).decode()
        except (zlib.error, UnicodeDecodeError):
            continue
        if name and not _METADATA.fullmatch(name):
            found.append((name, text))
    return tuple(found)


def of_jpeg(data: bytes) -> Texts:
    """The comments before the first scan of a JPEG."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xFE:
            found.append(_comment(data[at + 4 : at + 2 + length].rstrip(b"\0")))
        at += 2 + length
    return tuple(found)


def of_gif(data: bytes) -> Texts:
    """The comments of a GIF, of all frames (GIF89a, 24)."""
    found = []
    try:
        at = 13 + palette(data[10])
        while data[at] in (0x21, 0x2C):
            kind = data[at : at + 2]
            at += 2 if data[at] == 0x21 else 11 + palette(data[at + 9])
            text = b""
            while length := data[at]:
                text += data[at + 1 : at + 1 + length] if kind == b"\x21\xfe" else b""
                at += 1 + length
            at += 1
            if text:
                found.append(_comment(text))
    except IndexError:  # of a damaged file, which is told elsewhere
        pass
    return tuple(found)


def palette(packed: int) -> int:
    """Bytes of the colour table that a GIF's flags announce."""
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0


def _comment(raw: bytes) -> tuple[str, str]:
    """Keyword and text, as `insert` writes what came from a PNG."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    keyword, separator, rest = text.partition(": ")
    named = separator and re.fullmatch(r"[\w .-]{1,79}", keyword) and keyword != _COMMENT
    return (keyword, rest) if named else (_COMMENT, text)


def insert(texts: Texts, source: IO[bytes], target: IO[bytes], format_name: str) -> None:
    """Copies the PNG, JPEG or GIF file ``source`` to ``target``, with ``texts`` in it."""
    if format_name == "PNG":
        target.write(source.read(33))  # signature and IHDR
        for keyword, text in texts:
            target.write(_png_text(keyword, text))
    elif format_name == "GIF":
        head = source.read(13)
        target.write(head + source.read(palette(head[10])))
        for keyword, text in texts:
            body = (text if keyword == _COMMENT else f"{keyword}: {text}").encode()
            pieces = (body[start : start + 255] for start in range(0, len(body), 255))
            target.write(b"\x21\xfe" + b"".join(bytes([len(p)]) + p for p in pieces) + b"\0")
    else:
        target.write(source.read(2))
        while (head := source.read(4))[:1] == b"\xff" and 0xE0 <= head[1] <= 0xEF:
            target.write(head + source.read(int.from_bytes(head[2:], "big") - 2))
        for keyword, text in texts:
            body = (text if keyword == _COMMENT else f"{keyword}: {text}").encode()
            for start in range(0, max(len(body), 1), 65533):
                piece = body[start : start + 65533]
                target.write(b"\xff\xfe" + struct.pack(">H", len(piece) + 2) + piece)
        target.write(head)
    shutil.copyfileobj(source, target, 1 << 20)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _png_text(keyword: str, text: str) -> bytes:
    name = keyword.encode("latin-1", "replace")[:79] or b"Comment"
    try:
        plain = text.encode("latin-1")
    except UnicodeEncodeError:
        return chunk(b"iTXt", name + b"\0\0\0\0\0" + text.encode("utf-8", "replace"))
    if len(plain) < 1024:
        return chunk(b"tEXt", name + b"\0" + plain)
    return chunk(b"zTXt", name + b"\0\0" + zlib.compress(plain))


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MOST)
