"""What besides the pictures is carried over: streams tried before the work, everything compared after it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from seemore_fast.video.source import UNSPECIFIED, Note, Source, display_matrix, is_cover, open_input, url

FORMATS = {".nut": "nut", ".mkv": "matroska", ".webm": "webm", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}

# Else all streams move in Matroska if one begins before 0, as sound often does.
_MATROSKA = "avoid_negative_ts=disabled"

# Of cover pictures.
_PICTURES = {
    "bmp": ("image/bmp", "bmp"),
    "gif": ("image/gif", "gif"),
    "mjpeg": ("image/jpeg", "jpg"),
    "png": ("image/png", "png"),
    "webp": ("image/webp", "webp"),
}

# What mkvmerge and FFmpeg say of a track's size, length, encoder and alpha.
_STALE_TAGS = ("ALPHA_MODE", "BPS", "DURATION", "ENCODER", "NUMBER_OF_", "ROTATE", "_STATISTICS_")

# What each container writes in its own way.
_OWN_TAGS = (
    "COMPATIBLE_BRANDS",
    "CREATION_TIME",
    "FILENAME",
    "HANDLER_NAME",
    "MAJOR_BRAND",
    "MIMETYPE",
    "MINOR_VERSION",
    "SOFTWARE",
    "TIMECODE",
    "VARIANT_BITRATE",
    "VENDOR_ID",
)


_NOWHERE = Path(os.devnull)


def open_output(path: Path, suffix: str, *, by_tee: bool = False) -> Any:
    """A container after ``suffix`` to write; ``by_tee`` as `StreamTrial` says."""
    if by_tee:
        name = "".join(f"\\{c}" if c in "\\'|:[] \t\n" else c for c in str(path))
        return av.open(f"[f={FORMATS[suffix]}:{_MATROSKA}]file\\:{name}", "w", format="tee")
    if suffix in (".mkv", ".webm"):
        options = dict([_MATROSKA.split("=")])
    else:
        options = {"movflags": "+faststart"} if path != _NOWHERE and suffix != ".nut" else {}
    return av.open(url(path), "w", format=FORMATS[suffix], container_options=options)


class Copy:
    """A stream of ``out`` that takes the packets of ``stream`` as they are, but for times that fall."""

    def __init__(self, out: Any, stream: Any, *, strict: bool):
        self.stream = out.add_stream_from_template(stream, opaque=True)
        self.stream.metadata.update(still_true(stream.metadata))
        self.stream.disposition = stream.disposition
        self._strict = strict
        self._last: int | None = None
        self.cover = is_cover(stream)

    def adopt(self, packet: Any) -> None:
        """Makes ``packet`` one of the output, whose header is written.

        No container takes times of decoding that fall, which some recorders write; MP4 none that stand still.
        """
        packet.stream = self.stream
        base, own = packet.time_base, self.stream.time_base
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return
        lowest = None if self._last is None else self._last + self._strict
        stamp = _rescaled(stamp, base, own)
        if lowest is not None and stamp < lowest:
            stamp = lowest
            pts = stamp if packet.pts is None else _rescaled(packet.pts, base, own)
            duration = _rescaled(packet.duration or 0, base, own)
            packet.time_base, packet.duration = own, duration
            packet.dts, packet.pts = stamp, max(pts, stamp)
        self._last = stamp


def _rescaled(stamp: int, base: Fraction, own: Fraction) -> int:
    return math.floor(stamp * base / own + Fraction(1, 2))


def still_true(metadata: dict[str, str]) -> dict[str, str]:
    """Tags without those of other tools that are no longer true of an enlarged copy."""
    return {key: value for key, value in metadata.items() if not key.upper().startswith(_STALE_TAGS)}


class StreamTrial:
    """Writes all packets of one stream into a container of its own, of which nothing is kept.

    ``by_tee``: whether FFmpeg's tee muxer must be in between.  PyAV asks the container for codecs that are
    its own, but Matroska takes WMA, ADPCM and others by their tags in AVI, and of tee PyAV asks nothing.
    """

    def __init__(self, stream: Any, suffix: str):
        self.stream = stream
        self.by_tee = False
        self._out: Any = None
        self._attached = is_attached(stream, suffix)
        for by_tee in (False, True)[: not self._attached and (1 + (suffix == ".mkv"))]:
            try:
                self._out = open_output(_NOWHERE, suffix, by_tee=by_tee)
                self._copy = Copy(self._out, stream, strict=is_strict(suffix))
                self._out.start_encoding()
            except (av.FFmpegError, ValueError):
                self._out = None
            else:
                self.by_tee = by_tee
                break

    def take(self, packet: Any) -> None:
        """Writes a packet; it is not to be used otherwise afterwards."""
        if self._out is None:
            return
        try:
            self._copy.adopt(packet)
            self._out.mux_one(packet)
        except (av.FFmpegError, ValueError):
            self._out = None

    def accepted(self) -> bool:
        """Whether all went well to the end, which this is."""
        if self._out is not None:
            try:
                self._out.close()
            except av.FFmpegError:
                self._out = None
        return self._out is not None or self._attached


class Trials:
    """One `StreamTrial` for every stream that could be copied, and one in .mkv for the hint to it."""

    def __init__(self, container: Any, source: Source, suffix: str):
        self._suffix = suffix
        streams = [s for s in container.streams if s.index != source.stream and not _is_derived(s)]
        self._trials = {stream.index: StreamTrial(stream, suffix) for stream in streams}
        self._hints = {s.index: StreamTrial(s, ".mkv") for s in streams} if suffix != ".mkv" else {}

    def take(self, packet: Any) -> None:
        for trials in (self._hints, self._trials):
            if packet.stream_index in trials:
                trials[packet.stream_index].take(packet)

    def outcome(self, note: Note) -> dict[int, bool]:
        """Indices of the streams that are taken, each with its ``by_tee``; ``note`` hears of the others."""
        taken = {}
        for index, trial in self._trials.items():
            stream = trial.stream
            if trial.accepted():
                taken[index] = trial.by_tee
                if stream.type == "video" and not is_cover(stream):
                    note(f"stream {index} is a second video stream: it is copied as it is")
            else:
                keeps = index in self._hints and self._hints[index].accepted()
                hint = "; an output named .mkv keeps it" if keeps else ""
                what = f"stream {index} ({describe_stream(stream)})"
                note(f"{what} is left out: {self._suffix} does not take it{hint}")
        return taken


def is_strict(suffix: str) -> bool:
    """Whether times of decoding must rise in the container, not just not fall."""
    return suffix not in (".mkv", ".webm")


def describe_stream(stream: Any) -> str:
    """Kind, codec and language of a stream."""
    named = stream.codec_context is not None or stream.type in ("data", "attachment")
    return " ".join(filter(None, (stream.type, stream.name if named else None, stream.language)))


def _is_derived(stream: Any) -> bool:
    """A track that MP4 and MOV make themselves: of the tag that `timecode` finds, or of the chapters."""
    chapters = stream.name == "bin_data" and stream.container.chapters()
    return stream.type == "data" and bool("timecode" in stream.metadata or chapters)


def timecode(container: Any) -> str | None:
    """The timecode of a video's first frame, wherever it is noted."""
    for metadata in (container.metadata, *(stream.metadata for stream in container.streams)):
        for key, value in metadata.items():
            if key.lower() == "timecode":
                return str(value)
    return None


