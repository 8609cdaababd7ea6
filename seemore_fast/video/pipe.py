"""Videos through pipes, and as sequences of pictures: one pass, without a look ahead and without segments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av

from seemore_fast.errors import VideoError
from seemore_fast.system.ahead import run_ahead
from seemore_fast.system.atomic import atomic_path
from seemore_fast.video.carry import Copy, StreamTrial, describe_stream, is_strict, open_output
from seemore_fast.video.decode import enlarged, pictures
from seemore_fast.video.encode import Encoding, EncodingWish, Pictures, choose_encoding, output_size
from seemore_fast.video.sequence import Stills, is_sequence, numbers, open_sequence
from seemore_fast.video.source import Frame, Note, Source, describe, open_input

if TYPE_CHECKING:
    from seemore_fast.upscale.size import Size
    from seemore_fast.upscale.upscaler import Upscaler

# What standard output may get: the format's name for FFmpeg.
KINDS = {"y4m": "yuv4mpegpipe", "nut": "nut"}


def pipe_video(
    source: Path | BinaryIO,
    output: Path | BinaryIO,
    upscaler: Upscaler,
    wish: EncodingWish,
    *,
    kind: str | None = None,
    size: Size | None = None,
    rate: float | None = None,
    deinterlace: str | None = None,
    ignore_errors: bool = False,
    progress: Callable[[int, int | None, int], None] = lambda done, total, computed: None,
    note: Note = lambda message: None,
) -> int:
    """Enlarges ``source`` into ``output``, where a stream of bytes may be either; gives the number of frames.

    A stream of bytes gets y4m or NUT (``kind``, default as it comes), uncompressed unless ``wish`` says
    otherwise; NUT has the other streams, too, and times.  A file appears when it is complete.
    Either may be a sequence of pictures, ``in/%05d.png``, an input of ``rate`` a second (default: 24).

    Raises VideoError for what cannot be read or written; a stream of bytes may have got its beginning.
    """
    if wish.copy_quality:
        raise VideoError(
            "copy-quality looks through the source first, which a pipe and pictures do not allow"
        )
    said: set[str] = set()

    def say(message: str) -> None:
        if message not in said:
            said.add(message)
            note(message)

    name = source if isinstance(source, Path) else Path("standard input")
    target = output if isinstance(output, Path) else Path("standard output")
    with ExitStack() as stack:
        container = stack.enter_context(_opened(source, rate))
        read, early, first = describe(container, name, say, deinterlace)
        if isinstance(output, Path) and is_sequence(output):
            return _to_stills(
                container, read, first, source, output, upscaler, wish, size, ignore_errors, progress, say
            )
        sink: _Sink | None = None
        suffix, encoding = _encoding(container, output, read, wish, kind)
        pixels = output_size(read, upscaler.scale, encoding.pix_fmt, say, size)
        if isinstance(output, Path):
            if output.exists() and not output.is_file():
                raise VideoError(f"{output}: is not a file, and would be replaced by one")
            try:
                path = stack.enter_context(atomic_path(output))
            except OSError as error:
                raise VideoError(f"{output}: cannot be written ({error.strerror})") from None
            out = stack.enter_context(open_output(path, suffix))
        else:
            sink = _Sink(output)
            # More than 8 bits are an extension of y4m, which FFmpeg wants to be asked for.
            options = {"strict": "-1"} if suffix == ".y4m" else {}
            format_ = KINDS[suffix.lstrip(".")]
            out = stack.enter_context(av.open(sink, "w", format=format_, container_options=options))
        try:
            written = Pictures(out, read, encoding, pixels)
        except ValueError as error:
            raise VideoError(f"{target}: {error}") from None
        written.stream.time_base = written.stream.codec_context.time_base = read.time_base
        if read.display_matrix is not None and suffix != ".y4m":
            written.stream.set_display_matrix(read.display_matrix)
        if encoding.encoder == "libx265" and suffix in (".mp4", ".m4v", ".mov"):
            written.stream.codec_context.codec_tag = "hvc1"
        copies = _copies(container, read, out, suffix, say)
        written.begin()
        others: deque[Any] = deque(packet for packet in early if packet.stream_index in copies)

        broken = _breaker(name, ignore_errors, say)

        def copy_others() -> None:
            while others:
                packet = others.popleft()
                copies[packet.stream_index].adopt(packet)
                out.mux_one(packet)

        stream = container.streams[read.stream]
        frames = _decoded(container, stream, first, others, copies, broken)
        ready = run_ahead(pictures(read, frames, stream, lambda index: True, say), 4)
        count = 0
        try:
            with closing(run_ahead(enlarged(ready, upscaler, size), 2)) as results:
                for frame in results:
                    if suffix == ".y4m":
                        _check_rate(frame, read, count, say)
                    copy_others()
                    assert frame.pixels is not None
                    written.write(frame.pixels, frame.pts, read.time_base)
                    if sink is not None and sink.error is not None:
                        raise sink.error
                    count += 1
                    progress(count, None, count)
            copy_others()
            written.end()
            out.close()
            if sink is not None and sink.error is not None:
                raise sink.error
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{target}: cannot be written ({error.strerror or error})") from None
    return count


def _breaker(name: Path, ignore_errors: bool, note: Note) -> Callable[[str], None]:
    """What is told of damage: an error, or a line."""

    def broken(where: str) -> None:
        what = f"{name}: {where}"
        if not ignore_errors:
            raise VideoError(f"{what}; with --ignore-errors the rest is upscaled")
        note(what)

    return broken


def _to_stills(
    container: Any,
    source: Source,
    first: list[av.VideoFrame],
    given: Path | BinaryIO,
    output: Path,
    upscaler: Upscaler,
    wish: EncodingWish,
    size: Size | None,
    ignore_errors: bool,
    progress: Callable[[int, int | None, int], None],
    note: Note,
) -> int:
    """Frames as numbered pictures, numbered as those of an input sequence are."""
    if wish != EncodingWish():
        raise VideoError(f"{output}: pictures are no video, no codec or setting of one goes into them")
    scale = upscaler.scale
    height, width = (
        size.of(source.height, source.width) if size else (source.height * scale, source.width * scale)
    )
    begin = numbers(given)[0] if isinstance(given, Path) and is_sequence(given) else 1
    stills = Stills(output, height, width, begin)
    if len(container.streams) > 1:
        note("only the pictures are kept, not the other streams")
    stream, none = container.streams[source.stream], deque[Any]()
    broken = _breaker(source.path, ignore_errors, note)
    frames = _decoded(container, stream, first, none, {}, broken)
    ready = run_ahead(pictures(source, frames, stream, lambda index: True, note), 4)
    count = 0
    with closing(run_ahead(enlarged(ready, upscaler, size), 2)) as results:
        for frame in results:
            assert frame.pixels is not None
            stills.write(frame.pixels)
            count += 1
            progress(count, None, count)
    return count


class _Sink:
    """Standard output for PyAV, which cannot pass errors of Python through; it does not seek."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self._file.write(data)
                self._file.flush()
            except OSError as error:
                self.error = error
        return len(data)


