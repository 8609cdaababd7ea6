"""The file formats: what each can hold, how libvips calls it, and how a file of it begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Literal

from seemore_fast.errors import ImageError
from seemore_fast.system import machine


@dataclass(frozen=True)
class Format:
    """A file format.  ``loader`` and ``saver`` are libvips operations."""

    name: str
    loader: str
    saver: str
    max_side: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """What to save with; ``quality`` options replace and extend them."""
    quality: Mapping[str, Any] | None = None
    """What to save with at a given quality, in the place of None; None: the format has no quality."""
    sixteen_bits: bool = False
    gray: bool = True
    alpha: bool = True
    frames: Literal["", "libvips", "pillow"] = ""
    """Who reads and writes animations in it, if it holds any."""
    keeps_exif: bool = True
    pages: bool = False
    """Whether it holds several pictures that are no animation."""
    keeps_density: bool = True
    """Whether the format has a place for the resolution other than EXIF."""
    whole: bool = False
    """Whether it is read and written by others than libvips, all at once."""
    floats: bool = False
    """Whether it holds floating point: scene-linear light, not limited to 0..1."""


_SUB = 0x10  # PNG's filters: this one is nearly as good as trying all of them, and three times as fast
_PNG = Format(
    "PNG",
    "pngload",
    "pngsave",
    2**31 - 1,
    {"compression": 4, "filter": _SUB},
    sixteen_bits=True,
    frames="pillow",
)
# JPEG without chroma subsampling, WebP without loss: what the network drew should survive.
_JPEG = Format(
    "JPEG",
    "jpegload",
    "jpegsave",
    65_535,
    {"Q": 95, "subsample_mode": "off"},
    {"Q": None},
    alpha=False,
    keeps_density=False,  # libvips writes none to JFIF
)
_WEBP = Format(
    "WebP",
    "webpload",
    "webpsave",
    16_383,
    {"lossless": True},
    {"lossless": False, "Q": None},
    gray=False,
    frames="libvips",
    keeps_density=False,
)
_TIFF = Format(
    "TIFF",
    "tiffload",
    "tiffsave",
    2**31 - 1,
    {"compression": "deflate", "predictor": "horizontal"},
    sixteen_bits=True,
    keeps_exif=False,
    pages=True,
    floats=True,
)
_AVIF = Format(
    "AVIF",
    "heifload",
    "heifsave",
    16_384,
    {"compression": "av1", "Q": 90, "subsample_mode": "off"},
    {"Q": None},
    sixteen_bits=True,
    gray=False,
    frames="pillow",
    keeps_density=False,
)
_GIF = Format(
    "GIF", "gifload", "gifsave", 65_535, gray=False, frames="libvips", keeps_exif=False, keeps_density=False
)
_BMP = Format("BMP", "", "", 2**31 - 1, alpha=False, keeps_exif=False, whole=True)
_JXL = Format("JPEG XL", "", "", 2**30 - 1, quality={}, whole=True, keeps_density=False)
_HEIC = Format(
    "HEIC", "", "", 16_384, quality={}, whole=True, sixteen_bits=True, gray=False, keeps_density=False
)
_EXR = Format("OpenEXR", "", "", 2**31 - 1, keeps_exif=False, whole=True, floats=True, keeps_density=False)

FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": _AVIF,
    ".gif": _GIF,
    ".jpe": _JPEG,
    ".jfif": _JPEG,
    ".bmp": _BMP,
    ".dib": _BMP,
    ".jxl": _JXL,
    ".heic": _HEIC,
    ".heif": _HEIC,
    ".exr": _EXR,
}
"""File name suffix -> format, for every format that can be read and written."""

_OTHERS = """
apng dds emf eps hdr heics heifs ico icns j2c j2k jif jng jp2 jpf jpm jpx jxr mng pam pbm pcx pfm pgm pict
pnm ppm psb psd qoi sgi svg svgz tga wbmp wdp wmf xbm xcf xpm
"""
_RAW = "3fr arw cr2 cr3 dng erf kdc mrw nef nrw orf pef raf raw rw2 sr2 srw x3f"
RAW = frozenset(f".{name}" for name in _RAW.split())
"""Suffixes of what cameras record before it is a picture; many look like TIFF inside."""

OTHER_PICTURES = frozenset(f".{name}" for name in _OTHERS.split()) | RAW
"""Suffixes of pictures that are neither read nor written."""

NAMES = "PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, JPEG XL, HEIC or OpenEXR"

HEAD = 1 << 16
"""Bytes of a file that `sniff` wants to see."""


_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)}


def sniff(head: bytes) -> Format | None:
    """The format of a file that begins with ``head``."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _PNG
    if head.startswith(b"\xff\xd8\xff"):
        return _JPEG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _WEBP
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _TIFF
    if head[4:8] == b"ftyp" and {b"avif", b"avis"} & brands(head):
        return _AVIF
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _GIF
    if head.startswith((b"\xff\n", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return _JXL
    if head[4:8] == b"ftyp" and {b"heic", b"heix", b"heim", b"heis", b"mif1"} & brands(head):
        return _HEIC
    if head.startswith(b"v/1\x01"):
        return _EXR
    # Two letters are little; the size of the next header, and reserved zeros, are asked too.
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0" and head[14:18] in _BMP_HEADERS:
        return _BMP
    return None


def brands(head: bytes) -> set[bytes]:
    """What a file of boxes (AVIF, HEIF) says that it is; ``avis`` is a sequence of pictures."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}


@cache
def vips() -> ModuleType:
    """pyvips, set up for us.  Raises ImageError if it is not there or does not load."""
    if machine.limited() and short_of_memory(_LIBVIPS):
        raise ImageError("not enough memory to load libvips")
    try:
        import pyvips
    except (ImportError, OSError) as error:
        if short_of_memory(_LIBVIPS):
            raise ImageError("not enough memory to load libvips") from None
        raise ImageError(f"reading and writing pictures needs pyvips[binary] ({error})") from None
    # Its cache knows files by their names only, and would give the old content of one that has changed.
    pyvips.cache_set_max(0)
    if machine.limited():
        pyvips.concurrency_set(1)  # each thread takes room for its stack
    logging.getLogger("pyvips").addHandler(_remarks)
    return pyvips


_THREADS = 256 << 20
"""So many bytes of a bounded address space: the C library sets 64 MB aside for each thread that allocates."""
_LIBVIPS = 64 << 20  # bytes of address space that it takes
_CODEC = 48 << 20  # bytes that decoders and encoders may take beside the pixels


def short_of_memory(pixels: int) -> bool:
    """Whether ``pixels`` bytes and a codec's own do not fit.

    To be asked first: GLib, under libvips, ends the process where an allocation fails.
    """
    return machine.free_memory() < pixels + (_THREADS if machine.limited() else _CODEC)


def reason(error: Exception, unknown: str | None = None) -> str:
    """libvips's message in one short line; ``unknown`` where it has none."""
    detail = getattr(error, "detail", str(error))
    lines = [line.strip() for line in str(detail).splitlines() if line.strip()]
    for line in lines:  # the operating system's word says more: "No space left on device"
        if line.startswith("system error: ") and "Unknown error" not in line:
            return line.removeprefix("system error: ")
    return lines[0] if lines else type(error).__name__ if unknown is None else unknown


class _Remarks(logging.Handler):
    """Takes libvips's warnings off the terminal; keeps those that tell of damaged JPEG data inside a TIFF."""

    def __init__(self) -> None:
        super().__init__()
        self.damage = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().removeprefix("VIPS: ")
        if text.startswith(("Corrupt JPEG data", "Premature end of JPEG")):
            self.damage = text


_remarks = _Remarks()


def clear_errors() -> None:
    """Empties libvips's record of errors, which it keeps even where an operation then succeeds."""
    vips().vips_lib.vips_error_clear()
    _remarks.damage = ""


def pending_errors() -> str:
    """What the decoder of TIFF recorded since `clear_errors`, though it went on; "": nothing."""
    import pyvips

    text: str = pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.startswith("tiff2vips:")]
    return lines[0] if lines else _remarks.damage
