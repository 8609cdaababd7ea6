"""Sequences of pictures in the place of a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

from seemore_fast import image
from seemore_fast.cli import app
from seemore_fast.errors import VideoError
from seemore_fast.video import EncodingWish, pipe_video
from seemore_fast.video.sequence import is_sequence
from tests.support import videos
from tests.support.videos import Nearest


def pictures(folder: Path, numbers: range, suffix: str = ".png", dtype: type = np.uint8) -> list[np.ndarray]:
    folder.mkdir()
    made = []
    for number in numbers:
        pixels = videos.moving_gradient(number, (32, 24))
        made.append(pixels if dtype is np.uint16 else (pixels // 257).astype(np.uint8))
        image.write(folder / f"shot.{number:04d}{suffix}", image.Image(made[-1]), quality=100)
    return made


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint16)])
def test_pictures_to_pictures_of_the_same_numbers(tmp_path, suffix, dtype):
    made = pictures(tmp_path / "in", range(98, 103), suffix, dtype)
    source, output = tmp_path / f"in/shot.%04d{suffix}", tmp_path / "out/large-%d.tif"
    assert is_sequence(source)
    assert pipe_video(source, output, Nearest(2), EncodingWish()) == 5
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        *("large-100.tif", "large-101.tif", "large-102.tif", "large-98.tif", "large-99.tif")
    ]
    for number, pixels in zip(range(98, 103), made, strict=True):
        found = image.read(tmp_path / f"out/large-{number}.tif").pixels
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, pixels.repeat(2, 0).repeat(2, 1))


def test_pictures_to_a_video_and_back(tmp_path):
    made = pictures(tmp_path / "in", range(1, 13))
    command = ["video", str(tmp_path / "in/shot.%04d.png"), "-o", str(tmp_path / "out.mkv"), "--rate", "12.5"]
    result = CliRunner().invoke(app, [*command, "--codec", "ffv1", "--pix-fmt", "yuv444p", "--model", "t-x2"])
    assert result.exit_code == 0, result.output
    frames = videos.frames(tmp_path / "out.mkv")
    assert [float(frame.time) for frame in frames] == pytest.approx([i / 12.5 for i in range(12)], abs=1e-3)
    assert (frames[0].width, frames[0].height) == (64, 48)
    command = ["video", str(tmp_path / "out.mkv"), "-o", str(tmp_path / "frames/%03d.png"), "--longest", "32"]
    result = CliRunner().invoke(app, [*command, "--model", "t-x2"])
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "frames").iterdir())
    assert [file.name for file in files] == [f"{i:03d}.png" for i in range(1, 13)]
    for file, pixels in zip(files, made, strict=True):
        assert np.abs(image.read(file).pixels.astype(int) - pixels).mean() < 3


def test_what_does_not_fit_is_told(tmp_path):
    pictures(tmp_path / "in", range(1, 6))
    source = tmp_path / "in/shot.%04d.png"
    (tmp_path / "in/shot.0003.png").unlink()
    with pytest.raises(VideoError, match="number 3 is missing, between 1 and 5"):
        pipe_video(source, tmp_path / "out.mkv", Nearest(), EncodingWish())
    with pytest.raises(VideoError, match="there is no such picture"):
        pipe_video(tmp_path / "in/%d.jpg", tmp_path / "out.mkv", Nearest(), EncodingWish())
    clip = videos.write_clip(tmp_path / "in.mkv", audio="aac")
    notes: list[str] = []
    pipe_video(clip, tmp_path / "out/%d.png", Nearest(), EncodingWish(), note=notes.append)
    assert notes == ["only the pictures are kept, not the other streams"]
    with pytest.raises(VideoError, match="no codec or setting"):
        pipe_video(clip, tmp_path / "out/%d.png", Nearest(), EncodingWish(codec="h264"))
    done = CliRunner().invoke(app, ["video", str(clip), "-o", str(tmp_path / "o/%d.png"), "--rate", "5"])
    assert (done.exit_code, "--rate is for pictures as INPUT" in done.stderr) == (2, True)
    (tmp_path / "really %d.mkv").write_bytes(clip.read_bytes())
    assert not is_sequence(tmp_path / "really %d.mkv")


def test_gif_to_video_and_back(tmp_path):
    frames = np.concatenate(
        [(videos.moving_gradient(i * 5, (32, 24)) // 257).astype(np.uint8) for i in range(4)]
    )
    moving = image.Animation(4, (100, 200, 100, 100), 0)
    image.write(tmp_path / "in.gif", image.Image(frames, animation=moving))
    done = CliRunner().invoke(
        app, ["video", f"{tmp_path}/in.gif", "-o", f"{tmp_path}/out.mkv", "--model", "t-x2"]
    )
    assert done.exit_code == 0, done.output
    shown = videos.frames(tmp_path / "out.mkv")
    assert [round(float(frame.time), 2) for frame in shown] == [0.0, 0.1, 0.3, 0.4]
