"""Reading a video: what its picture stream is, and its frames as RGB arrays with their times."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from seemore_fast.errors import VideoError

Note = Callable[[str], None]

# The slower, accurate ways of swscale: the fast ones are off by up to 2 levels of 255.
ACCURATE = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)

# ITU-T H.273 matrix coefficients -> those that swscale computes with.
_SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT709, _UNSPECIFIED, _SMPTE170M = 1, 2, 6


@dataclass(frozen=True)
class Colour:
    """How RGB and YUV belong together, in the numbers of ITU-T H.273; ``range`` is 1 limited, 2 full."""

    matrix: int
    range: int
    primaries: int
    transfer: int

    @property
    def sws_matrix(self) -> int:
        return _SWS_MATRIX[self.matrix]

    def label(self, context: Any) -> None:
        """Sets the fields of a codec context."""
        context.colorspace, context.color_range = self.matrix, self.range
        context.color_primaries, context.color_trc = self.primaries, self.transfer


@dataclass(frozen=True)
class Source:
    """A video's picture stream, as its first frame has it."""

    path: Path
    stream: int
    width: int
    height: int
    depth: int  # 8 or 16: bits of the arrays that frames are read as
    colour: Colour
    aspect: Fraction | None  # of a pixel
    display_matrix: tuple[int, ...] | None
    rate: Fraction
    time_base: Fraction
    frames: int | None  # about how many


class Frame(NamedTuple):
    """One frame; ``pts`` and ``duration`` count the source's ``time_base``, pixels are (H, W, 3) RGB."""

    index: int
    pts: int
    duration: int
    pixels: NDArray[np.uint8] | NDArray[np.uint16] | None  # None: not wanted


def open_input(path: Path) -> Any:
    """A PyAV container.  Raises VideoError if ``path`` is no media file that can be opened."""
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise VideoError(f"{path}: cannot be read as a video ({why})") from None


def probe(path: Path, note: Note) -> Source:
    """Opens the file and decodes its first frame.

    Raises VideoError where there is no picture stream or decoder for it, or where it is interlaced.
    """
    with open_input(path) as container:
        stream = next(
            (s for s in container.streams.video if Disposition.attached_pic not in s.disposition), None
        )
        if stream is None or stream.codec_context is None:
            what = "has no video stream" if stream is None else "has video in a format that cannot be decoded"
            raise VideoError(f"{path}: {what}")
        try:
            first = next(container.decode(stream), None)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{path}: the first frame cannot be decoded ({error.strerror})") from None
        if first is None:
            raise VideoError(f"{path}: its video stream holds no frame")
        if first.interlaced_frame:
            raise VideoError(
                f"{path} is interlaced: deinterlace it first, "
                "for instance with ffmpeg -i IN -vf bwdif -c:v ffv1 -c:a copy OUT.mkv"
            )
        if any(component.is_alpha for component in first.format.components):
            note("transparency is left out: the output is opaque")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        frames = stream.frames
        if not frames and (seconds := _seconds(stream, container)):
            frames = round(seconds * rate)
        return Source(
            path=path,
            stream=stream.index,
            width=first.width,
            height=first.height,
            depth=16 if max(c.bits for c in first.format.components) > 8 else 8,
            colour=_colour(first, note),
            aspect=stream.sample_aspect_ratio or None,
            display_matrix=_display_matrix(first),
            rate=rate,
            time_base=stream.time_base,
            frames=frames or None,
        )


