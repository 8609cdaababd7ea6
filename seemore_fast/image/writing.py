"""Pictures -> files, in rows as they come: what is written need never lie in memory as a whole.

libvips pulls a picture from a file or a pipe, so rows go to it through a pipe, as an uncompressed PNG.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from seemore_fast.errors import ImageError
from seemore_fast.image import frames, texts
from seemore_fast.image.formats import FORMATS, Format, reason, short_of_memory, vips
from seemore_fast.image.linear import Curve
from seemore_fast.image.output import output_file
from seemore_fast.image.picture import PROFILE, Animation, Image, named, profile_fits
from seemore_fast.image.resample import resize
from seemore_fast.image.whole import WholeWriter
from seemore_fast.system.atomic import temporary_file

_DTYPES = (np.uint8, np.uint16, np.float32)

_QUEUE = 8  # pieces that wait for the encoder
_UNKNOWN_DENSITY = 72 / 25.4
"""Pixels per mm that every program assumes: JPEG and PNG get some value from libvips in any case."""

_KEEP = {"exif": 1, "xmp": 2, "iptc": 4, "icc": 8, "other": 16}  # VipsForeignKeep


def open_writer(
    path: Path,
    shape: tuple[int, int, int],
    dtype: DTypeLike,
    like: Image,
    quality: int | None = None,
    size: tuple[int, int] | None = None,
    ext: str | None = None,
) -> Writer | WholeWriter:
    """What writes such a picture: row by row where libvips can."""
    format_ = format_of(path, ext)
    if format_.whole or np.dtype(dtype) == np.float32:
        return WholeWriter(path, shape, dtype, like, quality, size, format_)
    return Writer(path, shape, dtype, like, quality, size, ext)


def format_of(path: Path, ext: str | None = None) -> Format:
    """The format of the name's suffix, or of ``ext`` (``png``, for standard output).

    Raises ImageError for another suffix.
    """
    suffix = f".{ext}" if ext else path.suffix.lower()
    if suffix not in FORMATS:
        raise ImageError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    return FORMATS[suffix]


def check_writable(
    path: Path,
    height: int,
    width: int,
    transparent: bool,
    animation: Animation | None = None,
    ext: str | None = None,
) -> None:
    """Raises ImageError if ``path``'s format cannot hold such a picture; ask before a long computation."""
    format_ = format_of(path, ext)
    if max(height, width) > format_.max_side:
        limit = f"sides up to {format_.max_side}"
        raise ImageError(f"{path}: {width}x{height} is too large for {format_.name} ({limit}); use .png")
    if transparent and not format_.alpha:
        raise ImageError(f"{path}: {format_.name} has no transparency; use .png or .webp")
    if animation is not None and animation.delays and not format_.frames:
        raise ImageError(f"{path}: {format_.name} holds no animation; use .webp, .gif, .png or .avif")
    if animation is not None and not animation.delays and not format_.pages:
        raise ImageError(f"{path}: {format_.name} does not hold {animation.frames} pages; use .tif")


