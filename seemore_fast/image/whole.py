"""Writes pictures that no encoder takes row by row: formats that are not libvips's, and floating point."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from seemore_fast.errors import ImageError
from seemore_fast.image import others
from seemore_fast.image.formats import Format, reason, short_of_memory, vips
from seemore_fast.image.output import output_file
from seemore_fast.image.picture import PROFILE, Image, profile_fits
from seemore_fast.image.resample import resampled


class WholeWriter:
    """As `Writer`, which says what the arguments are, but it keeps the rows and encodes in `finish`."""

    waited = 0.0

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: DTypeLike,
        like: Image,
        quality: int | None,
        size: tuple[int, int] | None,
        format_: Format,
    ):
        others.package(format_)
        self.path, self._like, self._quality, self._format = path, like, quality, format_
        self.dtype, self._size = np.dtype(dtype), size
        self.height, self.width = size or shape[:2]
        if short_of_memory(int(np.prod(shape)) * self.dtype.itemsize):
            raise ImageError(f"{path}: not enough memory to encode it")
        self._pixels, self._done = np.empty(shape, self.dtype), 0

    def rows(self, rows: NDArray[Any]) -> None:
        """The next rows (n, W, C)."""
        self._pixels[self._done : self._done + len(rows)] = rows
        self._done += len(rows)

    def end(self) -> None:
        """Says that all rows are given."""

    def abort(self) -> None:
        """Gives up; there is no file yet."""

    def left_out(self) -> str:
        """What the format has no place for, in words; "": nothing."""
        if not self._like.texts:
            return ""
        names = ", ".join(dict.fromkeys(name for name, _ in self._like.texts))
        return f"{self._format.name} has no place for its texts ({names[:200]})"

    def finish(self) -> None:
        """Encodes; the file appears whole or not at all.  Raises ImageError."""
        try:
            with output_file(self.path) as file:
                self._encode(file)
        except vips().Error as error:
            raise ImageError(f"{self.path}: cannot be written ({reason(error)})") from None
        except (OSError, ValueError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or str(error).split("\n")[0]
            raise ImageError(f"{self.path}: cannot be written ({why})") from None
        except MemoryError:
            raise ImageError(f"{self.path}: not enough memory to encode it") from None

    def _encode(self, target: IO[bytes]) -> None:
        pixels = self._pixels if self._size is None else resampled(self._pixels, *self._size)
        if self._format.name == "TIFF":
            _write_float_tiff(target, pixels, self._like)
        else:
            others.write(target, self._format, pixels, self._like, self._quality)


def _write_float_tiff(target: IO[bytes], pixels: NDArray[Any], like: Image) -> None:
    image = vips().Image.new_from_array(np.ascontiguousarray(pixels))
    image = image.copy(interpretation="b-w" if pixels.shape[2] < 3 else "rgb")
    if like.density is not None:
        image = image.copy(xres=like.density[0], yres=like.density[1])
    for name, (type_, value) in like.metadata.items():
        if name in (PROFILE, "xmp-data") and (name != PROFILE or profile_fits(value, pixels.shape[2])):
            image.set_type(type_, name, value)
    out = vips().Target.new_to_descriptor(target.fileno())
    image.tiffsave_target(out, compression="deflate", predictor="float", bigtiff=pixels.nbytes > 3 << 30)
