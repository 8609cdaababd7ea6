"""One frame of a video as a picture: enlarged by bicubic interpolation, and beside it by the network."""

from __future__ import annotations

from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from seemore_fast import image
from seemore_fast.errors import VideoError
from seemore_fast.video.decode import pictures
from seemore_fast.video.source import ACCURATE, Note, open_input, probe

if TYPE_CHECKING:
    from seemore_fast.upscale.size import Size
    from seemore_fast.upscale.upscaler import Upscaler


def preview(
    source: Path,
    output: Path,
    upscaler: Upscaler,
    seconds: float,
    *,
    size: Size | None = None,
    deinterlace: str | None = None,
    note: Note = lambda message: None,
) -> None:
    """Writes the picture ``output``: the frame of ``source`` that is shown after ``seconds`` from its start.

    Raises VideoError where there is no such frame, SeemoreError for a name that is not a picture's.
    """
    read = probe(source, note, deinterlace)
    scale = upscaler.scale
    height, width = size.of(read.height, read.width) if size else (read.height * scale, read.width * scale)
    image.check_writable(output, height, 2 * width, False)
    with open_input(source) as container:
        stream = container.streams[read.stream]
        begin = (stream.start_time or 0) * stream.time_base
        wanted = begin + Fraction(seconds).limit_denominator(1_000_000)
        try:
            if seconds > 0:
                container.seek(int(wanted / stream.time_base), stream=stream)
            frames = pictures(read, _decoded(container, stream), stream, lambda index: True, note)
            shown = (f for f in frames if (f.pts + f.duration) * read.time_base > wanted)
            frame = next(shown, None)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{source}: damaged before {seconds:g} s ({error.strerror})") from None
    if frame is None or frame.pixels is None:
        raise VideoError(f"{source} has no frame at {seconds:g} s")
    large = upscaler.up(frame.pixels, size=size)
    image.write(output, image.Image(np.concatenate([_bicubic(frame.pixels, height, width), large], 1)))


def _decoded(container: Any, stream: Any) -> Generator[av.VideoFrame, None, None]:
    for frame in container.decode(stream):
        frame.time_base = stream.time_base
        yield frame


def _bicubic(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    kind = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), kind)
    larger = VideoReformatter().reformat(
        frame, width=width, height=height, format=kind, interpolation=ACCURATE
    )
    result: NDArray[Any] = larger.to_ndarray()
    return result
