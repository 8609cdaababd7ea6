"""The final file: segments joined with the source's times, every other stream copied packet by packet."""

from __future__ import annotations

import heapq
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.stream import Disposition

from seemore_fast.errors import VideoError
from seemore_fast.video.source import Note, Source, open_input

FORMATS = {".mkv": "matroska", ".webm": "webm", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}


class Times(NamedTuple):
    """Of all frames in the order in which they are shown, in the source's ``time_base``."""

    pts: list[int]
    last_duration: int


def copied_streams(source: Source, output: Path, note: Note) -> list[int]:
    """Indices of the input's streams that the output's container takes; ``note`` is told of the others."""
    taken = []
    with open_input(source.path) as container:
        for stream in container.streams:
            if stream.index == source.stream:
                continue
            if _accepts(output, stream):
                taken.append(stream.index)
                if stream.type == "video" and Disposition.attached_pic not in stream.disposition:
                    note(f"stream {stream.index} is a second video stream: it is copied as it is")
            else:
                what = " ".join(filter(None, (stream.type, stream.name, stream.language)))
                hint = "" if output.suffix.lower() == ".mkv" else "; an output named .mkv may keep it"
                note(f"stream {stream.index} ({what}) is left out: {output.suffix} does not take it{hint}")
    return taken


def join(
    source: Source, segments: Sequence[Path], times: Times, copied: Sequence[int], path: Path, suffix: str
) -> None:
    """Writes ``path``, a container after ``suffix``.  Raises VideoError where it does not fit together."""
    with (
        open_input(source.path) as original,
        av.open(str(segments[0])) as first,
        av.open(str(path), "w", format=FORMATS[suffix], container_options=_options(suffix)) as out,
    ):
        template = first.streams.video[0]
        # In the order of the input, so that players choose the same streams.
        streams = {}
        for stream in original.streams:
            if stream.index == source.stream:
                picture = out.add_stream_from_template(template, opaque=True)
                picture.time_base = source.time_base
                picture.codec_context.framerate = source.rate
                # Not every codec says these itself.
                source.colour.label(picture.codec_context)
                picture.metadata.update(_without_statistics(stream.metadata))
                picture.disposition = stream.disposition
                if source.display_matrix is not None:
                    picture.set_display_matrix(source.display_matrix)
                if template.codec_context.codec.canonical_name == "hevc" and suffix != ".mkv":
                    picture.codec_context.codec_tag = "hvc1"  # the one of the two that QuickTime plays
            elif stream.index in copied:
                streams[stream.index] = _add_copy(out, stream)
        out.metadata.update(original.metadata)
        if chapters := original.chapters():
            out.set_chapters(chapters)
        out.start_encoding()
        pictures = _pictures(segments, times, source, picture)
        with closing(pictures):
            others = _others(original, streams)
            for _, packet in heapq.merge(pictures, others, key=lambda timed: timed[0]):
                out.mux_one(packet)


def _accepts(output: Path, stream: Any) -> bool:
    """Whether a container of this kind opens with this stream alone."""
    suffix = output.suffix.lower()
    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as trial:
            _add_copy(trial, stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _options(suffix: str) -> dict[str, str]:
    if suffix in (".mkv", ".webm"):
        # Else all streams move if one begins before 0, as sound often does.
        return {"avoid_negative_ts": "disabled"}
    return {"movflags": "+faststart"}


def _add_copy(out: Any, stream: Any) -> Any:
    copy = out.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(_without_statistics(stream.metadata))
    copy.disposition = stream.disposition
    return copy


def _without_statistics(metadata: dict[str, str]) -> dict[str, str]:
    """mkvmerge's and FFmpeg's tags on a track's size and length are no longer true."""
    stale = ("BPS", "DURATION", "NUMBER_OF_", "_STATISTICS_", "ENCODER")
    return {key: value for key, value in metadata.items() if not key.upper().startswith(stale)}


def _others(original: Any, streams: dict[int, Any]) -> Iterator[tuple[float, Any]]:
    """The packets to copy, each with the time from which on it may be written."""
    latest, last = 0.0, dict.fromkeys(streams, -math.inf)
    try:
        for packet in original.demux():
            index = packet.stream_index
            if index not in streams or packet.size == 0:
                continue
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is not None:
                if stamp < last[index]:  # no container takes this; some recorders write it
                    stamp = packet.dts = last[index]
                    packet.pts = max(packet.pts if packet.pts is not None else stamp, stamp)
                last[index] = stamp
                latest = max(latest, float(stamp * packet.time_base))
            packet.stream = streams[index]
            yield latest, packet
    except (av.FFmpegError, OSError):
        return  # a damaged end: reading the frames has told of it


def _pictures(
    segments: Sequence[Path], times: Times, source: Source, stream: Any
) -> Iterator[tuple[float, Any]]:
    """The segments' packets with the source's times.

    Encoders number the frames of each segment from 0; here each packet gets the time of its frame by its
    rank.  Decoding times are made anew, for all segments together: those of the frames in the order they
    are shown, as many frames earlier as the encoder reorders.
    """
    pts, last_duration = times
    shown: list[int] = []  # for each packet in the order of decoding: the number of its frame
    for path in segments:
        start = len(shown)
        shown += [start + rank for rank in _ranks(path)]
    if len(shown) != len(pts):
        folder = segments[0].parent
        raise VideoError(
            f"{folder}: {len(shown)} frames instead of {len(pts)}; remove this folder and start anew"
        )
    delay = max(position - frame for position, frame in enumerate(shown))
    step = max(1, round(1 / (source.rate * source.time_base)))
    position = 0
    for path in segments:
        with av.open(str(path)) as container:
            if container.streams.video[0].codec_context.extradata != stream.codec_context.extradata:
                raise VideoError(f"{path}: does not continue the first segment; remove {path.parent}")
            for packet in container.demux(video=0):
                if not packet.size:
                    continue
                frame, early = shown[position], position - delay
                packet.pts = pts[frame]
                packet.dts = pts[early] if early >= 0 else pts[0] + early * step
                packet.duration = pts[frame + 1] - pts[frame] if frame + 1 < len(pts) else last_duration
                packet.time_base = source.time_base
                packet.stream = stream
                yield float(packet.dts * source.time_base), packet
                position += 1


def _ranks(path: Path) -> list[int]:
    """For each packet of a segment, in the order of decoding: the how-manieth its frame is when shown."""
    with av.open(str(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    order = {stamp: rank for rank, stamp in enumerate(sorted(stamps))}
    return [order[stamp] for stamp in stamps]
