"""Files -> pictures: any of the formats, 8 or 16 bits as the file has them, upright, with their metadata."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seemore_fast.errors import ImageError
from seemore_fast.image import damage, frames, others, texts
from seemore_fast.image.formats import (
    HEAD,
    NAMES,
    RAW,
    Format,
    clear_errors,
    pending_errors,
    reason,
    short_of_memory,
    sniff,
    vips,
)
from seemore_fast.image.picture import PROFILE, Animation, Image, named, profile_fits, upright
from seemore_fast.system.atomic import temporary_file
from seemore_fast.system.terminal import standard_stream

MAX_PIXELS = 100_000_000
"""Default limit of `read`: 100 megapixels are 1.6 gigapixels after x4."""

STDIN = Path("-")

_BYTES = {"uchar": 1, "ushort": 2, "double": 8}  # of a sample; others are floats

_DTYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}
_INKS = {"cmyk": "CMYK", "lab": "CIELAB", "labs": "CIELAB", "labq": "CIELAB"}
_TURNED = range(5, 9)  # EXIF orientations that swap width and height


def read(
    path: str | Path, max_pixels: int = MAX_PIXELS, data: bytes | None = None, accept_damaged: bool = False
) -> Image:
    """Reads a picture file (``-``: standard input), turned upright as its EXIF orientation says.

    Palettes become RGB, bilevel becomes gray, CMYK and CIELAB become sRGB (through the embedded profile if
    there is one), with a note.  A TIFF's pages are read as frames are, without thumbnails and reduced copies.
    ``data`` is the content where it is not in a file of its own: ``path`` only names it then.
    ``accept_damaged`` takes what can be decoded of a damaged file, with a note.

    Raises ImageError if the file is missing, damaged, of another format or kind of pixels, or of more than
    ``max_pixels`` (all frames of an animation together).
    """
    path = named(path)
    if not isinstance(max_pixels, (int, np.integer)) or not isinstance(data, (bytes, type(None))):
        raise ImageError(f"{path}: max_pixels must be a whole number, data bytes or None")
    with _opened(path, data) as file:
        format_ = _format(path, file)
        if format_.whole:

            def check(width: int, height: int, pixel_bytes: int) -> None:
                _check_size(path, width, height, pixel_bytes, max_pixels)

            return others.read(path, file, format_, check)
        if (animation := _animated(path, file, format_, max_pixels, accept_damaged)) is not None:
            return animation
        try:
            _check(path, _load(file, format_, "error"), format_, max_pixels)
            picture, found = _judged(path, file, format_)
            if picture is not None:
                return picture
            if accept_damaged and not found.hopeless:
                return _picture(
                    path, file, format_, "none", f"damaged ({found.text}), taken as far as it goes"
                )
        except vips().Error as error:
            found = damage.Damage(True, reason(error))
    raise _damaged(path, found.text)


def _damaged(path: Path, text: str) -> ImageError:
    """What libvips says, in words of what would be right where nothing is damaged."""
    if "differs from page" in text:
        return ImageError(f"{path}: its pages are of different sizes or kinds; split it into single ones")
    if "bad labq format" in text:  # libvips 8.18 writes such files, but does not read them
        return ImageError(
            f"{path}: CIELAB of 8 bits, which libvips does not read; save it with 16, or as RGB"
        )
    return ImageError(f"{path}: truncated or damaged ({text})")


def size(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture, upright, from its header; of the first frame of an animation.

    Raises ImageError if the file is missing, of another format, or its header is damaged.
    """
    path = Path(path)
    with _opened(path, None) as file:
        format_ = _format(path, file)
        if format_.whole:
            height, width = read(path).pixels.shape[:2]
            return width, height
        try:
            image = _load(file, format_, "error")
        except vips().Error as error:
            raise _damaged(path, reason(error)) from None
    width, height = image.width, _get(image, "page-height", image.height)
    return (height, width) if _get(image, "orientation", 1) in _TURNED else (width, height)


