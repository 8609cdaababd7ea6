"""Pictures on disk <-> numpy arrays: PNG, JPEG and WebP, 8 bits a channel, with their colour profile.

An array is (H, W, C) uint8 with C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; alpha is straight
(not premultiplied), 255 opaque.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from .atomic import atomic_path
from .errors import ImageError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File name suffix -> format, for every format that can be read and written."""

MAX_PIXELS = 100_000_000
"""Default limit of `read`: 100 megapixels are 1.6 gigapixels after x4."""

PILLOW_MAX_PIXELS = 178_956_970
"""Pillow refuses larger pictures by itself, so no limit above this one has an effect."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_MAX_SIDE = {"JPEG": 65_535, "WEBP": 16_383}
# JPEG without chroma subsampling and WebP without loss: what the network drew should survive.
_SAVE_OPTIONS = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}


@dataclass(frozen=True, eq=False)
class Image:
    """A picture: ``pixels`` (H, W, C) uint8, C from 1 to 4, and its ICC profile, if it has one."""

    pixels: NDArray[np.uint8]
    icc_profile: bytes | None = None

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.shape[2] in (2, 4)

    @property
    def transparent(self) -> bool:
        """Whether any pixel is not opaque."""
        return self.has_alpha and bool(self.pixels[..., -1].min() < 255)


def read(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Reads a PNG, JPEG or WebP file, turned upright as its EXIF orientation says.

    Palettes become RGB, bilevel becomes gray (with alpha where transparent), CMYK becomes RGB.  The ICC
    profile is kept if it still describes the array.

    Raises ImageError if the file is missing, damaged, of another format, 16 bits a channel, animated, or of
    more than ``max_pixels`` (at most `PILLOW_MAX_PIXELS`).
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # The limit below says it better than Pillow's warning.
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            file = Pillow.open(path, formats=("PNG", "JPEG", "WEBP"))
    except Pillow.UnidentifiedImageError:
        raise ImageError(f"{path}: not a PNG, JPEG or WebP image") from None
    except Pillow.DecompressionBombError:
        raise ImageError(f"{path}: more than {PILLOW_MAX_PIXELS // 10**6} megapixels") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or 'truncated or damaged'}") from None
    with file:
        _check_readable(path, file, max_pixels)
        try:
            file.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{path}: truncated or damaged ({error})") from None
        return _from_pillow(_upright(file))


def _check_readable(path: Path, file: Pillow.Image, max_pixels: int) -> None:
    width, height = file.size
    if width * height > max_pixels:
        limit = f"the limit of {max_pixels / 1e6:g} megapixels"
        raise ImageError(f"{path}: {width}x{height} is over {limit}; raise max_pixels (--max-megapixels)")
    # A phone's JPEG may carry further views (MPO); its first frame is the photograph.
    if getattr(file, "n_frames", 1) > 1 and file.format != "MPO":
        raise ImageError(f"{path}: animated ({file.n_frames} frames); only still images are supported")
    if file.format == "PNG" and _png_bit_depth(path) == 16:
        raise ImageError(f"{path}: 16 bits a channel; only 8-bit images are supported, convert it first")


def _png_bit_depth(path: Path) -> int:
    """Bit depth of the header: Pillow cuts 16-bit colour to 8 bits without a word."""
    with path.open("rb") as file:
        return file.read(25)[24]


def _upright(file: Pillow.Image) -> Pillow.Image:
    try:
        return ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError):  # damaged EXIF, sound pixels
        return file


def _from_pillow(picture: Pillow.Image) -> Image:
    gray = picture.mode in ("1", "L", "LA")
    mode = ("L" if gray else "RGB") + ("A" if picture.has_transparency_data else "")
    pixels = np.asarray(picture.convert(mode))
    icc = picture.info.get("icc_profile")
    return Image(pixels.reshape(*pixels.shape[:2], -1), icc if _profile_fits(icc, mode) else None)


def _profile_fits(icc: bytes | None, mode: str) -> bool:
    """Whether the profile's colour space (bytes 16-19 of its header) is the one of ``mode``."""
    return icc is not None and icc[16:20] == (b"GRAY" if mode in ("L", "LA") else b"RGB ")


def check_writable(path: Path, height: int, width: int, transparent: bool) -> None:
    """Raises ImageError if ``path``'s format cannot hold such a picture; ask before a long computation."""
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise ImageError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    side = _MAX_SIDE.get(format_)
    if side is not None and max(height, width) > side:
        raise ImageError(
            f"{path}: {width}x{height} is too large for {format_} (sides up to {side}); use .png"
        )
    if transparent and format_ == "JPEG":
        raise ImageError(f"{path}: JPEG has no transparency; use .png or .webp")


def write(path: str | Path, image: Image) -> None:
    """Writes ``image`` in the format of the name's suffix; the file appears whole or not at all.

    JPEG is written at quality 95 without chroma subsampling, WebP without loss.  JPEG leaves opaque alpha
    out, WebP stores gray as RGB.

    Raises ImageError if the suffix is unknown, the format cannot hold the picture, or writing fails.
    """
    path, pixels = Path(path), image.pixels
    check_writable(path, *pixels.shape[:2], image.transparent)
    format_ = FORMATS[path.suffix.lower()]
    if format_ == "JPEG" and image.has_alpha:
        pixels = pixels[..., :-1]
    # Pillow takes gray without its channel axis, and needs the rows in one piece.
    mode = _MODES[pixels.shape[2]]
    picture = Pillow.fromarray(np.ascontiguousarray(pixels[..., 0] if mode == "L" else pixels), mode)
    if format_ == "WEBP" and mode in ("L", "LA"):
        picture = picture.convert("RGBA" if mode == "LA" else "RGB")
    icc = image.icc_profile if _profile_fits(image.icc_profile, picture.mode) else None
    try:
        with atomic_path(path) as temporary:
            picture.save(temporary, format_, icc_profile=icc, **_SAVE_OPTIONS[format_])
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from None
