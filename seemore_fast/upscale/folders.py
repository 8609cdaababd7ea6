"""Pictures from file to file: one is decoded and one encoded while the network works on a third."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.image import Image, WholeWriter, Writer, check_writable, open_writer, read
from seemore_fast.image.linear import Curve
from seemore_fast.image.writing import format_of
from seemore_fast.system.ahead import run_ahead
from seemore_fast.upscale.jobs import PIPE, Job
from seemore_fast.upscale.planes import converted
from seemore_fast.upscale.size import Size, part_of

if TYPE_CHECKING:
    from seemore_fast.upscale.upscaler import Upscaler

_ENCODING = 2  # pictures that may still be on their way to the disk while the next is computed


@dataclass
class Outcome:
    """What became of the pictures, and where the time went: pixels of inputs and outputs, seconds."""

    written: int = 0
    large: int = 0
    """Those left out as large enough."""
    failed: list[tuple[Job, str]] = field(default_factory=list)
    pixels_in: int = 0
    pixels_out: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0

    def add(self, other: Outcome) -> None:
        """Counts ``other``'s pictures too."""
        self.written += other.written
        self.large += other.large
        self.failed += other.failed
        self.pixels_in += other.pixels_in
        self.pixels_out += other.pixels_out
        self.seconds += other.seconds
        self.network_seconds += other.network_seconds


@dataclass(frozen=True)
class Settings:
    """How pictures are read and written: see the command's options of these names."""

    max_pixels: int
    size: Size | None = None
    skip_large: bool = False
    quality: int | None = None
    ext: str | None = None
    accept_damaged: bool = False
    max_output: int | None = None
    """Pixels that the network may make of a picture."""


class Listener(Protocol):
    """Is told what happens."""

    def started(self, index: int, job: Job) -> None:
        """The network begins with picture ``index``."""

    def progressed(self, index: int, share: float) -> None:
        """So much of picture ``index`` is computed, from 0 to 1."""

    def measured(self, pixels_out: int, seconds: float) -> None:
        """So many output pixels are computed, this long after the beginning."""

    def noted(self, job: Job, note: str) -> None:
        """Something about this picture that its owner should know."""

    def failed(self, job: Job, message: str) -> None:
        """This picture is not written; ``message`` names the file."""


def upscale_files(upscaler: Upscaler, jobs: list[Job], settings: Settings, listener: Listener) -> Outcome:
    """Reads, upscales and writes every job's picture, in order; one that fails does not stop the rest.

    On an interrupt, or any error that is not a picture's own, unfinished files vanish and finished ones stay.
    """
    outcome, encoding = Outcome(), deque[tuple[Job, Image, Writer | WholeWriter]]()
    start, computed = time.perf_counter(), 0

    def fail(job: Job, error: Exception) -> None:
        said = str(error) or "out of memory"
        message = said if said.startswith((f"{job.input}:", f"{job.output}:")) else f"{job.input}: {said}"
        outcome.failed.append((job, message))
        listener.failed(job, message)

    def finish_first() -> None:
        job, picture, writer = encoding[0]
        try:
            writer.finish()
            outcome.written += 1
            outcome.pixels_in += picture.pixels.shape[0] * picture.pixels.shape[1]
            outcome.pixels_out += writer.height * writer.width
        except SeemoreError as error:
            fail(job, error)
        encoding.popleft()

    try:
        with closing(run_ahead(_read_all(jobs, settings), depth=1)) as pictures:
            for index, (job, picture) in enumerate(pictures):
                listener.started(index, job)
                if isinstance(picture, SeemoreError):
                    fail(job, picture)
                    continue
                if settings.skip_large and (enough := _large_enough(picture, settings)):
                    outcome.large += 1
                    listener.noted(job, enough)
                    continue
                for note in picture.notes:
                    listener.noted(job, note)
                while len(encoding) >= _ENCODING:
                    finish_first()
                try:
                    writer, pixels = _open_writer(upscaler, job, picture, settings)
                    encoding.append((job, picture, writer))
                    if note := writer.left_out():
                        listener.noted(job, note)
                    began = time.perf_counter()
                    _compute(
                        upscaler, pixels, picture, writer, settings.size, partial(listener.progressed, index)
                    )
                    outcome.network_seconds += time.perf_counter() - began - writer.waited
                    writer.end()
                    computed += writer.height * writer.width
                    listener.measured(computed, time.perf_counter() - start)
                except (SeemoreError, MemoryError) as error:
                    if encoding and encoding[-1][0] is job:
                        encoding[-1][2].abort()
                        encoding.pop()
                    fail(job, error)
        while encoding:
            finish_first()
    finally:
        for _, _, writer in encoding:
            writer.abort()
    outcome.seconds = time.perf_counter() - start
    return outcome


