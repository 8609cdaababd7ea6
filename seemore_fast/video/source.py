"""Reading a video: what its picture stream is, and its frames as RGB arrays with their times."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.stream import Disposition
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from seemore_fast.errors import VideoError
from seemore_fast.video.fields import is_telecined

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
_BT709, UNSPECIFIED, _SMPTE170M = 1, 2, 6

_TELECINED = (
    "telecined film, as it looks: ffmpeg -i IN -vf fieldmatch,decimate -c:v ffv1 -c:a copy OUT.mkv "
    "gives back its own pictures"
)

NO_ALPHA = "transparency is left out: the output is opaque"

# What lies beside the pixels and cannot be given to an encoder, as people know it.
_LOST = {
    "A53_CC": "closed captions",
    "AFD": "active format description",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing environment",
    "CONTENT_LIGHT_LEVEL": "HDR10's light levels",
    "DOVI_METADATA": "Dolby Vision's metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision's metadata",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "ICC_PROFILE": "an ICC profile",
    "MASTERING_DISPLAY_METADATA": "HDR10's mastering display",
    "S12M_TIMECODE": "timecodes",
    "SPHERICAL": "a spherical projection",
    "STEREO3D": "a stereoscopic layout",
}


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

    def label(self, context: Any, rgb: bool) -> None:
        """Sets the fields of a codec context, whose pictures are YUV or ``rgb``."""
        context.colorspace, context.color_range = (0, 2) if rgb else (self.matrix, self.range)
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
    rate: Fraction  # of the pictures that come out
    time_base: Fraction
    deinterlace: str | None  # "frame" or "field": pictures that come out of an interlaced frame
    codec: str = ""  # FFmpeg's name
    hardware: str | None = None  # what decodes, by FFmpeg's name; None: the processor


@dataclass(frozen=True)
class Joints:
    """Where times jump back, as in files joined by ``cat``, and what is added to them from there on."""

    count: int
    # By stream: number of the packet in the file, seconds from that packet on.
    changes: dict[int, tuple[tuple[int, Fraction], ...]]


@dataclass(frozen=True)
class Window:
    """The part of a video that is wanted, in seconds of its own times; it begins at 0 in the output.

    ``begin`` None: from the start, whose time is kept; ``end`` None: to the end.
    """

    begin: Fraction | None = None
    end: Fraction | None = None

    def holds(self, time: Fraction) -> bool:
        """Whether what begins at ``time`` is in it."""
        return (self.begin is None or time >= self.begin) and (self.end is None or time < self.end)

    def shift(self, time_base: Fraction) -> int:
        """What is taken off times that count ``time_base``."""
        return 0 if self.begin is None else round(self.begin / time_base)


@dataclass(frozen=True)
class Frame:
    """One frame; ``pts`` and ``duration`` count the source's ``time_base``, pixels are (H, W, 3) RGB."""

    index: int
    pts: int
    duration: int
    pixels: NDArray[np.uint8] | NDArray[np.uint16] | None  # None: not wanted


def url(path: Path) -> str:
    """``path`` as FFmpeg takes it for a file, whatever it looks like: ``S01:E02.mp4``, ``concat:a``."""
    return f"file:{path}"


