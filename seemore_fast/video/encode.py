"""Writing frames: which codec with which settings, and one segment of encoded frames as a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from seemore_fast.errors import VideoError
from seemore_fast.video.source import ACCURATE, Note, Source, url


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


def choose_encoding(
    output: Path,
    source: Source,
    codec: str | None,
    crf: float | None,
    preset: str | None,
    pix_fmt: str | None,
) -> Encoding:
    """Defaults by the output's name and the source's depth.  Raises VideoError for what does not fit."""
    codecs = CONTAINERS.get(output.suffix.lower())
    if codecs is None:
        raise VideoError(f"{output}: the name must end in one of {', '.join(CONTAINERS)}")
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
        crf=chosen.crf if crf is None else crf,
        preset=chosen.preset if preset is None else preset,
        pix_fmt=pix_fmt,
    )


def output_size(source: Source, scale: int, pix_fmt: str, note: Note) -> tuple[int, int]:
    """Width and height; chroma subsampling asks for even ones."""
    layout = av.VideoFormat(pix_fmt, 2, 2)
    width, height = source.width * scale, source.height * scale
    across = 2 if layout.chroma_width() == 1 else 1
    down = 2 if layout.chroma_height() == 1 else 1
    fitting = width - width % across, height - height % down
    if fitting != (width, height):
        note(f"{width}x{height} is cut to {fitting[0]}x{fitting[1]}, as {pix_fmt} needs; yuv444p keeps it")
    return fitting


class Segment:
    """Encodes frames into a file of their own; times are frame numbers, real ones come when joining."""

    def __init__(self, path: Path, source: Source, encoding: Encoding, size: tuple[int, int]):
        # NUT takes every codec of CODECS, and keeps packets as they are.
        self._container: Any = av.open(url(path), "w", format="nut")
        os.environ.setdefault("SVT_LOG", "1")  # libsvtav1: errors only, not a page for each segment
        self._colour, self._pix_fmt = source.colour, encoding.pix_fmt
        self._width, self._height = size
        self._reformatter = VideoReformatter()
        self._frames = 0
        try:
            stream = self._container.add_stream(
                encoding.encoder, rate=source.rate, options=encoding.all_options()
            )
            stream.width, stream.height = size
            stream.pix_fmt = encoding.pix_fmt
            context = stream.codec_context
            source.colour.label(context)
            if source.aspect is not None:
                context.sample_aspect_ratio = source.aspect
            self._stream = stream
            self._container.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            self._container.close()
            raise _refused(encoding, error) from None

    def write(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """``pixels`` is (H, W, 3) RGB."""
        cut = np.ascontiguousarray(pixels[: self._height, : self._width])
        rgb = av.VideoFrame.from_ndarray(cut, "rgb24" if pixels.dtype == np.uint8 else "rgb48le")
        frame = self._reformatter.reformat(
            rgb,
            format=self._pix_fmt,
            src_colorspace=self._colour.sws_matrix,
            dst_colorspace=self._colour.sws_matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=self._colour.range,
            interpolation=ACCURATE,
            threads=1,
        )
        frame.pts, frame.time_base = self._frames, 1 / self._stream.codec_context.framerate
        self._frames += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file with what the encoder still holds."""
        self._container.mux(self._stream.encode(None))
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
    settings = ", ".join(f"{key}={value}" for key, value in encoding.all_options().items())
    why = getattr(error, "strerror", None) or error
    return VideoError(f"{encoding.encoder} refuses {settings}, {encoding.pix_fmt} ({why})")
