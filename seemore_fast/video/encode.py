"""Writing frames: which codec with which settings, and one segment of encoded frames as a file."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from seemore_fast.errors import VideoError
from seemore_fast.image.formats import short_of_memory
from seemore_fast.system.machine import ordinary_threads
from seemore_fast.video.source import ACCURATE, Note, Source, bit_rate, url

if TYPE_CHECKING:
    from seemore_fast.upscale.size import Size

_HELD = 12  # bytes that an encoder keeps for each pixel, at least: 8 frames


@dataclass(frozen=True)
class Encoding:
    """An encoder and its settings; None: the encoder has no such setting."""

    encoder: str
    crf: float | None
    preset: str | None
    preset_option: str = "preset"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)

    def all_options(self) -> dict[str, str]:
        """In the encoder's own words."""
        chosen = dict(self.options)
        if self.crf is not None:
            chosen["crf"] = f"{self.crf:g}"
        if self.preset is not None:
            chosen[self.preset_option] = self.preset
        return chosen


@dataclass(frozen=True)
class EncodingWish:
    """What the user asks for; None and empty: a default."""

    codec: str | None = None
    encoder: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    copy_quality: bool = False
    """As the source: its codec, and its bit rate for so many more pixels."""


CODECS = {
    "h264": Encoding("libx264", 16, "medium"),
    "h265": Encoding("libx265", 18, "medium", options={"x265-params": "log-level=error"}),
    "av1": Encoding("libsvtav1", 24, "8"),
    "vp9": Encoding("libvpx-vp9", 24, "2", "cpu-used", options={"b": "0", "row-mt": "1"}),
    "ffv1": Encoding("ffv1", None, None, options={"level": "3", "slicecrc": "1"}),
}

# By file name: the codecs that the container takes; the first is for 8 bits, the second for more.
CONTAINERS = {
    ".mkv": ("h264", "h265", "av1", "vp9", "ffv1"),
    ".mp4": ("h264", "h265", "av1", "vp9"),
    ".m4v": ("h264", "h265"),
    ".mov": ("h264", "h265"),
    ".webm": ("vp9", "av1"),
}


def choose_encoding(output: Path, source: Source, wish: EncodingWish) -> Encoding:
    """Defaults by the output's name and the source's depth.  Raises VideoError for what does not fit."""
    codecs = CONTAINERS.get(output.suffix.lower())
    if codecs is None:
        raise VideoError(f"{output}: the name must end in one of {', '.join(CONTAINERS)}")
    codec, crf, preset, pix_fmt = wish.codec, wish.crf, wish.preset, wish.pix_fmt
    if wish.encoder is not None:
        if codec is not None:
            raise VideoError(f"codec {codec} and encoder {wish.encoder}: give one of them")
        pix_fmt = pix_fmt or _nearest_format(wish.encoder, source.depth)
        return Encoding(wish.encoder, crf, preset, "preset", pix_fmt, dict(wish.options))
    if codec is None:
        codec = codecs[0] if source.depth == 8 else codecs[1]
    if codec not in CODECS:
        raise VideoError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")
    if codec not in codecs:
        raise VideoError(
            f"{output.suffix} does not hold {codec}: use {', '.join(dict.fromkeys(codecs))}, or .mkv"
        )
    chosen = CODECS[codec]
    for name, value, default in (("crf", crf, chosen.crf), ("preset", preset, chosen.preset)):
        if value is not None and default is None:
            raise VideoError(f"{codec} is lossless and has no {name}")
    if crf is not None and not 0 <= crf <= 63:
        raise VideoError(f"crf must be in 0 (best) to 51, for vp9 and av1 to 63; got {crf:g}")
    known = av.Codec(chosen.encoder, "w").video_formats or []
    pix_fmt = pix_fmt or ("yuv420p" if source.depth == 8 else "yuv420p10le")
    if pix_fmt not in (names := [f.name for f in known if f.name.startswith(("yuv", "gray"))]):
        deeper = "; av1 and h265 take 10 bits" if codec == "vp9" and source.depth > 8 else ""
        raise VideoError(f"pix-fmt {pix_fmt!r}: {codec} takes {', '.join(names)}{deeper}")
    return replace(
        chosen,
        crf=None if wish.copy_quality else chosen.crf if crf is None else crf,
        preset=chosen.preset if preset is None else preset,
        pix_fmt=pix_fmt,
        options={**chosen.options, **wish.options},
    )