def open_input(path: Path, hardware: str | None = None) -> Any:
    """A PyAV container, whose pictures ``hardware`` decodes (FFmpeg's name: cuda, vaapi ...).

    Raises VideoError if ``path`` is no media file that can be opened, or there is no such hardware.
    """
    accelerated = None
    if hardware is not None:
        if hardware not in (known := hwdevices_available()):
            raise VideoError(f"hwaccel must be one of {', '.join(known)}, got {hardware!r}")
        accelerated = HWAccel(hardware, allow_software_fallback=False)
    try:
        return av.open(url(path), metadata_errors="replace", hwaccel=accelerated)
    except (av.FFmpegError, OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        if hardware is not None and path.exists():
            raise VideoError(f"{path}: {hardware} does not decode it here ({why})") from None
        raise VideoError(f"{path}: cannot be read as a video ({why})") from None


def probe(path: Path, note: Note, deinterlace: str | None = None, hardware: str | None = None) -> Source:
    """Opens the file and decodes its first frame; ``deinterlace`` and ``hardware`` as in `Source`.

    Raises VideoError where there is no picture stream or decoder for it, or what `Looks` refuses.
    """
    with open_input(path, hardware) as container:
        return replace(describe(container, path, note, deinterlace)[0], hardware=hardware)


def bit_rate(source: Source) -> float:
    """Bits a second of the picture stream, from the sizes of its packets.  Raises VideoError."""
    with open_input(source.path) as container:
        stream = container.streams[source.stream]
        try:
            sizes = [packet.size for packet in container.demux(stream) if packet.size]
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{source.path}: cannot be read on ({error.strerror})") from None
        return 8 * sum(sizes) * float(stream.average_rate or stream.guessed_rate or 25) / max(len(sizes), 1)


def describe(
    container: Any, path: Path, note: Note, deinterlace: str | None = None
) -> tuple[Source, list[Any], list[av.VideoFrame]]:
    """What `probe` says of an open file, with the packets that were read for it and the frames they gave."""
    stream = next((s for s in container.streams.video if not is_cover(s)), None)
    if stream is None or stream.codec_context is None:
        what = "has no video stream" if stream is None else "has video in a format that cannot be decoded"
        raise VideoError(f"{path}: {what}")
    packets: list[Any] = []
    frames: list[av.VideoFrame] = []
    try:
        for packet in container.demux():
            if packet.stream_index == stream.index:
                frames = stream.decode(packet)
            elif packet.size:
                packets.append(packet)
            if frames:
                break
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: the first frame cannot be decoded ({error.strerror})") from None
    if not frames:
        raise VideoError(f"{path}: its video stream holds no frame")
    first = frames[0]
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    if stream.metadata.get("alpha_mode") == "1":  # VP8 and VP9 have it beside the pictures
        note(NO_ALPHA)
    split = 2 if deinterlace == "field" else 1
    source = Source(
        path=path,
        stream=stream.index,
        width=first.width,
        height=first.height,
        depth=16 if max(c.bits for c in first.format.components) > 8 else 8,
        colour=_colour(first, note),
        aspect=stream.sample_aspect_ratio or None,
        display_matrix=display_matrix(first),
        rate=rate * split,
        time_base=stream.time_base / split,
        deinterlace=deinterlace,
        codec=stream.codec_context.codec.canonical_name,
    )
    Looks(source, note).check(first)
    return source, packets, frames


def is_cover(stream: Any) -> bool:
    """Whether a video stream is but a picture on the cover."""
    return Disposition.attached_pic in stream.disposition


class Looks:
    """Asks frames for what only some of them may have: another size, fields, transparency."""

    def __init__(self, source: Source, note: Note):
        self._source, self._note = source, note
        self._interlaced = False

    def check(self, frame: av.VideoFrame) -> None:
        """Raises VideoError where it is interlaced or of another size; tells what is not carried over."""
        source = self._source
        where = "" if frame.pts is None else f" at {float(frame.pts * (frame.time_base or 0)):.2f} s"
        if frame.interlaced_frame and source.deinterlace is None:
            advice = (
                f"it is {_TELECINED}" if _is_telecined(source) else "--deinterlace makes whole pictures of it"
            )
            raise VideoError(f"{source.path} is interlaced{where}: {advice}")
        if frame.interlaced_frame and not self._interlaced:
            self._interlaced = True
            if _is_telecined(source):
                self._note(f"{source.path} is {_TELECINED}")
        if _transparent(frame):
            self._note(NO_ALPHA)
        for name in _side_data(frame).keys() & _LOST:
            self._note(f"{_LOST[name]} inside the pictures: left out")
        if (frame.width, frame.height) != (source.width, source.height):
            raise VideoError(
                f"{source.path}: the frame{where} is {frame.width}x{frame.height}, those before are "
                f"{source.width}x{source.height}: cut the file there and upscale the pieces"
            )


def _colour(frame: av.VideoFrame, note: Note) -> Colour:
    rgb = frame.format.is_rgb
    matrix, color_range = frame.colorspace, frame.color_range
    if rgb:
        matrix = _BT709  # what the output gets
    elif matrix == UNSPECIFIED or matrix == 0:
        # As players do.  It is written into the output, which they would otherwise guess by its larger size.
        matrix = _BT709 if frame.width >= 1280 or frame.height > 576 else _SMPTE170M
    elif matrix not in _SWS_MATRIX:
        note(f"colour matrix {matrix} (ITU-T H.273) is not known here; BT.709 is used")
        matrix = _BT709
    if rgb or not color_range:
        color_range = 2 if not rgb and frame.format.name.startswith("yuvj") else 1
    return Colour(matrix, color_range, frame.color_primaries, frame.color_trc)


def _transparent(frame: av.VideoFrame) -> bool:
    if frame.format.has_palette:  # whose colours may be transparent
        return bool((frame.reformat(format="rgba").to_ndarray()[..., 3] < 255).any())
    return any(component.is_alpha for component in frame.format.components)


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers that say how players turn the picture."""
    data = _side_data(frame).get("DISPLAYMATRIX")
    return None if data is None else struct.unpack("=9i", bytes(data))


def _is_telecined(source: Source) -> bool:
    with open_input(source.path) as container:
        stream = container.streams[source.stream]
        stream.thread_type = "AUTO"
        try:
            return is_telecined(container.decode(stream), stream)
        except (av.FFmpegError, OSError):
            return False


def _side_data(frame: av.VideoFrame) -> dict[str, Any]:
    """By FFmpeg's names, as far as PyAV knows them."""
    found = {}
    with suppress(ValueError):  # of a kind that it does not know, such as a TIFF's EXIF
        for data in frame.side_data:
            with suppress(ValueError):
                found[data.type.name] = data
    return found