class Writer:
    """Writes one picture of ``shape`` (H, W, C) and ``dtype`` (uint8 or uint16) to ``path``, row by row.

    `rows` takes them from top to bottom, any number at a time; after the last, `finish` waits for the
    encoder, which runs in threads of its own.  The file appears whole or not at all: after `abort`, and
    after any error, there is none.  ``-`` is standard output, then ``ext`` names the format.

    ``like`` gives the metadata, resolution and animation; ``quality`` (1 to 100) is for the formats that have
    one.  With ``size`` (height, width) the picture is resampled to that size (Lanczos).

    ``waited`` (an attribute) counts the seconds that `rows` had to wait for the encoder.

    Raises ImageError if the format cannot hold such a picture or writing fails.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, int, int],
        dtype: DTypeLike,
        like: Image,
        quality: int | None = None,
        size: tuple[int, int] | None = None,
        ext: str | None = None,
    ):
        self.path, self._like = Path(path), like
        self._format = format_of(self.path, ext)
        self._shape, self.dtype = shape, np.dtype(dtype)
        self._quality, self._size = quality, size
        self.height, self.width = size or shape[:2]
        self.waited = 0.0
        # Not a queue.Queue: a Ctrl-C in the midst of its Python code may leave its lock taken for good.
        self._queue: queue.SimpleQueue[NDArray[Any] | None] = queue.SimpleQueue()
        self._moving = like.animation is not None and bool(like.animation.delays)
        self._aborted = False
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def rows(self, rows: NDArray[Any]) -> None:
        """The next rows (n, W, C).  Waits while the encoder is behind."""
        if not self._threads:
            self._start()
        if self._error is None:
            start = time.perf_counter()
            while self._queue.qsize() >= _QUEUE and self._threads[0].is_alive():
                time.sleep(0.001)
            self._queue.put(rows)
            self.waited += time.perf_counter() - start
        else:
            self.finish()

    def finish(self) -> None:
        """Waits until the file is there; raises what went wrong."""
        if not self._threads:
            self._start()
        self._stop()
        if isinstance(self._error, ImageError):
            raise self._error
        if isinstance(self._error, vips().Error):
            raise ImageError(f"{self.path}: cannot be written ({reason(self._error)})") from None
        if isinstance(self._error, OSError):
            detail = self._error.strerror or self._error
            raise ImageError(f"{self.path}: cannot be written ({detail})") from None
        if isinstance(self._error, MemoryError):
            raise ImageError(f"{self.path}: not enough memory to encode it") from None
        if self._error is not None:
            raise self._error

    def left_out(self) -> str:
        """What the format has no place for, in words; "": nothing."""
        if not self._like.texts or self._format.name in texts.KEPT_BY:
            return ""
        names = ", ".join(dict.fromkeys(name for name, _ in self._like.texts))
        return f"{self._format.name} has no place for its texts ({names[:200]})"

    def abort(self) -> None:
        """Gives up; nothing is left of the file.  Does nothing once it is written."""
        self._aborted = True
        self._stop()

    def end(self) -> None:
        """Says that all rows are given; `finish` can wait for later."""
        self._queue.put(None)

    def _start(self) -> None:
        """Only with the first rows: until then there is nothing that an interrupt could leave behind."""
        vips()
        # Formats that are not written row by row want the whole picture.
        at_once = self._format.name in ("WebP", "AVIF", "GIF") or self._moving
        if short_of_memory(self.height * self.width * self._shape[2] if at_once else 0):
            raise ImageError(f"{self.path}: not enough memory to encode it")
        self._pipe, end = os.pipe()
        feeder = threading.Thread(target=self._feed, args=(end,), daemon=True)
        saver = threading.Thread(target=self._save, daemon=True)
        for thread in (feeder, saver):
            thread.start()
            self._threads.append(thread)

    def _stop(self) -> None:
        if self._threads and self._threads[0].is_alive():
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _pieces(self) -> Iterator[NDArray[Any]]:
        while (piece := self._queue.get()) is not None:
            yield piece

    def _feed(self, end: int) -> None:
        """Queue -> pipe."""
        try:
            with os.fdopen(end, "wb", buffering=0) as pipe:
                for piece in _as_png(self._shape, self.dtype, self._pieces()):
                    left = memoryview(piece)
                    while left and not self._aborted:
                        left = left[pipe.write(left) :]
            return
        except BrokenPipeError:  # the encoder has failed, and says why
            pass
        except BaseException as error:
            self._error = error
        while self._queue.get() is not None:  # nobody shall wait for room
            pass

    def _save(self) -> None:
        """Pipe -> file."""
        try:
            with output_file(self.path) as file:
                self._encode(file)
        except BaseException as error:  # raised by `finish`, in the caller's thread
            self._error = self._error or error
        # Whoever still waits to write is let go.
        while os.read(self._pipe, 1 << 20):
            pass
        os.close(self._pipe)

    def _encode(self, target: IO[bytes]) -> None:
        if not self._like.texts or self._format.name not in texts.KEPT_BY:
            return self._encode_plain(target)
        with temporary_file() as plain:
            self._encode_plain(plain)
            plain.seek(0)
            texts.insert(self._like.texts, plain, target, self._format.name)
        target.flush()

    def _encode_plain(self, target: IO[bytes]) -> None:
        pyvips = vips()
        source = pyvips.Source.new_from_descriptor(self._pipe)
        image = pyvips.Image.pngload_source(source, access="sequential", fail_on="error")
        if self._size is not None:
            image = resize(image, *self._size)
        image = self._annotated(image)
        if self._moving and self._format.frames == "pillow":
            self._encode_frames(target, image)
        else:
            self._encode_by_libvips(target, image)
        if self._aborted:
            raise ImageError(f"{self.path}: given up")

    def _encode_by_libvips(self, target: IO[bytes], image: Any) -> None:
        options = dict(self._format.options)
        if self._quality is not None and self._format.quality is not None:
            options |= {k: self._quality if v is None else v for k, v in self._format.quality.items()}
        if self._format.name == "AVIF":
            options["bitdepth"] = 12 if self.dtype == np.uint16 else 8
        if self._format.name == "TIFF":
            # Its offsets have 32 bits, and how small the file gets is not known before.
            options["bigtiff"] = image.width * image.height * image.bands * self.dtype.itemsize > 3 << 30
        options["keep"] = sum(_KEEP[kind] for kind in self._kept(image))
        save = getattr(image, f"{self._format.saver}_target")
        save(vips().Target.new_to_descriptor(target.fileno()), **options)

    def _encode_frames(self, target: IO[bytes], image: Any) -> None:
        animation = self._like.animation
        assert animation is not None
        if self._format.name == "AVIF":
            image = image.colourspace("srgb") if image.bands < 3 else image
            pixels = image.write_to_memory()
            shape = image.height, image.width, image.bands
            quality = self._quality or self._format.options["Q"]
            frames.write_avif(target, self._like, np.frombuffer(pixels, np.uint8).reshape(shape), quality)
            return
        image = image.copy_memory()  # read row by row, it would not begin a frame where another ended
        height = image.height // animation.frames
        keep = sum(_KEEP[kind] for kind in self._kept(image))

        def encoded(index: int) -> Any:
            frame = image.crop(0, index * height, image.width, height)
            return frame.pngsave_buffer(**self._format.options, keep=keep)

        frames.write_png(target, animation, encoded)

    def _annotated(self, image: Any) -> Any:
        """With metadata, resolution and the frames' timing."""
        xres, yres = self._like.density or (_UNKNOWN_DENSITY, _UNKNOWN_DENSITY)
        image = image.copy(xres=xres, yres=yres)
        for name, (type_, value) in self._like.metadata.items():
            image.set_type(type_, name, value)
        if PROFILE in self._like.metadata:
            channels = image.bands if self._format.gray else max(image.bands, 3)
            if not profile_fits(self._like.metadata[PROFILE][1], channels):
                image.remove(PROFILE)
        gint = vips().GValue.gint_type
        image.set_type(gint, "orientation", 1)
        if self._like.animation is not None:
            image.set_type(gint, "page-height", image.height // self._like.animation.frames)
            if self._like.animation.delays:
                image.set_type(gint, "loop", self._like.animation.loop)
                image.set_type(vips().GValue.array_int_type, "delay", list(self._like.animation.delays))
        return image

    def _kept(self, image: Any) -> Iterator[str]:
        """Kinds of metadata to write; libvips would make up an EXIF block where there is none."""
        density_in_exif = self._like.density is not None and not self._format.keeps_density
        if "exif-data" in self._like.metadata or density_in_exif:
            yield "exif"
        for kind, name in [("xmp", "xmp-data"), ("iptc", "iptc-data"), ("icc", PROFILE)]:
            if image.get_typeof(name):
                yield kind
        yield "other"


def write(
    path: str | Path, image: Image, quality: int | None = None, size: tuple[int, int] | None = None
) -> None:
    """Writes ``image`` in the format of the name's suffix; the file appears whole or not at all.

    JPEG is written at quality 95 without chroma subsampling, WebP without loss, AVIF at 90, unless
    ``quality`` (1 to 100) is given.  JPEG leaves opaque alpha out; JPEG, WebP and GIF reduce 16 bits to 8.
    With ``size`` (height, width) the picture is resampled to that size (Lanczos).

    Raises ImageError if the suffix is unknown, the format cannot hold the picture, or writing fails.
    """
    path = named(path)
    _check_given(path, image, quality, size)
    pixels = image.pixels
    height, width = size or pixels.shape[:2]
    check_writable(path, height, width, image.transparent, image.animation)
    format_ = format_of(path)
    if image.has_alpha and not format_.alpha:
        pixels = pixels[..., :-1]
    if image.linear and not format_.floats:
        raise ImageError(f"{path}: {format_.name} holds no floating point; use .exr or .tif")
    if format_.name == "OpenEXR" and not image.linear:
        pixels = Curve().decoded(pixels / np.float32(255 if pixels.dtype == np.uint8 else 65535))
    narrow = pixels.dtype == np.uint16 and not format_.sixteen_bits
    writer = open_writer(path, pixels.shape, np.uint8 if narrow else pixels.dtype, image, quality, size)
    try:
        for y in range(0, len(pixels), 256):
            rows = pixels[y : y + 256]
            writer.rows(((rows * np.uint32(255) + 32767) // 65535).astype(np.uint8) if narrow else rows)
        writer.finish()
    except BaseException:
        writer.abort()
        raise


def _check_given(path: Path, image: Any, quality: Any, size: Any) -> None:
    """Raises ImageError for arguments of wrong kinds, which the encoder would take in its own way."""
    pixels = getattr(image, "pixels", None)
    if not isinstance(image, Image) or not isinstance(pixels, np.ndarray):
        raise ImageError(f"{path}: an Image is needed, got {type(image).__name__}")
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] > 4 or pixels.dtype not in _DTYPES:
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise ImageError(f"{path}: pixels must be (H, W, 1 to 4) uint8, uint16 or float32, not {found}")
    if quality is not None and (not isinstance(quality, (int, np.integer)) or not 1 <= quality <= 100):
        raise ImageError(f"{path}: quality must be a whole number from 1 to 100, got {quality!r:.80}")
    whole = isinstance(size, tuple) and len(size) == 2 and all(isinstance(n, (int, np.integer)) for n in size)
    if size is not None and not (whole and min(size) > 0):
        raise ImageError(f"{path}: size must be two whole numbers above 0, got {size!r:.80}")


def _as_png(shape: tuple[int, int, int], dtype: np.dtype, pieces: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    """Pieces of rows -> pieces of a PNG file that is stored, not compressed."""
    height, width, channels = shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, colour_type, 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + texts.chunk(b"IHDR", header)
    store = zlib.compressobj(0)
    for piece in pieces:
        lines = np.ascontiguousarray(piece.astype(dtype.newbyteorder(">"), copy=False)).view(np.uint8)
        filtered = np.zeros((len(piece), 1 + width * channels * dtype.itemsize), np.uint8)  # 0: no filter
        filtered[:, 1:] = lines.reshape(len(piece), -1)
        yield texts.chunk(b"IDAT", store.compress(filtered.data))
    yield texts.chunk(b"IDAT", store.flush()) + texts.chunk(b"IEND", b"")
