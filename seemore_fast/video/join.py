"""The final file: segments joined with the source's times, every other stream copied packet by packet."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av

from seemore_fast.errors import VideoError
from seemore_fast.video.carry import Copy, attach, is_attached, is_strict, open_output, still_true, timecode
from seemore_fast.video.decode import timed_packets
from seemore_fast.video.source import Source, Window, open_input, url
from seemore_fast.video.survey import Survey


class Times(NamedTuple):
    """Of all frames in the order in which they are shown, in the source's ``time_base``."""

    pts: list[int]
    last_duration: int


def join(
    source: Source,
    segments: Sequence[Path],
    times: Times,
    found: Survey,
    path: Path,
    suffix: str,
    limit: int | None = None,
) -> None:
    """Writes ``path``, a container after ``suffix``; of the other streams ``limit`` packets, if given.

    Raises VideoError where it does not fit together.
    """
    by_tee = any(found.copied.values())
    with (
        open_input(source.path) as original,
        av.open(url(segments[0])) as first,
        open_output(path, suffix, by_tee=by_tee) as out,
    ):
        template = first.streams.video[0]
        # In the order of the input, so that players choose the same streams.
        copies = {}
        for stream in original.streams:
            if stream.index == source.stream:
                picture = out.add_stream_from_template(template, opaque=True)
                picture.time_base = source.time_base
                picture.codec_context.framerate = source.rate
                # Not every codec says these itself.
                source.colour.label(
                    picture.codec_context, template.format is not None and template.format.is_rgb
                )
                if source.aspect is not None:
                    picture.codec_context.sample_aspect_ratio = source.aspect
                picture.metadata.update(still_true(stream.metadata))
                picture.metadata.pop("timecode", None)
                if (code := timecode(original)) is not None and found.window.begin is None:
                    picture.metadata["timecode"] = code
                picture.disposition = stream.disposition
                if source.display_matrix is not None:
                    picture.set_display_matrix(source.display_matrix)
                if template.codec_context.codec.canonical_name == "hevc" and suffix != ".mkv":
                    picture.codec_context.codec_tag = "hvc1"  # the one of the two that QuickTime plays
            elif stream.index in found.copied and is_attached(stream, suffix):
                attach(out, stream, source.path)
            elif stream.index in found.copied:
                copies[stream.index] = Copy(out, stream, strict=is_strict(suffix))
        out.metadata.update(
            (key, value) for key, value in original.metadata.items() if key.lower() != "timecode"
        )
        if (chapters := original.chapters()) and not by_tee:  # tee has no place for them
            out.set_chapters(_within(chapters, found.window))
        out.start_encoding()
        pictures = _pictures(segments, times, source, picture)
        with closing(pictures):
            others = islice(_others(original, copies, found), limit)
            for _, packet in heapq.merge(pictures, others, key=lambda timed: timed[0]):
                out.mux_one(packet)


def _within(chapters: list[Any], window: Window) -> list[Any]:
    """Those that begin or end in the window, in its times."""
    kept = []
    for chapter in chapters:
        base = chapter["time_base"]
        start, end = chapter["start"] - window.shift(base), chapter["end"] - window.shift(base)
        last = end if window.end is None else round((window.end - (window.begin or 0)) / base)
        if end > 0 and start < last:
            kept.append({**chapter, "start": max(start, 0), "end": min(end, last)})
    return kept if window != Window() else chapters


def _others(original: Any, copies: dict[int, Copy], found: Survey) -> Iterator[tuple[float, Any]]:
    """The packets to copy, each with the time from which on it may be written."""
    latest = 0.0
    try:
        for packet in timed_packets(original, found.joints):
            if packet.stream_index not in copies or packet.size == 0:
                continue
            if not copies[packet.stream_index].cover and not _moved(packet, found.window):
                continue
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is not None:
                latest = max(latest, float(stamp * packet.time_base))
            copies[packet.stream_index].adopt(packet)
            yield latest, packet
    except (av.FFmpegError, OSError):
        return  # a damaged end: reading the packets has told of it


def _moved(packet: Any, window: Window) -> bool:
    """Whether the packet is in the window, into whose times it is moved."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    if stamp is None:
        return True
    if not window.holds(stamp * packet.time_base):
        return False
    shift = window.shift(packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts - shift
    packet.dts = None if packet.dts is None else packet.dts - shift
    return True


def _pictures(
    segments: Sequence[Path], times: Times, source: Source, stream: Any
) -> Generator[tuple[float, Any], None, None]:
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
        with av.open(url(path)) as container:
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
    with av.open(url(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    order = {stamp: rank for rank, stamp in enumerate(sorted(stamps))}
    return [order[stamp] for stamp in stamps]
