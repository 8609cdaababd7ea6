"""Small videos for tests, and what is in a video."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

W, H = 32, 24


class Nearest:
    """Stands for an Upscaler: repeats pixels."""

    def __init__(self, scale: int = 2):
        self.scale = scale
        self.calls = 0
        self.dtypes: set[str] = set()

    def identity(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def up(self, image: NDArray, size: Any = None) -> NDArray:
        self.calls += 1
        self.dtypes.add(image.dtype.name)
        return image.repeat(self.scale, 0).repeat(self.scale, 1)


def enlarge(source: Path, output: Path, upscaler: Any = None, **options: Any) -> Path:
    """Runs a job to its end, in segments of 5 frames unless ``options`` say otherwise."""
    from seemore_fast.video import upscale_video

    options.setdefault("segment", 5)
    upscale_video(source, output, upscaler or Nearest(), **options)
    assert not output.with_name(output.name + ".parts").exists()
    return output


def moving_gradient(index: int, size: tuple[int, int]) -> NDArray:
    """uint16 (H, W, 3): frame ``index`` of a clip."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    return (np.stack([x, y, (x + y) / 2], -1) * 50000 + 800 * index).clip(0, 65535).astype(np.uint16)


def write_clip(
    path: Path,
    *,
    pts: Sequence[int] = tuple(range(12)),
    time_base: Fraction = Fraction(1, 25),
    rgb: Sequence[int] | None = None,
    codec: str = "ffv1",
    pix_fmt: str = "yuv444p",
    matrix: int = 1,
    color_range: int = 1,
    primaries: int = 2,
    transfer: int = 2,
    size: tuple[int, int] = (W, H),
    audio: str | None = None,
    subtitles: str | None = None,
    rotation: int | None = None,
    aspect: Fraction | None = None,
    attachment: bytes | None = None,
    chapters: Sequence[dict[str, Any]] = (),
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    timecode: str | None = None,
) -> Path:
    """A clip of a moving gradient, or of the one colour ``rgb``; audio is a sine of the same length."""
    import av

    frames = []
    sws = 5 if matrix in (5, 6) else matrix
    for index, stamp in enumerate(pts):
        if rgb is not None:
            frame = flat_frame(rgb, pix_fmt, matrix, color_range)
            frame.pts, frame.time_base = stamp, time_base
            frames.append(frame)
            continue
        frame = av.VideoFrame.from_ndarray(moving_gradient(index, size), "rgb48le")
        frame = frame.reformat(
            format=pix_fmt,
            src_colorspace=sws,
            dst_colorspace=sws,
            src_color_range=2,
            dst_color_range=color_range or 1,
            interpolation=4 | 0x2000 | 0x4000 | 0x40000,
        )
        frame.pts, frame.time_base = stamp, time_base
        frame.colorspace, frame.color_range = matrix, color_range
        frames.append(frame)
    with av.open(str(path), "w", container_options=container or {}) as out:
        stream = out.add_stream(codec, rate=Fraction(25), options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = time_base
        context = stream.codec_context
        context.time_base = time_base
        context.colorspace, context.color_range = matrix, color_range
        context.color_primaries, context.color_trc = primaries, transfer
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if timecode is not None:
            stream.metadata["timecode"] = timecode
        sound = None
        if audio is not None:
            sound = out.add_stream(audio, rate=16000)
            sound.codec_context.bit_rate = 64000
            sound.metadata["language"] = "fra"
        texts = None
        if subtitles is not None:
            texts = out.add_mux_stream(subtitles)
            texts.time_base = Fraction(1, 1000)
        if attachment is not None:
            out.add_attachment("font.ttf", "application/x-truetype-font", attachment)
        out.metadata["title"] = "a title"
        if chapters:
            out.set_chapters(list(chapters))
        for frame in frames:
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            seconds = float((pts[-1] - pts[0] + 1) * time_base)
            _write_sine(out, sound, seconds)
        if texts is not None:
            for start in (0, 200):
                packet = av.Packet(f"line at {start}".encode())
                packet.stream, packet.time_base = texts, Fraction(1, 1000)
                packet.pts = packet.dts = start
                packet.duration = 150
                out.mux(packet)
    return path


def _write_sine(out: Any, stream: Any, seconds: float) -> None:
    import av

    count = math.ceil(seconds * 16000 / 1024)
    for block in range(count):
        samples = np.sin(np.arange(block * 1024, (block + 1) * 1024) * 2 * math.pi * 440 / 16000)
        frame = av.AudioFrame.from_ndarray(
            np.stack([samples, samples]).astype(np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = 16000, block * 1024, Fraction(1, 16000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """(time in seconds, content) of the packets of the first stream of a kind."""
    import av

    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def times(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    import av

    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def frames(path: Path) -> list[Any]:
    import av

    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    found = [bytes(d) for d in frame.side_data if d.type.name == "DISPLAYMATRIX"]
    return struct.unpack("=9i", found[0]) if found else None


_WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue, ITU-T H.273


def _levels(frame: Any) -> tuple[float, float, float, float]:
    """Black, span of luma, middle and span of chroma."""
    depth = frame.format.components[0].bits
    if frame.color_range == 2:
        return 0, 2**depth - 1, 2 ** (depth - 1), 2**depth - 1
    return 16 << depth - 8, 219 << depth - 8, 128 << depth - 8, 224 << depth - 8


def flat_frame(rgb: Sequence[int], pix_fmt: str, matrix: int, color_range: int) -> Any:
    """One colour, by the standards' formulas instead of FFmpeg's conversion."""
    import av

    frame = av.VideoFrame(W, H, pix_fmt)
    frame.colorspace, frame.color_range = matrix, color_range
    red, blue = _WEIGHTS[matrix]
    r, g, b = (value / 255 for value in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    black, luma, middle, chroma = _levels(frame)
    levels = (
        black + luma * y,
        middle + chroma * (b - y) / 2 / (1 - blue),
        middle + chroma * (r - y) / 2 / (1 - red),
    )
    sample = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    for plane, level in zip(frame.planes, levels, strict=True):
        plane.update(np.full(plane.buffer_size // sample().itemsize, round(level), sample).tobytes())
    return frame


def mean_colour(frame: Any) -> list[float]:
    """RGB in 0..255, by the standards' formulas and the frame's labels, for 8- and 10-bit planar YUV."""
    red, blue = _WEIGHTS[int(frame.colorspace)]
    sample = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    means = []
    for plane in frame.planes:
        lines = np.frombuffer(plane, sample).reshape(plane.height, -1)
        means.append(lines[:, : plane.width].mean())
    black, luma, middle, chroma = _levels(frame)
    y, u, v = (means[0] - black) / luma, (means[1] - middle) / chroma, (means[2] - middle) / chroma
    r, b = y + v * 2 * (1 - red), y + u * 2 * (1 - blue)
    g = (y - red * r - blue * b) / (1 - red - blue)
    return [255 * float(value) for value in (r, g, b)]


def pixels(frame: Any) -> NDArray:
    """uint16 RGB by the frame's own matrix and range."""
    sws = 5 if frame.colorspace in (5, 6) else int(frame.colorspace)
    return frame.reformat(
        format="rgb48le",
        src_colorspace=sws,
        dst_colorspace=sws,
        src_color_range=int(frame.color_range),
        dst_color_range=2,
        interpolation=4 | 0x2000 | 0x4000 | 0x40000,
    ).to_ndarray()