def differences(source: Source, copied: Iterable[int], written: Path, name: str) -> list[str]:
    """What of ``source`` is not in the file ``written``, a line each; ``name`` is what to call it."""
    with open_input(source.path) as original, open_input(written) as output:
        made = [s for s in output.streams if not _is_derived(s)]
        kept = [s for s in original.streams if s.index in copied or s.index == source.stream]
        lines = []
        for stream in kept:
            # In their order; not by codec, as MP4 calls MP2 sound MP3.
            alike = (m for m in made if (m.type, is_cover(m)) == (stream.type, is_cover(stream)))
            match = next(alike, None)
            what = f"stream {stream.index} ({describe_stream(stream)})"
            if match is None:
                lines.append(f"{what} is left out: {name} does not keep it")
                continue
            made.remove(match)
            if stream.index == source.stream:
                lines += _picture(source, output, match, name)
            if labels := _labels(stream, match):
                lines.append(f"labels of {what} that {name} does not keep: {', '.join(labels)}")
        lost = sorted(_missing(original.metadata, output.metadata))
        if lost:
            lines.append(f"tags of the file that {name} does not keep: {', '.join(lost)}")
        before, after = len(original.chapters()), len(output.chapters())
        if after < before:
            lines.append(f"{before - after} of {before} chapters are left out")
        if (code := timecode(original)) is not None and timecode(output) is None:
            lines.append(f"timecode {code} is left out: {name} does not keep it")
        return lines


def is_attached(stream: Any, suffix: str) -> bool:
    """Whether it is a cover picture that Matroska keeps as an attachment, not as a stream."""
    return suffix == ".mkv" and is_cover(stream) and stream.name in _PICTURES


def attach(out: Any, stream: Any, path: Path) -> None:
    """Adds the cover picture that is ``stream`` of the file ``path`` to a Matroska file."""
    with open_input(path) as original:
        packet = next(packet for packet in original.demux(original.streams[stream.index]) if packet.size)
    mimetype, extension = _PICTURES[stream.name]
    name = stream.metadata.get("filename", f"cover.{extension}")
    out.add_attachment(name, stream.metadata.get("mimetype", mimetype), bytes(packet))


def _picture(source: Source, output: Any, stream: Any, name: str) -> list[str]:
    try:
        frame = next(output.decode(stream), None)
    except (av.FFmpegError, OSError):
        frame = None
    lines = []
    aspect = source.aspect or Fraction(1)
    if (stream.sample_aspect_ratio or Fraction(1)) != aspect:
        across, down = aspect.as_integer_ratio()
        lines.append(f"pixels of {across}:{down} become square: {name} does not keep them with {stream.name}")
    if frame is not None and display_matrix(frame) != source.display_matrix:
        lines.append(f"the rotation is left out: {name} does not keep it")
    colour = source.colour
    read = frame and (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    labels = zip(("matrix", "range", "primaries", "transfer"), astuple(colour), read or (), strict=False)
    lost = [label for label, given, found in labels if given not in (found, UNSPECIFIED)]
    if frame is not None and frame.format.is_rgb:
        lost = [label for label in lost if label not in ("matrix", "range")]
    if lost:
        lines.append(f"colour labels that {name} does not keep with {stream.name}: {', '.join(lost)}")
    return lines


def _labels(stream: Any, match: Any) -> list[str]:
    lost = sorted(_missing(stream.metadata, match.metadata))
    flags = stream.disposition & ~match.disposition & ~Disposition.default
    lost += [str(flag.name) for flag in Disposition if flag & flags]
    return lost


def _missing(given: dict[str, str], found: dict[str, str]) -> set[str]:
    """Keys whose values are nowhere: containers spell keys in their own ways."""
    values = set(found.values())
    wanted = {k: v for k, v in still_true(given).items() if v and not k.upper().startswith(_OWN_TAGS)}
    return {k for k, v in wanted.items() if v not in values and (k.lower(), v) != ("language", "und")}