def has_alpha(path: str | Path) -> bool:
    """Whether a file is one still picture of integers with an alpha channel, mostly from its header.

    False where it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return False
    try:
        with _opened(path, None) as file:
            format_ = _format(path, file)
            if format_.whole:
                picture = read(path)
                return picture.has_alpha and not picture.linear
            image = _load(file, format_, "error")
    except (ImageError, vips().Error):
        return False
    still = image.height == _get(image, "page-height", image.height)
    return bool(still and image.hasalpha() and image.format in ("uchar", "ushort"))


def _judged(path: Path, file: IO[bytes], format_: Format) -> tuple[Image | None, damage.Damage]:
    """The picture with a note of what was repaired, or None where something is lost; and what is wrong."""
    found = damage.in_container(file, format_)
    if found is None:
        try:
            strict = damage.STRICT.get(format_.name, "error")
            return _picture(path, file, format_, strict), damage.Damage(False, "")
        except vips().Error as error:
            found = damage.meaning(reason(error, ""), file, format_)
    if found.lost:
        return None, found
    try:
        picture = _picture(path, file, format_, "error", found.text)
        left = pending_errors() if format_.name == "TIFF" else ""
    except vips().Error as error:
        left = reason(error)
    return (None, damage.Damage(True, left)) if left else (picture, found)


def _animated(
    path: Path, file: IO[bytes], format_: Format, max_pixels: int, accept_damaged: bool
) -> Image | None:
    """An animation that libvips does not read; None: it is none."""
    if format_.frames != "pillow":
        return None
    found = damage.in_container(file, format_)
    try:
        with frames.opened(file, format_) as animation:
            if animation is None:
                return None
            width, height = animation.size
            total = frames.count(animation)
            _check_size(path, width, height * total, 4, max_pixels)
            if found is not None:
                raise frames.Damaged(found.text, total)
            return frames.read(file, animation)
    except frames.Damaged as error:
        if not accept_damaged or not error.whole:
            raise ImageError(f"{path}: truncated or damaged ({error})") from None
        whole, note = error.whole, f"damaged ({error}), taken as far as it goes"
    try:
        with frames.opened(file, format_) as animation:
            picture = frames.read(file, animation, whole)
    except frames.Damaged as error:
        raise ImageError(f"{path}: damaged beyond use ({error})") from None
    return replace(picture, notes=(*picture.notes, note))


@contextmanager
def _opened(path: Path, data: bytes | None) -> Iterator[IO[bytes]]:
    """The file, which can be read back and forth."""
    try:
        # Opened here: libvips would want the name in UTF-8, and words errors in its own way.
        if data is not None:
            opened: IO[bytes] = _spooled(io.BytesIO(data))
        elif path == STDIN:
            opened = _spooled(standard_stream("stdin"))
        else:
            opened = path.open("rb")
            if not opened.seekable():  # a pipe
                with opened:
                    opened = _spooled(opened)
    except OSError as error:
        raise ImageError(f"{str(path)[:200]}: {error.strerror}") from None
    except ValueError as error:  # a null byte in the name
        raise ImageError(f"{path}: no file can be called so ({error})") from None
    try:
        yield opened
    finally:
        with suppress(OSError):  # libvips has moved the descriptor under the buffer, which goes astray
            opened.close()


def _format(path: Path, file: IO[bytes]) -> Format:
    try:
        head = file.read(HEAD)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    format_ = sniff(head)
    if path.suffix.lower() in RAW:
        raise ImageError(f"{path}: a camera's raw file; develop it first: darktable-cli {path.name} out.tif")
    if format_ is None:
        raise ImageError(f"{path}: {'the file is empty' if not head else f'not a {NAMES} image'}")
    if why := frames.unreadable(head, format_):
        raise ImageError(f"{path}: {why}")
    return format_


def _load(file: IO[bytes], format_: Format, fail_on: str) -> Any:
    """The picture with its header read; pixels are decoded when they are asked for.

    Raises pyvips.Error at what ``fail_on`` names: none, error or warning.
    """
    pyvips = vips()
    clear_errors()
    file.seek(0)
    source = pyvips.Source.new_from_descriptor(file.fileno())
    options: dict[str, int] = {"n": -1} if format_.frames == "libvips" else {}
    if format_.pages:
        first, count = damage.tiff_pages(file)
        options = {"page": first, "n": count}
        file.seek(0)
    load = getattr(pyvips.Image, f"{format_.loader}_source")
    return load(source, access="sequential", fail_on=fail_on, **options)


def _picture(path: Path, file: IO[bytes], format_: Format, fail_on: str, *notes: str) -> Image:
    """The picture, decoded.  ``notes``: what else is to be told; empty ones are left out."""
    image = _load(file, format_, fail_on)
    told = [note for note in notes if note]
    metadata, density, animation = _metadata(image), _density(image), _animation(image)
    orientation = _get(image, "orientation", 1)
    if image.interpretation in _INKS:
        image = image.copy_memory()  # the profile is tried first
        told.append(f"converted from {_INKS[image.interpretation]} to sRGB")
        image = _to_srgb(image, PROFILE in metadata)
        metadata.pop(PROFILE, None)
    if image.format == "double":
        image = image.cast("float")
    pixels = _pixels(path, image)
    if image.format == "float" and not np.isfinite(pixels).all():
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=65504.0, neginf=0.0)
        told.append("NaN and infinity are replaced by 0 and 65504")
    if PROFILE in metadata and not profile_fits(metadata[PROFILE][1], pixels.shape[2]):
        del metadata[PROFILE]
    pages = np.split(pixels, animation.frames if animation else 1)
    if orientation > 1:
        pixels = np.concatenate([upright(page, orientation) for page in pages])
    return Image(pixels, metadata, density, animation, tuple(told), _texts(file, format_))


def _texts(file: IO[bytes], format_: Format) -> texts.Texts:
    if format_.name == "PNG":
        return texts.of_png(file)
    if format_.name == "JPEG":
        file.seek(0)
        return texts.of_jpeg(file.read())
    if format_.name == "GIF":
        file.seek(0)
        return texts.of_gif(file.read())
    return ()


def _spooled(stream: IO[bytes]) -> IO[bytes]:
    """In a file, for some formats are read back and forth."""
    file = temporary_file()
    shutil.copyfileobj(stream, file)
    file.seek(0)
    return file


def _check_size(path: Path, width: int, height: int, pixel_bytes: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        limit = f"the limit of {max_pixels / 1e6:g} megapixels"
        raise ImageError(f"{path}: {width}x{height} is over {limit}; raise max_pixels (--max-megapixels)")
    if short_of_memory(width * height * pixel_bytes):
        raise ImageError(f"{path}: not enough memory to decode {width}x{height} pixels")


def _check(path: Path, image: Any, format_: Format, max_pixels: int) -> None:
    _check_size(path, image.width, image.height, image.bands * _BYTES.get(image.format, 4), max_pixels)
    if format_.name == "AVIF" and _get(image, "n-pages", 1) > 1:
        raise ImageError(f"{path}: an AVIF of several pictures that are no animation; save them one by one")
    if not _known(image, format_) and image.interpretation not in _INKS:
        raise ImageError(
            f"{path}: {image.format} pixels; only 8 and 16 bits a channel and floating point are supported"
        )
    if image.interpretation not in _INKS and image.bands > 4:
        raise ImageError(
            f"{path}: {image.bands} channels; gray, RGB and CMYK with or without alpha are supported"
        )


def _known(image: Any, format_: Format) -> bool:
    return image.format in ("uchar", "ushort") or (format_.floats and image.format in ("float", "double"))


def _get(image: Any, name: str, default: Any) -> Any:
    return image.get(name) if image.get_typeof(name) else default


def _metadata(image: Any) -> dict[str, tuple[int, Any]]:
    """Profile, EXIF, XMP and IPTC.  libvips writes the tags of EXIF that it also finds as fields."""
    fields = [name for name in image.get_fields() if name.startswith("exif-")]
    fields += [name for name in (PROFILE, "xmp-data", "iptc-data") if image.get_typeof(name)]
    # Some programs put the old size there.
    if not str(_get(image, "image-description", "{")).startswith(("{", "ImageJ=", "<?xml")):
        fields.append("image-description")
    # The pixels will be upright, and the thumbnail that EXIF may hold is not kept up to date.
    drop = ("Orientation", "PixelXDimension", "PixelYDimension")
    return {name: (image.get_typeof(name), image.get(name)) for name in fields if not name.endswith(drop)}


def _to_srgb(image: Any, has_profile: bool) -> Any:
    depth = 16 if image.format == "ushort" or image.interpretation in ("labs",) else 8
    if has_profile:
        try:
            # The profile is used when pixels are computed: a broken one must show itself now.
            converted = image.icc_transform("srgb", embedded=True, depth=depth)
            converted.crop(0, 0, 1, 1).avg()
            return converted
        except vips().Error:
            pass
    return image.colourspace("rgb16" if depth == 16 else "srgb")


def _pixels(path: Path, image: Any) -> NDArray[Any]:
    if image.format not in _DTYPES:
        raise ImageError(
            f"{path}: {image.format} pixels; only 8 and 16 bits a channel and floating point are supported"
        )
    data = image.write_to_memory()
    return np.frombuffer(data, _DTYPES[image.format]).reshape(image.height, image.width, image.bands)


def _density(image: Any) -> tuple[float, float] | None:
    # 1 pixel per mm is what libvips says of files that do not tell.
    if image.xres == image.yres == 1 or min(image.xres, image.yres) <= 0:
        return None
    if _get(image, "vips-loader", "").startswith("jpeg") and not image.get_typeof("resolution-unit"):
        return None  # a ratio, or nothing: libvips makes 72 dpi of it
    swap = _get(image, "orientation", 1) in _TURNED
    return (image.yres, image.xres) if swap else (image.xres, image.yres)


def _animation(image: Any) -> Animation | None:
    if "page-height" not in image.get_fields() or image.height % image.get("page-height"):
        return None
    frames = image.height // image.get("page-height")
    if frames < 2:
        return None
    if _get(image, "vips-loader", "").startswith("tiff"):
        return Animation(frames, (), 0)
    delays = tuple(_get(image, "delay", [100] * frames))
    return Animation(frames, delays, _get(image, "loop", 0))