_OF_SOURCE = {"h264": "h264", "hevc": "h265", "av1": "av1", "vp9": "vp9", "ffv1": "ffv1"}

_GROWTH = 0.75
"""Bits grow with this power of the pixels where quality stays: large ones have less new in each."""


def like_source(output: Path, source: Source, wish: EncodingWish, pixels: int) -> EncodingWish:
    """``wish`` with the codec of the source, where the container takes it, and the bit rate that fits
    ``pixels`` of output.  Raises VideoError for settings that contradict it."""
    if not wish.copy_quality:
        return wish
    if wish.crf is not None or wish.encoder is not None or "b" in wish.options:
        raise VideoError("copy-quality chooses the bit rate: give no crf, encoder or option b beside it")
    codec = wish.codec or _OF_SOURCE.get(source.codec)
    if codec not in CONTAINERS.get(output.suffix.lower(), ()):
        codec = wish.codec
    if codec == "ffv1":
        return replace(wish, codec=codec)
    rate = bit_rate(source) * (pixels / (source.width * source.height)) ** _GROWTH
    return replace(wish, codec=codec, options={**wish.options, "b": str(round(rate))})


def _nearest_format(encoder: str, depth: int) -> str:
    """The pixel format for a source of ``depth`` bits.  Raises VideoError if there is no such encoder."""
    try:
        formats = [f.name for f in av.Codec(encoder, "w").video_formats or []]
    except ValueError:  # PyAV's UnknownCodecError is one
        formats = []
    if not formats:
        raise VideoError(f"there is no encoder {encoder!r}; present are {', '.join(_encoders(encoder))}")
    deep = ("yuv420p10le", "p010le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "gbrp10le")
    flat = ("yuv420p", "nv12", "yuvj420p", "yuv422p", "yuv444p", "rgb24", "gbrp", "bgr0")
    wanted = (*deep, *flat) if depth > 8 else (*flat, *deep)
    return next((name for name in wanted if name in formats), formats[0])


def _encoders(like: str) -> list[str]:
    """Video encoders that are built in: those of the same codec as ``like`` says in its name, or all."""
    found = {}
    for name in sorted(av.codecs_available):
        with suppress(ValueError):
            codec = av.Codec(name, "w")
            if codec.type == "video" and codec.name == name:
                found[name] = codec.canonical_name
    words = re.split("[-_]|lib|enc", like)
    return [name for name, codec in found.items() if codec in words] or list(found)


def output_size(
    source: Source, scale: int, pix_fmt: str, note: Note, size: Size | None = None
) -> tuple[int, int]:
    """Width and height, of ``size`` or enlarged by ``scale``; chroma subsampling asks for even ones."""
    layout = av.VideoFormat(pix_fmt, 2, 2)
    width, height = source.width * scale, source.height * scale
    if size is not None:
        height, width = size.of(source.height, source.width)
    across = 2 if layout.chroma_width() == 1 else 1
    down = 2 if layout.chroma_height() == 1 else 1
    fitting = width - width % across, height - height % down
    if fitting != (width, height):
        note(f"{width}x{height} is cut to {fitting[0]}x{fitting[1]}, as {pix_fmt} needs; yuv444p keeps it")
    return fitting


class Pictures:
    """An encoder and its stream in an open container; packets go there in the order of decoding."""

    def __init__(self, container: Any, source: Source, encoding: Encoding, size: tuple[int, int]):
        """Raises ValueError where the container does not take the codec, VideoError without memory."""
        if short_of_memory(_HELD * size[0] * size[1]):
            raise VideoError(f"not enough memory for {encoding.encoder}")
        os.environ.setdefault("SVT_LOG", "1")  # libsvtav1: errors only, not a page for each segment
        self._container, self._encoding, self._colour = container, encoding, source.colour
        self._width, self._height = size
        self._reformatter = VideoReformatter()
        self._rgb = av.VideoFormat(encoding.pix_fmt).is_rgb
        self.stream = container.add_stream(encoding.encoder, rate=source.rate, options=encoding.all_options())
        self.stream.width, self.stream.height = size
        self.stream.pix_fmt = encoding.pix_fmt
        context = self.stream.codec_context
        context.thread_type = "AUTO"  # frames at once, where PyAV's default cuts them into slices
        source.colour.label(context, self._rgb)
        if source.aspect is not None:
            context.sample_aspect_ratio = source.aspect

    def begin(self) -> None:
        """Opens the encoder and writes the header.  Raises VideoError for settings that do not fit."""
        try:
            with ordinary_threads():
                self._container.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            raise _refused(self._encoding, error) from None
        given, left = self._encoding.all_options(), self.stream.codec_context.options
        if unknown := sorted(given.keys() & left.keys()):
            raise VideoError(f"{self._encoding.encoder} has no option {', '.join(unknown)}")

    def write(self, pixels: NDArray[np.uint8] | NDArray[np.uint16], pts: int, time_base: Fraction) -> None:
        """``pixels`` is (H, W, 3) RGB."""
        cut = np.ascontiguousarray(pixels[: self._height, : self._width])
        rgb = av.VideoFrame.from_ndarray(cut, "rgb24" if pixels.dtype == np.uint8 else "rgb48le")
        frame = self._reformatter.reformat(
            rgb,
            format=self._encoding.pix_fmt,
            src_colorspace=self._colour.sws_matrix,
            dst_colorspace=self._colour.sws_matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if self._rgb else self._colour.range,
            interpolation=ACCURATE,
            threads=1,
        )
        frame.pts, frame.time_base = pts, time_base
        self._container.mux(self.stream.encode(frame))

    def end(self) -> None:
        """Writes what the encoder still holds."""
        self._container.mux(self.stream.encode(None))


class Segment:
    """Encodes frames into a file of their own; times are frame numbers, real ones come when joining."""

    def __init__(self, path: Path, source: Source, encoding: Encoding, size: tuple[int, int]):
        self._frames = 0
        self._container: Any
        self._pictures = self._open(path, source, encoding, size)
        try:
            self._pictures.begin()
        except VideoError:
            self._container.close()
            raise
        self._time_base = 1 / self._pictures.stream.codec_context.framerate

    def _open(self, path: Path, source: Source, encoding: Encoding, size: tuple[int, int]) -> Pictures:
        # NUT keeps packets as they are; MOV takes ProRes and DNxHD, too.
        for kind in ("nut", "mov"):
            self._container = av.open(url(path), "w", format=kind)
            try:
                return Pictures(self._container, source, encoding, size)
            except ValueError:
                self._container.close()
        raise _refused(encoding, ValueError("no container for segments takes it"))

    def write(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """``pixels`` is (H, W, 3) RGB."""
        self._pictures.write(pixels, self._frames, self._time_base)
        self._frames += 1

    def close(self) -> None:
        """Ends the file with what the encoder still holds."""
        self._pictures.end()
        self._container.close()


def check_encoder(path: Path, source: Source, encoding: Encoding, size: tuple[int, int]) -> None:
    """Encodes a black frame to ``path``: settings are refused before the work.  Raises VideoError."""
    try:
        segment = Segment(path, source, encoding, size)
        segment.write(np.zeros((size[1], size[0], 3), np.uint8))
        segment.close()
    except av.FFmpegError as error:
        raise _refused(encoding, error) from None


def _refused(encoding: Encoding, error: Exception) -> VideoError:
    if short_of_memory(0):
        return VideoError(f"not enough memory for {encoding.encoder}")
    settings = ", ".join(f"{key}={value}" for key, value in encoding.all_options().items())
    why = getattr(error, "strerror", None) or error
    return VideoError(
        f"{encoding.encoder} refuses {settings + ', ' if settings else ''}{encoding.pix_fmt} ({why})"
    )
