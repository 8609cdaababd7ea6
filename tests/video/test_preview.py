"""One frame of a video as a picture."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

from seemore_fast import image
from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError, VideoError
from seemore_fast.video import preview
from tests.support import videos
from tests.support.videos import Nearest


@pytest.mark.parametrize("first", [0, 75])
@pytest.mark.parametrize(("seconds", "frame"), [(0, 0), (0.04, 1), (0.5, 12), (0.959, 23), (0.99, 24)])
def test_the_frame_that_is_shown_then(tmp_path, first, seconds, frame):
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(first, first + 25)))
    preview(source, tmp_path / "look.png", Nearest(2), seconds)
    left, right = np.hsplit(image.read(tmp_path / "look.png").pixels, 2)
    assert left.shape == right.shape == (48, 64, 3)
    expected = (videos.pixels(videos.frames(source)[frame]) / 257).repeat(2, 0).repeat(2, 1)
    assert abs(right - expected).mean() < 1  # neighbours in time differ by 3 levels
    assert abs(left.astype(float) - expected).mean() < 4  # smoother, of the same frame


def test_ten_bits_stay(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pix_fmt="yuv420p10le")
    preview(source, tmp_path / "look.png", Nearest(2), 0.2)
    assert image.read(tmp_path / "look.png").pixels.dtype == np.uint16


def test_what_is_not_there_is_refused(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv")
    with pytest.raises(VideoError, match="no frame at 5 s"):
        preview(source, tmp_path / "look.png", Nearest(2), 5)
    with pytest.raises(SeemoreError, match=r"look\.mkv"):
        preview(source, tmp_path / "look.mkv", Nearest(2), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def test_the_command(tmp_path):
    source, output = videos.write_clip(tmp_path / "in.mkv"), tmp_path / "look.png"
    result = CliRunner().invoke(app, ["video", str(source), "-o", str(output), "--preview", "0.2"])
    assert result.exit_code == 0, result.output
    assert image.read(output).pixels.shape == (96, 256, 3)


def test_videos_are_brought_to_a_size(tmp_path):
    source, output = videos.write_clip(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    command = ["video", str(source), "--model", "t-x2", "--fit", "100x60", "-o"]
    for name in ("out.mkv", "look.png"):
        more = ["--preview", "0.2"] if name == "look.png" else []
        result = CliRunner().invoke(app, [*command, str(tmp_path / name), *more])
        assert result.exit_code == 0, result.output
    shown = videos.frames(output)[5]
    assert (shown.width, shown.height) == (80, 60)
    left, right = np.hsplit(image.read(tmp_path / "look.png").pixels, 2)
    assert left.shape == right.shape == (60, 80, 3)
    assert abs(right.astype(float) - videos.pixels(shown) / 257).mean() < 4  # H.264's, and in 4:2:0
