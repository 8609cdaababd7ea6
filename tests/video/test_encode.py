"""Encoders by name, with their own options."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

import av

from seemore_fast.cli import app
from seemore_fast.errors import VideoError
from seemore_fast.video import upscale_video
from tests.support import videos
from tests.support.videos import Nearest, enlarge


@pytest.fixture
def source(tmp_path):
    return videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(8)), size=(64, 48))


@pytest.mark.parametrize(
    ("encoder", "name", "options", "codec", "pix_fmt"),
    [
        ("mpeg2video", "out.mkv", {"b": "2000000"}, "mpeg2video", "yuv420p"),
        ("prores_ks", "out.mov", {"profile": "3"}, "prores", "yuv422p10le"),
        ("libvpx", "out.webm", {"crf": "10", "b": "1000000"}, "vp8", "yuv420p"),
        ("libx265", "out.mp4", {"x265-params": "log-level=error:keyint=2"}, "hevc", "yuv420p"),
        ("png", "out.mov", {}, "png", "rgb24"),
    ],
)
def test_an_encoder_by_name(tmp_path, source, encoder, name, options, codec, pix_fmt):
    output = enlarge(source, tmp_path / name, encoder=encoder, encoder_options=options)
    frames = videos.frames(output)
    assert videos.times(output) == [Fraction(i, 25) for i in range(8)]
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
    assert frames[0].format.name == pix_fmt


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only Linux' root may have real-time threads"
)
def test_an_encoder_leaves_the_machine_to_others(tmp_path, source):
    """SVT-AV1 makes its threads and the calling one real-time, if it may."""

    class Watching(Nearest):
        def up(self, image, size=None):
            self.found = set()
            for thread in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):  # it has ended
                    self.found.add(os.sched_getscheduler(int(thread.name)))
            return super().up(image, size)

    watching = Watching()
    enlarge(source, tmp_path / "out.mkv", watching, encoder="libsvtav1")
    assert watching.found == {os.SCHED_OTHER}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_lossless_rgb_keeps_every_level(tmp_path):
    source = videos.write_clip(tmp_path / "in.mov", pts=(0, 1), codec="png", pix_fmt="rgb24")
    output = enlarge(source, tmp_path / "out.mkv", encoder="libx264rgb", encoder_options={"qp": "0"})
    for before, after in zip(videos.frames(source), videos.frames(output), strict=True):
        small, large = (frame.to_ndarray(format="rgb24") for frame in (before, after))
        assert np.array_equal(small.repeat(2, 0).repeat(2, 1), large)


def test_options_reach_the_encoder_of_a_codec(tmp_path, source):
    output = enlarge(source, tmp_path / "out.mkv", codec="h264", encoder_options={"g": "2", "bf": "0"})
    with av.open(str(output)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert keys[:5] == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("no encoder 'hevc_nothing'; present are .*libx265", {"encoder": "hevc_nothing"}),
        ("no encoder 'aac'; present are .*libx264", {"encoder": "aac"}),
        ("libx264 has no option nonsense", {"encoder": "libx264", "encoder_options": {"nonsense": "1"}}),
        ("libx264 has no option nonsense", {"encoder_options": {"nonsense": "1"}}),
        ("give one of them", {"encoder": "libx264", "codec": "h264"}),
        ("does not take", {"encoder": "wmv2"}),
    ],
)
def test_what_is_missing_is_named_before_the_work(tmp_path, source, match, options):
    upscaler = Nearest()
    with pytest.raises(VideoError, match=match):
        upscale_video(source, tmp_path / "out.mkv", upscaler, **options)
    assert upscaler.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def test_the_command_takes_them(tmp_path, source):
    output = tmp_path / "out.mkv"
    arguments = ["video", str(source), "-o", str(output), "--encoder", "mpeg2video"]
    result = CliRunner().invoke(app, [*arguments, "--encoder-opts", "b=2000000,g=1"])
    assert result.exit_code == 0, result.output
    assert len(videos.frames(output)) == 8
    result = CliRunner().invoke(app, [*arguments, "--encoder-opts", "fast"])
    assert result.exit_code == 2
    assert "KEY=VALUE" in result.output


def test_x264_cuts_no_frame_into_slices(tmp_path, source):
    """As PyAV would have it: files came out 6 to 9 % larger."""
    _, first = videos.packets(enlarge(source, tmp_path / "out.mkv", codec="h264"), "video")[0]
    assert b" sliced_threads=0 " in first


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc"), ("ffv1", "ffv1")])
def test_the_sources_quality_is_copied(tmp_path, codec, name):
    lossy = {} if codec == "ffv1" else {"crf": "30"}
    source = videos.write_clip(
        tmp_path / "in.mkv",
        codec=codec,
        pix_fmt="yuv420p",
        options=lossy,
        pts=tuple(range(50)),
        size=(160, 120),
    )
    output = enlarge(source, tmp_path / "out.mkv", copy_quality=True, segment=50)
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == name
    if codec != "ffv1":
        sizes = [sum(len(data) for _, data in videos.packets(path, "video")) for path in (source, output)]
        assert 1 < sizes[1] / sizes[0] < 2 * 4**0.75
    with pytest.raises(VideoError, match="give no crf"):
        enlarge(source, tmp_path / "no.mkv", copy_quality=True, crf=20)


def test_hardware_that_is_not_there_is_named(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", codec="libx264", pix_fmt="yuv420p")
    with pytest.raises(VideoError, match=r"hwaccel must be one of .*, got 'abacus'"):
        enlarge(source, tmp_path / "out.mkv", hardware="abacus")
    if os.path.exists("/dev/nvidia0"):
        return
    with pytest.raises(VideoError, match=r"in\.mkv: cuda does not decode it here"):
        enlarge(source, tmp_path / "out.mkv", hardware="cuda")


def test_too_little_memory_is_told_before_the_encoder_runs(tmp_path, source, monkeypatch):
    """libx264 would call it a generic error, and libgomp ends the process where it cannot have a thread."""
    from seemore_fast.system import machine

    monkeypatch.setattr(machine, "free_memory", lambda: 40 << 20)
    with pytest.raises(VideoError, match="not enough memory for libx264"):
        enlarge(source, tmp_path / "out.mkv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
