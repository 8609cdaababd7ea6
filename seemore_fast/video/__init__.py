"""Videos through the network: `upscale_video` decodes, enlarges and encodes at the same time, and can go on.

survey.py reads all packets once before the work, decode.py frames, encode.py writes segments of frames,
parts.py keeps finished ones over a crash, join.py makes the final file, carry.py knows what it holds of the
input; pipe.py does without all that, for standard input and output.  Needs PyAV: the extra ``video``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from seemore_fast.errors import VideoError
from seemore_fast.system.ahead import run_ahead
from seemore_fast.system.atomic import atomic_path, remove_stale
from seemore_fast.system.optional import need

with need("video (Python 3.11 or newer)", "video"):
    import av

from seemore_fast.video.carry import differences
from seemore_fast.video.decode import enlarged, read_frames
from seemore_fast.video.encode import (
    Encoding,
    EncodingWish,
    Segment,
    check_encoder,
    choose_encoding,
    like_source,
    output_size,
)
from seemore_fast.video.join import Times, join
from seemore_fast.video.parts import Parts, file_identity
from seemore_fast.video.pipe import pipe_video
from seemore_fast.video.preview import preview
from seemore_fast.video.sequence import is_sequence
from seemore_fast.video.source import Note, Source, probe
from seemore_fast.video.survey import Survey, survey_packets

if TYPE_CHECKING:
    from seemore_fast.upscale.size import Size
    from seemore_fast.upscale.upscaler import Upscaler

__all__ = ["EncodingWish", "is_sequence", "pipe_video", "preview", "upscale_video"]

# Frames; a restart repeats at most so many. Also the largest distance of key frames: 4 to 5 seconds.
SEGMENT = 120

REHEARSED = 500  # packets of the other streams that the rehearsal writes

av.logging.set_level(av.logging.PANIC)  # what FFmpeg writes to stderr comes as errors, too


def upscale_video(
    source: Path,
    output: Path,
    upscaler: Upscaler,
    *,
    size: Size | None = None,
    codec: str | None = None,
    encoder: str | None = None,
    encoder_options: Mapping[str, str] | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    copy_quality: bool = False,
    hardware: str | None = None,
    deinterlace: str | None = None,
    begin: float | None = None,
    end: float | None = None,
    ignore_errors: bool = False,
    segment: int = SEGMENT,
    progress: Callable[[int, int | None, int], None] = lambda done, total, computed: None,
    note: Note = lambda message: None,
) -> int:
    """Writes ``output``, the video ``source`` enlarged by ``upscaler``; gives the number of frames.

    Frames keep their times; the other streams, chapters and metadata are copied.  The output appears when it
    is complete.  Until then finished segments of ``segment`` frames are in ``<output>.parts/``, from where
    the same call goes on after a crash; a call with other settings starts anew.

    * ``size``: to reach, as `Upscaler.up` has it; default: ``upscaler.scale`` times the input's.
    * ``codec``: h264, h265, av1, vp9 or ffv1; default by the output's name and the source's bit depth.
      ``crf``, ``preset`` and ``pix_fmt`` are the encoder's own.  ``encoder``: instead, one of FFmpeg's by its
      name; ``encoder_options`` goes to the encoder, whichever it is.
    * ``copy_quality``: the source's codec, where the container takes it, at the source's bit rate times the
      0.75th power of the growth in pixels.
    * ``hardware``: what decodes, by FFmpeg's name (cuda, vaapi ...); default: the processor.
    * ``deinterlace``: "frame" or "field": a picture of each interlaced frame, or of each of its fields.
    * ``begin``, ``end``: the part in seconds from the first picture, ``end`` not included.
    * ``ignore_errors``: damaged frames and a missing end are left out instead of raising VideoError.
    * ``progress(done, total, computed)`` in frames; ``total`` is None if unknown, ``computed`` counts those
      of this call.  ``note`` gets lines that the user should read.

    Raises VideoError for inputs that cannot be read and settings that do not fit, before anything is
    written, and for damage where it is met.
    """
    if segment < 1:
        raise VideoError(f"segment must be at least 1 frame, got {segment}")
    if not source.is_file():
        what = "is not a file: pipe it in, with - as the name" if source.exists() else "there is no such file"
        raise VideoError(f"{source}: {what}")
    if output.exists() and not output.is_file():
        raise VideoError(f"{output}: is not a file, and would be replaced by one")
    if output.exists() and source.samefile(output):
        raise VideoError(f"{output}: the output would replace the input")
    said: set[str] = set()

    def say(message: str) -> None:
        if message not in said:
            said.add(message)
            note(message)

    suffix = output.suffix.lower()
    if deinterlace not in (None, "frame", "field"):
        raise VideoError(f"deinterlace must be frame or field, got {deinterlace!r}")
    read = probe(source, say, deinterlace, hardware)
    wish = EncodingWish(codec, encoder, dict(encoder_options or {}), crf, preset, pix_fmt, copy_quality)
    shape = (
        size.of(read.height, read.width)
        if size
        else (read.height * upscaler.scale, read.width * upscaler.scale)
    )
    wish = like_source(output, read, wish, shape[0] * shape[1])
    encoding = choose_encoding(output, read, wish)
    pixels = output_size(read, upscaler.scale, encoding.pix_fmt, say, size)
    part = [None if t is None else Fraction(t).limit_denominator(1_000_000) for t in (begin, end)]
    if (part[0] or 0) < 0 or (part[1] is not None and part[1] <= (part[0] or 0)):
        raise VideoError(f"the part must begin at 0 s or later and end after that, got {begin} to {end}")
    found = survey_packets(read, suffix, ignore_errors, say, (part[0], part[1]))
    _rehearse(read, found, encoding, pixels, output, say)
    parts = Parts(output)
    # Without ignore_errors: what was finished before the damage is the same with it.
    identity = {
        "input": file_identity(source),
        "settings": {
            **asdict(encoding),
            "segment": segment,
            "deinterlace": deinterlace,
            "part": [begin, end],
            "size": None if size is None else list(pixels),
        },
        "network": upscaler.identity(),
        "libraries": {"av": av.__version__},
    }
    with parts.locked():
        remove_stale(output.resolve().parent)  # a job killed while it joined the segments left its file there
        if parts.begin(identity, say) and output.exists():
            parts.remove(identity)
            say(f"{output}: had been finished already")
            return 0
        finished = parts.finished(segment)
        if finished:
            say(f"going on: {len(finished)} of the segments of {segment} frames are there")

        pts: list[int] = []
        last_duration = 1
        wanted = read_frames(
            read, found.joints, lambda i: i // segment not in finished, ignore_errors, say, found.window
        )
        frames = run_ahead(wanted, 4)
        with closing(run_ahead(enlarged(frames, upscaler, size), 2)) as results:
            writer: Segment | None = None
            computed = 0
            try:
                for frame in results:
                    pts.append(frame.pts)
                    last_duration = frame.duration
                    number, offset = divmod(frame.index, segment)
                    if offset == 0 and writer is not None:
                        writer.close()
                        parts.keep(number - 1)
                        writer = None
                    if frame.pixels is not None:
                        writer = writer or Segment(parts.unfinished(number), read, encoding, pixels)
                        writer.write(frame.pixels)
                        computed += 1
                    progress(len(pts), found.frames, computed)
                if writer is not None:
                    writer.close()
                    parts.keep((len(pts) - 1) // segment)
            except (av.FFmpegError, OSError) as error:
                raise VideoError(f"{output}: cannot be encoded ({error.strerror})") from None

        segments = [parts.path(number) for number in range(-(-len(pts) // segment))]
        try:
            with atomic_path(output) as temporary:
                join(read, segments, Times(pts, last_duration), found, temporary, suffix)
                for line in differences(read, found.copied, temporary, suffix):
                    say(line)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{output}: cannot be written ({error.strerror})") from None
        parts.remove(identity)
    return len(pts)


def _rehearse(
    source: Source, found: Survey, encoding: Encoding, size: tuple[int, int], output: Path, note: Note
) -> None:
    """Does all that follows the network, with a black frame, and tells what the output will not hold."""
    suffix = output.suffix.lower()
    with tempfile.TemporaryDirectory() as folder:
        segment, whole = Path(folder, "segment.nut"), Path(folder, "whole")
        check_encoder(segment, source, encoding, size)
        try:
            join(source, [segment], Times([0], 1), found, whole, suffix, limit=REHEARSED)
        except (av.FFmpegError, OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise VideoError(f"{output}: {suffix} does not take these streams together ({why})") from None
        for line in differences(source, found.copied, whole, suffix):
            note(line)