def _opened(source: Path | BinaryIO, rate: float | None) -> Any:
    if isinstance(source, Path) and is_sequence(source):
        return open_sequence(source, Fraction(rate or 24).limit_denominator(100_000))
    if rate is not None:
        raise VideoError("rate is of a sequence of pictures; a video has its own")
    if isinstance(source, Path):
        return open_input(source)
    try:
        return av.open(source, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"standard input: cannot be read as a video ({error.strerror})") from None


def _encoding(
    container: Any, output: Path | BinaryIO, source: Source, wish: EncodingWish, kind: str | None
) -> tuple[str, Encoding]:
    """The output's suffix, which is ``.y4m`` or ``.nut`` on standard output, and what encodes it."""
    if isinstance(output, Path):
        if kind is not None:
            raise VideoError(f"pipe-format {kind} is for standard output; {output} goes by its name")
        return output.suffix.lower(), choose_encoding(output, source, wish)
    kind = kind or ("y4m" if container.format.name == KINDS["y4m"] else "nut")
    if kind not in KINDS:
        raise VideoError(f"pipe-format must be one of {', '.join(KINDS)}, got {kind!r}")
    if wish.codec is not None or wish.encoder is not None:
        if kind == "y4m":
            raise VideoError("y4m holds uncompressed pictures: no codec goes into it; use --pipe-format nut")
        return ".nut", choose_encoding(Path("pipe.mkv"), source, wish)
    if wish.crf is not None or wish.preset is not None or wish.options:
        raise VideoError("standard output is uncompressed: crf, preset and options need --codec or --encoder")
    pix_fmt = wish.pix_fmt or ("yuv420p" if source.depth == 8 else "yuv420p10le")
    if pix_fmt not in av.video.frame.supported_np_pix_fmts and not pix_fmt.startswith("yuv"):
        raise VideoError(f"pix-fmt {pix_fmt!r} is not known")
    encoder = "wrapped_avframe" if kind == "y4m" else "rawvideo"
    return f".{kind}", Encoding(encoder, None, None, pix_fmt=pix_fmt)


def _copies(container: Any, source: Source, out: Any, suffix: str, note: Note) -> dict[int, Copy]:
    """The other streams that the output takes."""
    copies = {}
    for stream in container.streams:
        if stream.index == source.stream:
            continue
        trial = StreamTrial(stream, suffix) if suffix != ".y4m" else None
        if trial is not None and trial.accepted() and not trial.by_tee:
            copies[stream.index] = Copy(out, stream, strict=is_strict(suffix))
        else:
            what = f"stream {stream.index} ({describe_stream(stream)})"
            note(f"{what} is left out: {suffix} does not take it")
    return copies


def _decoded(
    container: Any,
    stream: Any,
    first: list[av.VideoFrame],
    others: deque[Any],
    copies: dict[int, Copy],
    broken: Callable[[str], None],
) -> Generator[av.VideoFrame, None, None]:
    """All frames; packets to copy go into ``others`` on the way."""
    yield from first
    try:
        for packet in container.demux():
            if packet.stream_index in copies and packet.size:
                others.append(packet)
            if packet.stream_index != stream.index:
                continue
            try:
                frames = stream.decode(packet)
            except EOFError:
                continue
            except av.FFmpegError as error:
                broken(f"damaged data ({error.strerror})")
                continue
            for frame in frames:
                frame.time_base = stream.time_base
                if frame.is_corrupt:
                    broken("a damaged frame")
                else:
                    yield frame
    except (av.FFmpegError, OSError) as error:
        broken(f"cannot be read on ({error.strerror})")


def _check_rate(frame: Frame, source: Source, count: int, note: Note) -> None:
    """y4m has one rate and no times."""
    step = 1 / source.rate
    if abs(frame.pts * source.time_base - count * step) > step:
        note("y4m has one rate: the times of the frames are lost; --pipe-format nut keeps them")
