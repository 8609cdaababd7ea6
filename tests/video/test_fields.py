"""Interlaced video: pictures made of frames and of fields; telecined film is told."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

import av

from seemore_fast.errors import VideoError
from seemore_fast.video import upscale_video
from tests.support import videos
from tests.support.videos import Nearest, enlarge

SIZE = (96, 64)


def moving_bar(index: int, speed: int) -> NDArray:
    """uint8 (H, W, 3): a bright bar on gray, ``speed`` pixels further right at each moment."""
    picture = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
    at = (10 + speed * index) % (SIZE[0] - 16)
    picture[8:56, at : at + 16] = 220
    return picture


def woven(moments: list[tuple[int, int]], speed: int) -> list[NDArray]:
    """Frames of two fields each: the moments of the upper and of the lower one."""
    frames = []
    for upper, lower in moments:
        frame = moving_bar(upper, speed)
        frame[1::2] = moving_bar(lower, speed)[1::2]
        frames.append(frame)
    return frames


def write_interlaced(path: Path, frames: list[NDArray]) -> Path:
    """Marked as interlaced, with the lower field first: PyAV cannot say otherwise to x264."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"x264-params": "tff=1", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def comb(path: Path) -> float:
    """How much lines differ from those beside them, at most, in luma inside the bar's height."""
    luma = [frame.to_ndarray(format="gray")[20:-20].astype(float) for frame in videos.frames(path)[2:-2]]
    return max(float(abs(2 * y[2:-2] - y[:-4] - y[4:]).mean()) for y in luma)


@pytest.fixture
def interlaced(tmp_path):
    return write_interlaced(tmp_path / "in.mkv", woven([(2 * i + 1, 2 * i) for i in range(20)], 1))


@pytest.mark.parametrize("mode", ["frame", "field"])
def test_whole_pictures_come_of_fields(tmp_path, interlaced, mode):
    per_frame = {"frame": 1, "field": 2}[mode]
    output = enlarge(interlaced, tmp_path / "out.mp4", Nearest(2), deinterlace=mode)
    assert videos.times(output) == [Fraction(i, 25 * per_frame) for i in range(20 * per_frame)]
    plain = [moving_bar(i, 1) for i in range(0, 40, 2 // per_frame)]
    shown = [frame.to_ndarray(format="gray")[::2, ::2].astype(float) for frame in videos.frames(output)]
    for given, found in list(zip(plain, shown, strict=True))[2:-2]:
        assert abs(found - given[..., 0]).mean() < 2
    woven_comb = comb(enlarge_frames_of(interlaced, tmp_path))
    assert comb(output) < woven_comb / 4


def enlarge_frames_of(source: Path, folder: Path) -> Path:
    """The woven frames, taken for progressive."""
    output = folder / "woven.mkv"
    with av.open(str(output), "w") as out:
        stream = out.add_stream("ffv1", rate=25, width=2 * SIZE[0], height=2 * SIZE[1], pix_fmt="yuv420p")
        for frame in videos.frames(source):
            pixels = frame.to_ndarray(format="rgb24").repeat(2, 0).repeat(2, 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return output


def test_progressive_pictures_pass_unchanged(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(12)))
    plain = enlarge(source, tmp_path / "plain.mkv", codec="ffv1")
    for mode in ("frame", "field"):
        output = enlarge(source, tmp_path / f"{mode}.mkv", codec="ffv1", deinterlace=mode)
        assert videos.times(output) == videos.times(plain)
        for a, b in zip(videos.frames(plain), videos.frames(output), strict=True):
            assert np.array_equal(a.to_ndarray(), b.to_ndarray())


def test_it_goes_on_after_an_interruption(tmp_path, interlaced):
    # x264 gives small pictures other bits at times: its macroblock tree depends on what lay in memory before.
    wish: dict[str, Any] = {"deinterlace": "field", "codec": "h265"}
    expected = enlarge(interlaced, tmp_path / "expected.mkv", **wish)

    def stop(done: int, total: int | None, computed: int) -> None:
        assert total == 40
        if done == 22:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_video(interlaced, tmp_path / "out.mkv", Nearest(), segment=5, progress=stop, **wish)
    upscaler = Nearest()
    output = enlarge(interlaced, tmp_path / "out.mkv", upscaler, **wish)
    assert upscaler.calls == 20
    assert videos.packets(output, "video") == videos.packets(expected, "video")


def test_telecined_film_is_told(tmp_path, interlaced):
    # Five frames of four pictures: the third has the second's upper field, the fifth the fourth's lower one.
    film = [(4 * n + a, 4 * n + b) for n in range(12) for a, b in ((0, 0), (1, 1), (1, 2), (2, 3), (3, 3))]
    source = write_interlaced(tmp_path / "film.mkv", woven(film, 3))
    with pytest.raises(VideoError, match=r"telecined film, .* fieldmatch,decimate"):
        upscale_video(source, tmp_path / "out.mkv", Nearest())
    notes: list[str] = []
    enlarge(source, tmp_path / "out.mkv", deinterlace="frame", note=notes.append)
    assert len(notes) == 1
    assert "telecined film" in notes[0]
    with pytest.raises(VideoError, match="--deinterlace makes whole pictures"):
        upscale_video(interlaced, tmp_path / "out2.mkv", Nearest())


def test_modes_are_named(tmp_path, interlaced):
    with pytest.raises(VideoError, match="frame or field"):
        upscale_video(interlaced, tmp_path / "out.mkv", Nearest(), deinterlace="weave")
