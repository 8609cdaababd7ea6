"""Animated PNG and AVIF, of which libvips knows the first frame only.  GIF and WebP are libvips's own.

Pillow reads both, as a viewer shows them, and writes AVIF.  PNGs are put together from libvips's: Pillow
would join frames that are alike.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import features

from seemore_fast.errors import ImageError
from seemore_fast.image import texts
from seemore_fast.image.formats import HEAD, Format, brands, vips
from seemore_fast.image.picture import PROFILE, Animation, Image, profile_fits, upright

_ORIENTATION = 0x0112
_FAULTS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    struct.error,
    Pillow.DecompressionBombError,
)


class Damaged(Exception):
    """Frames that cannot be decoded, and why; ``whole`` of them can."""

    def __init__(self, reason: str, whole: int):
        super().__init__(reason)
        self.whole = whole


def unreadable(head: bytes, format_: Format) -> str:
    """Why animations of this kind cannot be read here; "": they can, or ``head`` does not begin one."""
    if format_.name == "AVIF" and b"avis" in brands(head) and not features.check("avif"):
        return "an animated AVIF, which this Pillow cannot read; version 11.3 from PyPI can"
    return ""


@contextmanager
def opened(file: IO[bytes], format_: Format) -> Iterator[Any]:
    """The animation, of which no frame is decoded yet, as Pillow has it; None: the file is none.

    Raises Damaged where not even its header can be read.
    """
    file.seek(0)
    moving = texts.animated_png(file) if format_.name == "PNG" else b"avis" in brands(file.read(HEAD))
    if not moving:
        yield None
        return
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own limit of pixels: ours is asked
        try:
            animation = Pillow.open(file, formats=[format_.name])
        except _FAULTS as error:
            raise Damaged(_worded(error), 0) from None
        yield animation if getattr(animation, "n_frames", 1) > 1 else None


def count(animation: Any) -> int:
    """Frames, without the still picture that stands in for them where a PNG has one."""
    return int(animation.n_frames) - _skipped(animation)


def read(file: IO[bytes], animation: Any, most: int | None = None) -> Image:
    """All frames, or the first ``most``, stacked.  Raises Damaged."""
    try:
        exif = animation.getexif()
    except _FAULTS as error:  # it decodes the first frame
        raise Damaged(_worded(error), 0) from None
    blobs = {"icc": animation.info.get("icc_profile"), "xmp": animation.info.get("xmp")}
    orientation = exif.pop(_ORIENTATION, 1)
    png = animation.format == "PNG"
    deep = png and _bits(file) == 16
    fault = _png_fault(file) if png and most is None else ""
    loop = int(animation.info.get("loop", 0))  # AVIF's is not told
    skipped = _skipped(animation)
    decoded: list[Pillow.Image] = []
    delays = []
    for index in range(skipped, skipped + (count(animation) if most is None else most)):
        try:
            animation.seek(index)
            frame = animation.convert(_plain_mode(animation))
        except _FAULTS as error:
            raise Damaged(_worded(error), len(decoded)) from None
        decoded.append(frame)
        delays.append(round(float(animation.info.get("duration", 100))))
    if fault:
        raise Damaged(fault, len(decoded))
    modes = "".join(frame.mode for frame in decoded)
    mode = ("RGB" if "RGB" in modes else "L") + ("A" if "A" in modes else "")
    frames = [np.atleast_3d(np.asarray(frame.convert(mode))) for frame in decoded]
    pixels = np.concatenate([upright(frame, orientation) for frame in frames])
    if blobs["icc"] and not profile_fits(blobs["icc"], pixels.shape[2]):
        del blobs["icc"]
    names = {"icc": PROFILE, "xmp": "xmp-data", "exif": "exif-data"}
    blobs["exif"] = exif.tobytes() if len(exif) else None
    metadata = {names[kind]: (vips().GValue.blob_type, data) for kind, data in blobs.items() if data}
    return Image(
        pixels,
        metadata,
        _density(animation),
        Animation(len(decoded), tuple(delays), loop),
        ("reduced from 16 bits a channel to 8, as animations are",) if deep else (),
        texts.of_png(file) if png else (),
    )


def write_png(target: IO[bytes], like: Animation, encoded: Callable[[int], bytes]) -> None:
    """Puts ``encoded(i)``, a PNG file of each frame, together (PNG specification, third edition)."""
    number, size = 0, b""
    for index, delay in enumerate(like.delays):
        begun = False
        for kind, data in _chunks(encoded(index)):
            if kind == b"IDAT":
                if not begun:
                    target.write(texts.chunk(b"fcTL", _control(number, size, delay)))
                    number, begun = number + 1, True
                if index == 0:
                    target.write(texts.chunk(kind, data))
                else:
                    target.write(texts.chunk(b"fdAT", struct.pack(">I", number) + data))
                    number += 1
            elif kind == b"IHDR":
                size = data[:8]
                if index == 0:
                    target.write(_SIGNATURE + texts.chunk(kind, data))
                    target.write(texts.chunk(b"acTL", struct.pack(">II", like.frames, like.loop)))
            elif index == 0 and kind != b"IEND":
                target.write(texts.chunk(kind, data))
    target.write(texts.chunk(b"IEND", b""))
    target.flush()


def write_avif(target: IO[bytes], like: Image, pixels: NDArray[Any], quality: int) -> None:
    """Stacked frames (H * frames, W, 3 or 4) uint8 -> an animated AVIF.

    Raises OSError; ImageError where this Pillow has no AVIF.
    """
    if not features.check("avif"):
        raise ImageError("this Pillow writes no AVIF; version 11.3 from PyPI does")
    animation = like.animation
    assert animation is not None
    options: dict[str, Any] = {"quality": quality, "subsampling": "4:4:4", "duration": list(animation.delays)}
    for option, name in (("icc_profile", PROFILE), ("exif", "exif-data"), ("xmp", "xmp-data")):
        if name in like.metadata:
            options[option] = like.metadata[name][1]
    if "exif" in options:  # the pixels are upright; and Pillow crashes of a turned animation
        exif = Pillow.Exif()
        exif.load(options["exif"])
        exif.pop(_ORIENTATION, None)
        options["exif"] = exif.tobytes()
    first, *others = (Pillow.fromarray(frame) for frame in np.split(pixels, animation.frames))
    first.save(target, "AVIF", save_all=True, append_images=others, **options)
    target.flush()


_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _control(number: int, size: bytes, delay: int) -> bytes:
    """A frame's fcTL: all of the canvas, which it replaces, for ``delay`` ms."""
    time = (delay, 1000) if delay < 1 << 16 else (min(delay // 1000, 65535), 1)
    return struct.pack(">I", number) + size + struct.pack(">IIHHBB", 0, 0, *time, 0, 0)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    file = io.BytesIO(png)
    for kind, length in texts.png_chunks(file):
        yield kind, file.read(length)


def _plain_mode(frame: Any) -> str:
    """L, LA, RGB or RGBA: the least that holds the frame."""
    gray = frame.mode in ("1", "L", "LA", "La") or frame.mode.startswith("I")
    return ("L" if gray else "RGB") + ("A" if frame.has_transparency_data else "")


def _skipped(animation: Any) -> int:
    return int(bool(animation.info.get("default_image")))


def _density(animation: Any) -> tuple[float, float] | None:
    dpi = animation.info.get("dpi")
    return (dpi[0] / 25.4, dpi[1] / 25.4) if dpi and min(dpi) > 0 else None


def _bits(png: IO[bytes]) -> int:
    png.seek(24)
    return png.read(1)[0]


def _png_fault(file: IO[bytes]) -> str:
    """What checksums and the end mark show, which Pillow does not ask; "": nothing."""
    for kind, length in texts.png_chunks(file):
        data, check = file.read(length), file.read(4)
        if zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big") != check:
            return f"the checksum of its {kind.decode('latin-1')} data is wrong"
        if kind == b"IEND":
            return ""
    return "it ends within a frame"


def _worded(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
