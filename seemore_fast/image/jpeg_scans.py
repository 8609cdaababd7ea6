"""The structure of a JPEG file (ITU-T T.81): its scans and restart intervals, without decoding them.

libjpeg fills what is missing with gray, and a file may be closed by a proper end all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ENTROPY_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


@dataclass
class _Component:
    horizontal: int
    vertical: int
    bits: list[int | None] = field(default_factory=lambda: [None] * 64)
    """Of each coefficient, the lowest bit that came so far; None: nothing came."""


@dataclass
class _Scan:
    units: int  # MCUs
    blocks: int
    interval: int
    data: bytes

    def reached(self) -> int:
        """How many restart markers were passed, counting those that their numbers show to be lost."""
        passed = 0
        for marker in _RESTART.finditer(self.data):
            passed += (marker[1][0] - 0xD0 - passed) % 8 + 1
        return passed

    def expected(self) -> int:
        return -(-self.units // self.interval) - 1 if self.interval else 0


@dataclass
class _File:
    width: int
    height: int
    huffman: bool
    progressive: bool
    components: dict[int, _Component]
    scans: list[_Scan]


def implausible(data: bytes) -> str | None:
    """Why so few bytes cannot be so many pixels, which would take long to decode; None: they can."""
    file = _parse(data)
    if file is None or not file.scans or not file.huffman:
        return None
    first = file.scans[0]
    # A block takes at least a bit of its first scan.
    if 8 * len(first.data) < first.blocks:
        return f"{len(first.data)} bytes of data cannot be {file.width}x{file.height} pixels"
    return None


def fault(data: bytes) -> str | None:
    """What is missing in the JPEG file ``data``; None: nothing that its structure shows."""
    file = _parse(data)
    if file is None or not file.scans:
        return None  # the decoder says it better
    for scan in file.scans:
        if scan.interval and scan.reached() < scan.expected():
            return "its last rows are missing"
    lacks = [
        key
        for key, component in file.components.items()
        if (component.bits[0] is None) or (file.progressive and any(bit != 0 for bit in component.bits))
    ]
    return "its last scans are missing" if lacks else None


def restarts(data: bytes) -> bool:
    """Whether restart markers allow the decoder to find its way again behind damage."""
    file = _parse(data)
    return file is not None and bool(file.scans) and all(scan.expected() > 0 for scan in file.scans)


def _parse(data: bytes) -> _File | None:
    """Frame and scans of the file's first picture; None where it cannot be told."""
    file: _File | None = None
    interval, at = 0, 2
    try:
        while at < len(data):
            if data[at] != 0xFF:
                at += 1  # garbage between segments, which decoders skip, too
                continue
            marker = data[at + 1]
            if marker == 0xD9:
                break
            if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
                at += 1 if marker == 0xFF else 2
                continue
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            body = data[at + 4 : at + 2 + length]
            at += 2 + length
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                file = _frame(marker, body)
            elif marker == 0xDD:
                interval = int.from_bytes(body[:2], "big")
            elif marker == 0xDA:
                found = _ENTROPY_END.search(data, at)
                end = found.start() if found else len(data)
                if file is None or not file.height:
                    return None
                file.scans.append(_scan(file, body, interval, data[at:end]))
                at = end
    except (IndexError, KeyError, ZeroDivisionError):
        return None
    return file


def _frame(marker: int, body: bytes) -> _File:
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    components = {
        body[i]: _Component(body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)
    }
    return _File(width, height, marker < 0xC8, marker in (0xC2, 0xCA), components, [])


def _scan(file: _File, body: bytes, interval: int, data: bytes) -> _Scan:
    count = body[0]
    parts = [file.components[body[1 + 2 * i]] for i in range(count)]
    low, high, bit = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    for part in parts:
        for k in range(low, min(high, 63) + 1):
            part.bits[k] = bit
    widest = max(part.horizontal for part in file.components.values())
    tallest = max(part.vertical for part in file.components.values())

    def units(horizontal: int, vertical: int) -> int:
        """Blocks of 8x8, each standing for so many in the picture's largest component."""
        across = -(-file.width * horizontal // (8 * widest))
        return across * -(-file.height * vertical // (8 * tallest))

    if count == 1:
        mcus = units(parts[0].horizontal, parts[0].vertical)
        return _Scan(mcus, mcus, interval, data)
    mcus = units(1, 1)
    return _Scan(mcus, mcus * sum(p.horizontal * p.vertical for p in parts), interval, data)
