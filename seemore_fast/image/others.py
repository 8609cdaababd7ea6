"""BMP, JPEG XL and HEIC by Pillow and its plug-ins, OpenEXR by its own package: whole pictures, not rows.

Pillow has BMP; the others are optional packages (extras ``jxl``, ``heic``, ``exr``).
"""

from __future__ import annotations

import struct
import tempfile
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from seemore_fast.errors import ImageError
from seemore_fast.image.formats import Format, vips
from seemore_fast.image.picture import PROFILE, Image, profile_fits, upright
from seemore_fast.system.optional import need

_ORIENTATION, _DETAILS, _SIDES = 0x0112, 0x8769, (0xA002, 0xA003)
_FAULTS = (OSError, ValueError, SyntaxError, EOFError, struct.error, RuntimeError, TypeError, IndexError)

_FLOAT16_MOST = 65504.0


def package(format_: Format) -> Any:
    """The package that has the format.  Raises PackageError where it is missing."""
    if format_.name == "JPEG XL":
        with need("JPEG XL", "jxl"):
            import pillow_jxl  # which registers itself with Pillow
        return pillow_jxl
    if format_.name == "HEIC":
        with need("HEIC", "heic"):
            import pillow_heif
        return pillow_heif
    if format_.name == "OpenEXR":
        with need("OpenEXR", "exr"):
            import OpenEXR
        return OpenEXR
    return Pillow


def read(path: Path, file: IO[bytes], format_: Format, check_size: Any) -> Image:
    """The picture.  ``check_size(width, height, bytes of a pixel)`` raises where it is too large.

    Raises ImageError for a damaged file, PackageError.
    """
    package(format_)
    try:
        if format_.name == "OpenEXR":
            return _read_exr(package(format_), file, check_size)
        return _read_by_pillow(file, format_, check_size)
    except ImageError as error:
        raise ImageError(str(error).replace("{path}", str(path))) from None
    except _FAULTS as error:
        why = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ImageError(f"{path}: truncated or damaged ({why})") from None


def write(file: IO[bytes], format_: Format, pixels: NDArray[Any], like: Image, quality: int | None) -> None:
    """Encodes ``pixels`` (H, W, C) with the metadata of ``like``.  Raises OSError, ImageError."""
    if format_.name == "OpenEXR":
        return _write_exr(package(format_), file, pixels)
    options: dict[str, Any] = {}
    for option, name in (("icc_profile", PROFILE), ("xmp", "xmp-data")):
        if format_.keeps_exif and name in like.metadata:
            options[option] = like.metadata[name][1]
    if format_.keeps_exif and "exif-data" in like.metadata:
        options["exif"] = _updated(like.metadata["exif-data"][1], pixels)
    if PROFILE in like.metadata and not profile_fits(like.metadata[PROFILE][1], pixels.shape[2]):
        options.pop("icc_profile", None)
    if like.density is not None:
        options["dpi"] = tuple(round(d * 25.4, 3) for d in like.density)
    if format_.name == "JPEG XL":
        options |= {"lossless": True} if quality is None else {"quality": quality}
    if format_.name == "HEIC":
        return _write_heic(package(format_), file, pixels, options, 90 if quality is None else quality)
    picture = Pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(file, {"JPEG XL": "JXL"}.get(format_.name, format_.name), **options)