def _read_all(jobs: list[Job], settings: Settings) -> Generator[tuple[Job, Image | SeemoreError], None, None]:
    """Pictures in order, or why one cannot be read."""
    for job in jobs:
        try:
            yield job, read(job.input, settings.max_pixels, accept_damaged=settings.accept_damaged)
        except SeemoreError as error:
            yield job, error
        except MemoryError:
            yield job, ImageError(f"{job.input}: not enough memory to decode it")


def _open_writer(
    upscaler: Upscaler, job: Job, picture: Image, settings: Settings
) -> tuple[Writer | WholeWriter, NDArray[Any]]:
    """The output's writer and the pixels to compute it from.

    Raises ImageError if the output's format cannot hold the result.
    """
    frames = picture.animation.frames if picture.animation else 1
    height, width, channels = picture.pixels.shape
    height //= frames
    size = settings.size
    final = size.of(height, width) if size else (height * upscaler.scale, width * upscaler.scale)
    ext = settings.ext if job.output == PIPE else None
    if job.output == PIPE and ext == "auto":
        ext = "png" if picture.has_alpha and not picture.animation and not picture.linear else None
    if job.output == PIPE and ext is None:
        ext = job.input.suffix.lower().removeprefix(".") if job.input != PIPE else "png"
    check_writable(job.output, final[0], final[1], picture.transparent, picture.animation, ext)
    format_ = format_of(job.output, ext)
    pixels = picture.pixels
    if picture.has_alpha and not format_.alpha:  # opaque, then: it has been checked
        pixels, channels = pixels[..., :-1], channels - 1
    dtype = pixels.dtype if format_.sixteen_bits else np.dtype(np.uint8)
    if picture.linear and not format_.floats:
        raise ImageError(f"{job.output}: {format_.name} holds no floating point; use .exr or .tif")
    if picture.linear or format_.name == "OpenEXR":
        dtype = np.dtype(np.float32)
    passes = size.passes(height, width, upscaler.scale) if size else 1
    # A still picture is resampled on its way to the file; frames, one by one, before.
    shape = final if frames > 1 else (height * upscaler.scale**passes, width * upscaler.scale**passes)
    resample = final if shape != final else None
    if settings.max_output is not None and shape[0] * shape[1] * frames > settings.max_output:
        limit = f"the limit of {settings.max_output / 1e6:g} megapixels"
        raise ImageError(f"{job.input}: {shape[1]}x{shape[0] * frames} pixels of result are over {limit}")
    writer = open_writer(
        job.output,
        (shape[0] * frames, shape[1], channels),
        dtype,
        picture,
        settings.quality,
        resample,
        ext,
    )
    return writer, pixels


def _large_enough(picture: Image, settings: Settings) -> str | None:
    """Why the picture is left out where that is wished; None: it is not."""
    height, width = picture.pixels.shape[0], picture.pixels.shape[1]
    height //= picture.animation.frames if picture.animation else 1
    if settings.size is None or not settings.size.enough(height, width):
        return None
    return f"{width}x{height} is large enough: left out"


def _compute(
    upscaler: Upscaler,
    pixels: NDArray[Any],
    picture: Image,
    writer: Writer | WholeWriter,
    size: Size | None,
    tell: Callable[[float], None],
) -> None:
    """Frame by frame; a still picture is one frame."""
    frames = picture.animation.frames if picture.animation else 1
    curve = Curve.of(pixels) if picture.linear else Curve()
    if picture.linear:
        pixels = curve.encoded(pixels)

    def emit(rows: NDArray[Any]) -> None:
        writer.rows(curve.decoded(rows) if writer.dtype == np.float32 else rows)

    for index, frame in enumerate(np.split(pixels, frames)):

        def progress(done: int, total: int, index: int = index) -> None:
            tell((index + done / total) / frames)

        if frames > 1 and size is not None:
            emit(converted(upscaler.up(frame, progress, size=size), writer.dtype))
            continue
        passes = size.passes(frame.shape[0], frame.shape[1], upscaler.scale) if size else 1
        if passes == 0:
            emit(converted(frame, writer.dtype))
            continue
        if size is not None:
            frame = upscaler.before_last(frame, size, progress)
        told = part_of(progress, passes - 1, passes, upscaler.scale)
        upscaler.stream(frame, lambda _, rows: emit(rows), writer.dtype, told)
