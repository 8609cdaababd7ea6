"""A video's frames as RGB arrays with their times, and what is missing of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from seemore_fast.errors import SeemoreError, VideoError
from seemore_fast.video.fields import deinterlaced
from seemore_fast.video.source import ACCURATE, Frame, Joints, Looks, Note, Source, Window, open_input

if TYPE_CHECKING:
    from seemore_fast.upscale.size import Size
    from seemore_fast.upscale.upscaler import Upscaler


def timed_packets(container: Any, joints: Joints) -> Generator[Any, None, None]:
    """All packets in the order of the file, with the times that ``joints`` gives them."""
    changes = {stream: list(found) for stream, found in joints.changes.items()}
    offsets: dict[int, Fraction] = {}
    for number, packet in enumerate(container.demux()):
        index = packet.stream_index
        while changes.get(index) and number >= changes[index][0][0]:
            offsets[index] = changes[index].pop(0)[1]
        if index in offsets and packet.size:
            shift = round(offsets[index] / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        yield packet


def read_frames(
    source: Source,
    joints: Joints,
    wanted: Callable[[int], bool],
    ignore_errors: bool,
    note: Note,
    window: Window = Window(),  # noqa: B008 (frozen)
) -> Generator[Frame, None, None]:
    """All frames of ``window`` in the order of their times; only ``wanted`` ones (by index) get pixels.

    Raises VideoError at the first broken frame, or one that `Looks` refuses; with ``ignore_errors`` broken
    ones are left out, and ``note`` is told.
    """
    index = 0

    def broken(where: str) -> None:
        what = f"{source.path}: {where}, after {index} frames"
        if not ignore_errors:
            raise VideoError(f"{what}; with --ignore-errors the rest is upscaled")
        note(what)

    with open_input(source.path, source.hardware) as container:
        stream = container.streams[source.stream]
        stream.thread_type = "AUTO"

        def whole() -> Generator[av.VideoFrame, None, None]:
            for frame in _decode(container, stream, joints, broken, source.deinterlace is None):
                if frame.is_corrupt:
                    broken("a damaged frame")
                else:
                    yield frame

        for picture in pictures(source, whole(), stream, wanted, note, window):
            yield picture
            index += 1
    if index == 0:
        raise VideoError(
            f"{source.path}: no frame {'is in that part' if window != Window() else 'can be read'}"
        )


def pictures(
    source: Source,
    frames: Iterable[av.VideoFrame],
    stream: Any,
    wanted: Callable[[int], bool],
    note: Note,
    window: Window = Window(),  # noqa: B008 (frozen)
) -> Generator[Frame, None, None]:
    """Decoded ``frames``, looked at, deinterlaced if so wished, with rising times and as arrays."""
    to_rgb, looks = _Rgb(source), Looks(source, note)
    last, step = None, max(1, round(1 / (source.rate * source.time_base)))
    if source.deinterlace is not None:
        frames = deinterlaced(_looked_at(frames, looks), stream, source.deinterlace)
    else:
        frames = _looked_at(frames, looks)
    index, shift = 0, window.shift(source.time_base)
    for frame in frames:
        if frame.pts is None:
            pts = 0 if last is None else last + step
        else:
            pts = round(frame.pts * frame.time_base / source.time_base)
        if last is not None and pts <= last:
            pts = last + 1
        last = pts
        if window.end is not None and pts * source.time_base >= window.end:
            return
        if window.holds(pts * source.time_base):
            duration = round((frame.duration or 0) * frame.time_base / source.time_base) or step
            yield Frame(index, pts - shift, duration, to_rgb(frame) if wanted(index) else None)
            index += 1


def _looked_at(frames: Iterable[av.VideoFrame], looks: Looks) -> Generator[av.VideoFrame, None, None]:
    for frame in frames:
        looks.check(frame)
        yield frame


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


# Their decoders give a frame for each packet, unless it is damaged.
_FRAME_PER_PACKET = (
    "h264",
    "hevc",
    "av1",
    "vp9",
    "ffv1",
    "mjpeg",
    "png",
    "prores",
    "dnxhd",
    "huffyuv",
    "utvideo",
)

_REORDERED = 17  # frames, more than any codec shows late


class _Missing:
    """Packets that gave no frame, which a decoder may drop without an error, as that of HEVC does."""

    def __init__(self, codec: str):
        self._frame_per_packet = codec in _FRAME_PER_PACKET
        self._pending: set[int] = set()
        self._shown: deque[int] = deque(maxlen=_REORDERED)
        self._first: int | None = None

    def sent(self, packet: Any) -> None:
        if self._frame_per_packet and packet.pts is not None and not packet.is_discard:
            self._pending.add(packet.pts)

    def count(self, frame: av.VideoFrame | None) -> int:
        """How many are known to be missing now that ``frame`` was given; None: the last one was."""
        if frame is not None and frame.pts is not None:
            self._first = frame.pts if self._first is None else self._first
            self._pending.discard(frame.pts)
            self._shown.append(frame.pts)
        if self._first is None or (frame is not None and len(self._shown) < _REORDERED):
            return 0
        missing = {pts for pts in self._pending if frame is None or pts < min(self._shown)}
        self._pending -= missing
        return sum(pts > self._first for pts in missing)


def _decode(
    container: Any, stream: Any, joints: Joints, broken: Callable[[str], None], progressive: bool
) -> Generator[av.VideoFrame, None, None]:
    """The stream's frames; ``broken`` is told what cannot be decoded."""
    # A packet may be a field, of which two give a frame.
    missing = _Missing(stream.codec_context.codec.canonical_name if progressive else "")
    errors = 0  # that were told, each of a packet without a frame

    def frames(packet: Any) -> Generator[av.VideoFrame, None, None]:
        nonlocal errors
        try:
            decoded = stream.decode(packet)
        except EOFError:  # nothing held
            return
        except av.FFmpegError as error:
            broken(f"damaged data ({error.strerror})")
            errors += 1
            return
        for frame in decoded:
            frame.time_base = stream.time_base  # PyAV leaves it out at the end
            lack(missing.count(frame))
            yield frame

    def lack(count: int) -> None:
        nonlocal errors
        excused = min(errors, count)
        errors -= excused
        if count > excused:
            broken(f"damaged data ({count - excused} frames cannot be decoded)")

    with suppress(av.FFmpegError, OSError):  # where the file cannot be read on: the survey has told
        for packet in timed_packets(container, joints):
            if packet.stream_index == stream.index and packet.size:
                missing.sent(packet)
                yield from frames(packet)
    yield from frames(None)
    lack(missing.count(None))


def enlarged(
    frames: Generator[Frame, None, None], upscaler: Upscaler, size: Size | None = None
) -> Generator[Frame, None, None]:
    """The frames through the network, those without pixels as they are.  Errors name the frame."""
    with closing(frames):
        for frame in frames:
            if frame.pixels is None:
                yield frame
                continue
            try:
                pixels = upscaler.up(frame.pixels, size=size)
            except MemoryError as error:
                raise VideoError(f"frame {frame.index}: {error or 'out of memory'}") from None
            except SeemoreError as error:
                raise type(error)(f"frame {frame.index}: {error}") from None
            yield replace(frame, pixels=pixels)