def _read_by_pillow(file: IO[bytes], format_: Format, check_size: Any) -> Image:
    if format_.name == "HEIC":
        file.seek(0)
        found = package(format_).open_heif(file, convert_hdr_to_8bit=False)
        check_size(*found.size, 8)
        exif = Pillow.Exif()
        exif.load(found.info.get("exif") or b"")
        pixels = np.asarray(found)
        if pixels.dtype == np.uint16:
            pixels = _widened(pixels, found.info.get("bit_depth", 16))
        # It has turned the picture already, as the file says.
        exif.pop(_ORIENTATION, None)
        return Image(np.atleast_3d(pixels), _metadata(found.info, exif, np.atleast_3d(pixels)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own limit of pixels: ours is asked
        file.seek(0)
        picture = Pillow.open(file, formats=["JXL" if format_.name == "JPEG XL" else format_.name])
        check_size(*picture.size, 4)
        if getattr(picture, "n_frames", 1) > 1:
            raise ImageError("{path}: an animated JPEG XL; animations are read from GIF, WebP, PNG and AVIF")
        exif = picture.getexif()
        orientation = exif.pop(_ORIENTATION, 1)
        info = dict(picture.info)
        if not picture.mode.startswith("I;16"):
            gray = picture.mode in ("1", "L", "LA", "La")
            picture = picture.convert(
                ("L" if gray else "RGB") + ("A" if picture.has_transparency_data else "")
            )
        pixels = np.atleast_3d(np.asarray(picture))
    if format_.name == "JPEG XL":  # which is shown upright by its decoder
        orientation = 1
    dpi = info.get("dpi")
    density = (dpi[0] / 25.4, dpi[1] / 25.4) if dpi and min(dpi) > 0 else None
    return Image(upright(pixels, orientation), _metadata(info, exif, pixels), density)


def _widened(pixels: NDArray[Any], bits: int) -> NDArray[Any]:
    """What the package shifts up to 16 bits, with white at 65535."""
    highest = (1 << bits) - 1
    wide = ((pixels >> (16 - bits)).astype(np.uint32) * 65535 + highest // 2) // highest
    return wide.astype(np.uint16)


def _metadata(info: dict[str, Any], exif: Pillow.Exif, pixels: NDArray[Any]) -> dict[str, tuple[int, Any]]:
    blobs: dict[str, Any] = {
        PROFILE: info.get("icc_profile"),
        "xmp-data": info.get("xmp"),
        "exif-data": exif.tobytes() if len(exif) else None,
    }
    if blobs[PROFILE] and not profile_fits(blobs[PROFILE], pixels.shape[2]):
        del blobs[PROFILE]
    return {name: (vips().GValue.blob_type, data) for name, data in blobs.items() if data}


def _updated(blob: bytes, pixels: NDArray[Any]) -> bytes:
    """EXIF for ``pixels``, which are upright."""
    exif = Pillow.Exif()
    exif.load(blob)
    exif[_ORIENTATION] = 1
    details = exif.get_ifd(_DETAILS)
    for tag, length in zip(_SIDES, pixels.shape[1::-1], strict=True):
        if tag in details:
            details[tag] = length
    return exif.tobytes()


def _write_heic(
    heif: Any, file: IO[bytes], pixels: NDArray[Any], options: dict[str, Any], quality: int
) -> None:
    height, width, channels = pixels.shape
    if channels < 3:  # its gray pictures lose alpha
        pixels = np.concatenate([pixels[..., :1].repeat(3, axis=2), pixels[..., 1:]], axis=2)
    mode = "RGBA"[: pixels.shape[2]] + (";16" if pixels.dtype == np.uint16 else "")
    made = heif.from_bytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    options.pop("dpi", None)
    made.save(file, quality=quality, chroma=444, **options)


def _read_exr(exr: Any, file: IO[bytes], check_size: Any) -> Image:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "in.exr")  # the package takes names only
        file.seek(0)
        with copy.open("wb") as target:
            while data := file.read(1 << 20):
                target.write(data)
        header = exr.File(str(copy), header_only=True).header()
        (left, top), (right, bottom) = header["dataWindow"]
        check_size(int(right - left + 1), int(bottom - top + 1), 16)
        parts = exr.File(str(copy), separate_channels=True).parts
        channels = parts[0].channels
        layers = next((n for n in (["R", "G", "B"], ["Y"]) if set(n) <= channels.keys()), None)
        if layers is None:
            raise ImageError(f"{{path}}: channels {', '.join(sorted(channels))}; R, G, B or Y are needed")
        layers += ["A"] if "A" in channels else []
        planes = [np.asarray(channels[name].pixels, np.float32) for name in layers]
    notes = []
    if others := sorted(channels.keys() - set(layers)):
        notes.append(f"its channels {', '.join(others)} are left out")
    if len(parts) > 1:
        notes.append(f"of its {len(parts)} parts the first is taken")
    if len({plane.shape for plane in planes}) > 1:
        raise ImageError("{path}: channels of several sizes (subsampled colour) are not supported")
    pixels = np.stack(planes, axis=2)
    if not np.isfinite(pixels).all():
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=_FLOAT16_MOST, neginf=0.0)
        notes.append("NaN and infinity are replaced by 0 and 65504")
    if layers[-1] == "A":  # colours are premultiplied there
        alpha = pixels[..., -1:].clip(0, 1)
        colour = pixels[..., :-1] / np.where(alpha > 0, alpha, 1)
        pixels = np.concatenate([colour, alpha], axis=2)
    return Image(pixels, notes=tuple(notes))


def _write_exr(exr: Any, file: IO[bytes], pixels: NDArray[Any]) -> None:
    pixels = pixels.astype(np.float32)
    if pixels.shape[2] in (2, 4):
        pixels = np.concatenate([pixels[..., :-1] * pixels[..., -1:], pixels[..., -1:]], axis=2)
    names = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    # Half floats, as is the custom, unless a value is beyond them.
    kind = np.float32 if np.abs(pixels).max() > _FLOAT16_MOST else np.float16
    planes = {name: np.ascontiguousarray(pixels[..., i].astype(kind)) for i, name in enumerate(names)}
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with tempfile.TemporaryDirectory() as folder:
        exr.File(header, planes).write(str(Path(folder, "out.exr")))
        file.write(Path(folder, "out.exr").read_bytes())
