"""Videos through the network: `upscale_video` decodes, enlarges and encodes at the same time, and can go on.

source.py reads frames, encode.py writes segments of them, parts.py keeps finished segments over a crash,
join.py makes the final file.  Needs PyAV: the extra ``video``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from seemore_fast.errors import SeemoreError, VideoError
from seemore_fast.system.atomic import atomic_path, remove_stale
from seemore_fast.system.background import run_ahead

try:
    import av
except ImportError:
    raise VideoError("video needs PyAV (and Python 3.11): pip install 'seemore-fast[video]'") from None

from seemore_fast.video.encode import Segment, check_aspect, check_encoder, choose_encoding, output_size
from seemore_fast.video.join import Times, copied_streams, join
from seemore_fast.video.parts import Parts, file_identity
from seemore_fast.video.source import Frame, Note, probe, read_frames

if TYPE_CHECKING:
    from seemore_fast.upscale.upscaler import Upscaler

__all__ = ["upscale_video"]

# Frames; a restart repeats at most so many. Also the largest distance of key frames: 4 to 5 seconds.
SEGMENT = 120

av.logging.set_level(av.logging.PANIC)  # what FFmpeg writes to stderr comes as errors, too


def upscale_video(
    source: Path,
    output: Path,
    upscaler: Upscaler,
    *,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    ignore_errors: bool = False,
    segment: int = SEGMENT,
    progress: Callable[[int, int | None, int], None] = lambda done, total, computed: None,
    note: Note = lambda message: None,
) -> int:
    """Writes ``output``, the video ``source`` enlarged by ``upscaler``; gives the number of frames.

    Frames keep their times; the other streams, chapters and metadata are copied.  The output appears when it
    is complete.  Until then finished segments of ``segment`` frames are in ``<output>.parts/``, from where
    the same call goes on after a crash; a call with other settings starts anew.

    * ``codec``: h264, h265, av1, vp9 or ffv1; default by the output's name and the source's bit depth.
      ``crf``, ``preset`` and ``pix_fmt`` are the encoder's own.
    * ``ignore_errors``: damaged frames and a missing end are left out instead of raising VideoError.
    * ``progress(done, total, computed)`` in frames; ``total`` is None if unknown, ``computed`` counts those
      of this call.  ``note`` gets lines that the user should read.

    Raises VideoError for inputs that cannot be read and settings that do not fit, before anything is
    written, and for damage where it is met.
    """
    if segment < 1:
        raise VideoError(f"segment must be at least 1 frame, got {segment}")
    if not source.is_file():
        raise VideoError(f"{source}: there is no such file")
    if output.exists() and source.samefile(output):
        raise VideoError(f"{output}: the output would replace the input")
    read = probe(source, note)
    encoding = choose_encoding(output, read, codec, crf, preset, pix_fmt)
    size = output_size(read, upscaler.scale, encoding.pix_fmt, note)
    check_aspect(output, read, encoding, note)
    copied = copied_streams(read, output, note)
    parts = Parts(output)
    identity = {
        "input": file_identity(source),
        "settings": {**asdict(encoding), "segment": segment, "ignore_errors": ignore_errors},
        "network": upscaler.identity(),
        "libraries": {"av": av.__version__},
    }
    with parts.locked():
        remove_stale(output.resolve().parent)  # a job killed while it joined the segments left its file there
        if parts.begin(identity, note) and output.exists():
            parts.remove(identity)
            note(f"{output}: had been finished already")
            return 0
        check_encoder(parts.folder / "trial.part", read, encoding, size)
        finished = parts.finished(segment)
        if finished:
            note(f"going on: {len(finished)} of the segments of {segment} frames are there")

        pts: list[int] = []
        last_duration = 1
        frames = run_ahead(read_frames(read, lambda i: i // segment not in finished, ignore_errors, note), 4)
        with closing(run_ahead(_enlarge(frames, upscaler), 2)) as enlarged:
            writer: Segment | None = None
            computed = 0
            try:
                for frame in enlarged:
                    pts.append(frame.pts)
                    last_duration = frame.duration
                    number, offset = divmod(frame.index, segment)
                    if offset == 0 and writer is not None:
                        writer.close()
                        parts.keep(number - 1)
                        writer = None
                    if frame.pixels is not None:
                        writer = writer or Segment(parts.unfinished(number), read, encoding, size)
                        writer.write(frame.pixels)
                        computed += 1
                    progress(len(pts), read.frames, computed)
                if writer is not None:
                    writer.close()
                    parts.keep((len(pts) - 1) // segment)
            except (av.FFmpegError, OSError) as error:
                raise VideoError(f"{output}: cannot be encoded ({error.strerror})") from None

        segments = [parts.path(number) for number in range(-(-len(pts) // segment))]
        try:
            with atomic_path(output) as temporary:
                join(read, segments, Times(pts, last_duration), copied, temporary, output.suffix.lower())
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{output}: cannot be written ({error.strerror})") from None
        parts.remove(identity)
    return len(pts)


def _enlarge(frames: Generator[Frame, None, None], upscaler: Upscaler) -> Generator[Frame, None, None]:
    with closing(frames):
        for frame in frames:
            if frame.pixels is None:
                yield frame
                continue
            try:
                pixels = upscaler.up(frame.pixels)
            except MemoryError as error:
                raise VideoError(f"frame {frame.index}: {error or 'out of memory'}") from None
            except SeemoreError as error:
                raise type(error)(f"frame {frame.index}: {error}") from None
            yield frame._replace(pixels=pixels)
