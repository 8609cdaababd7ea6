"""A part of a video: its frames, and the sound and chapters of that time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

import av

from seemore_fast.cli import app
from seemore_fast.errors import VideoError
from seemore_fast.video import upscale_video
from tests.support import videos
from tests.support.videos import Nearest, enlarge


def chapter(number: int, start: int, end: int) -> dict:
    return {"id": number, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {}}


@pytest.mark.parametrize("late", [0, 75])
@pytest.mark.parametrize(
    ("begin", "end", "frames"),
    [(0.4, 0.8, range(10, 20)), (None, 0.2, range(5)), (0.9, None, range(23, 25)), (0, 9, range(25))],
)
def test_frames_of_a_part(tmp_path, late, begin, end, frames):
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(late, late + 25)))
    upscaler = Nearest()
    output = enlarge(source, tmp_path / "out.mkv", upscaler, begin=begin, end=end, codec="ffv1")
    assert upscaler.calls == len(frames)
    moved = 0 if begin is None else late + Fraction(begin).limit_denominator(100) * 25
    assert videos.times(output) == [round((f + late - moved) * 40) * Fraction(1, 1000) for f in frames]
    whole = enlarge(source, tmp_path / "whole.mkv", codec="ffv1")
    for number, frame in zip(frames, videos.frames(output), strict=True):
        assert (frame.to_ndarray() == videos.frames(whole)[number].to_ndarray()).all()


def test_sound_and_chapters_stay_with_it(tmp_path):
    source = videos.write_clip(
        tmp_path / "in.mkv",
        pts=tuple(range(50)),
        audio="aac",
        chapters=[chapter(1, 0, 500), chapter(2, 500, 1500), chapter(3, 1500, 2000)],
    )
    notes: list[str] = []
    output = enlarge(source, tmp_path / "out.mkv", begin=0.6, end=1.2, note=notes.append)
    given = videos.packets(source, "audio")
    start, end = Fraction(6, 10), Fraction(12, 10)
    assert videos.packets(output, "audio") == [(t - start, c) for t, c in given if start <= t < end]
    with av.open(str(output)) as container:
        (kept,) = container.chapters()
    assert (kept["start"] * kept["time_base"], kept["end"] * kept["time_base"]) == (0, end - start)
    assert notes == ["2 of 3 chapters are left out"]


def test_wrong_parts_are_refused(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(25)))
    for begin, end, match in ((-1, None, "0 s or later"), (1, 0.5, "end after"), (5, 6, "no frame is in")):
        with pytest.raises(VideoError, match=match):
            upscale_video(source, tmp_path / "out.mkv", Nearest(), begin=begin, end=end)
        assert not (tmp_path / "out.mkv").exists()


def test_the_command_reads_times(tmp_path):
    source, output = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(25))), tmp_path / "out.mkv"
    arguments = ["video", str(source), "-o", str(output), "--model", "t-x2"]
    result = CliRunner().invoke(app, [*arguments, "--from", "0:00.4", "--to", "0:00:00.48"])
    assert result.exit_code == 0, result.output
    assert len(videos.frames(output)) == 2
    result = CliRunner().invoke(app, [*arguments, "--from", "soon"])
    assert result.exit_code == 2
    assert "M:SS" in result.output