def read_frames(
    source: Source, wanted: Callable[[int], bool], ignore_errors: bool, note: Note
) -> Generator[Frame, None, None]:
    """All frames in the order of their times; only ``wanted`` ones (by index) get pixels.

    Raises VideoError at the first broken frame, or where the file ends too soon; with ``ignore_errors``
    such frames are left out, and ``note`` is told.
    """
    to_rgb = _Rgb(source)
    index, last, step = 0, None, max(1, round(1 / (source.rate * source.time_base)))

    def broken(where: str) -> None:
        what = f"{source.path}: {where}, after {index} frames"
        if not ignore_errors:
            raise VideoError(f"{what}; with --ignore-errors the rest is upscaled")
        note(what)

    with open_input(source.path) as container:
        stream = container.streams[source.stream]
        stream.thread_type = "AUTO"
        for frame in _decode(container, stream, broken):
            if frame.is_corrupt:
                broken("a damaged frame")
                continue
            if (frame.width, frame.height) != (source.width, source.height):
                raise VideoError(
                    f"{source.path}: frame {index} is {frame.width}x{frame.height}, those before are "
                    f"{source.width}x{source.height}: cut the file there and upscale the pieces"
                )
            pts = frame.pts
            if pts is None:
                pts = 0 if last is None else last + step
            if last is not None and pts <= last:
                pts = last + 1
            yield Frame(index, pts, frame.duration or step, to_rgb(frame) if wanted(index) else None)
            index, last = index + 1, pts
    if index == 0:
        raise VideoError(f"{source.path}: no frame can be read")


class _Rgb:
    """Frames as RGB arrays, by the source's colour matrix and range."""

    def __init__(self, source: Source):
        self._source = source
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> NDArray[Any]:
        colour = self._source.colour
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24" if self._source.depth == 8 else "rgb48le",
            src_colorspace=colour.sws_matrix,
            dst_colorspace=colour.sws_matrix,
            src_color_range=ColorRange.JPEG if frame.format.is_rgb else colour.range,
            dst_color_range=ColorRange.JPEG,
            interpolation=ACCURATE,
            threads=1,
        )
        return rgb.to_ndarray()


def _decode(
    container: Any, stream: Any, broken: Callable[[str], None]
) -> Generator[av.VideoFrame, None, None]:
    """The stream's frames; ``broken`` is told what cannot be read."""
    packets, end = 0, Fraction(0)
    # The header counts all frames of a file that was trimmed by an edit list; its index, those that are left.
    promised_frames = min(stream.frames, len(stream.index_entries))
    demuxed = container.demux()
    while True:
        packet = None
        try:
            packet = next(demuxed, None)
        except (av.FFmpegError, OSError) as error:
            broken(f"the file cannot be read on ({error.strerror})")
        if packet is None:
            break
        if packet.pts is not None:
            end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.stream_index == stream.index and packet.size:
            packets += 1
            yield from _frames(stream, packet, broken)
    yield from _frames(stream, None, broken)
    # A file that was cut short may read without any error: compare with what its header promised.
    if packets < promised_frames:
        broken(f"the file ends too soon: {packets} of {promised_frames} frames are there")
    elif container.duration is not None:
        promised = Fraction(container.duration + (container.start_time or 0), av.time_base)
        if end < promised - 1:
            broken(f"the file ends too soon: {float(end):.1f} of {float(promised):.1f} seconds are there")


def _frames(stream: Any, packet: Any, broken: Callable[[str], None]) -> list[av.VideoFrame]:
    """What the decoder gives for a packet; None: what it still holds."""
    try:
        return stream.decode(packet)
    except EOFError:  # nothing held
        return []
    except av.FFmpegError as error:
        broken(f"damaged data ({error.strerror})")
        return []


def _seconds(stream: Any, container: Any) -> Fraction | None:
    if stream.duration:
        return stream.duration * stream.time_base
    return Fraction(container.duration, av.time_base) if container.duration else None


def _colour(frame: av.VideoFrame, note: Note) -> Colour:
    rgb = frame.format.is_rgb
    matrix, color_range = frame.colorspace, frame.color_range
    if rgb:
        matrix = _BT709  # what the output gets
    elif matrix == _UNSPECIFIED or matrix == 0:
        # As players do.  It is written into the output, which they would otherwise guess by its larger size.
        matrix = _BT709 if frame.width >= 1280 or frame.height > 576 else _SMPTE170M
    elif matrix not in _SWS_MATRIX:
        note(f"colour matrix {matrix} (ITU-T H.273) is not known here; BT.709 is used")
        matrix = _BT709
    if rgb or not color_range:
        color_range = 2 if not rgb and frame.format.name.startswith("yuvj") else 1
    return Colour(matrix, color_range, frame.color_primaries, frame.color_trc)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return struct.unpack("=9i", bytes(data))
    return None
