"""Videos: times, streams, colours, damage.  Most tests repeat pixels instead of a network."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

import av

from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError, VideoError
from seemore_fast.upscale.upscaler import Upscaler
from seemore_fast.video import upscale_video
from tests.support import videos
from tests.support.videos import Nearest, enlarge

CFR = tuple(range(0, 20 * 1001, 1001))  # of 30000
VFR = (100, 133, 180, 181, 400, 1000, 1033, 1034, 1035, 1500, 1600, 1601, 1700)  # of 1000


@pytest.mark.parametrize("name", ["out.mp4", "out.mov"])
def test_constant_rate_keeps_exact_times(tmp_path, name):
    source = videos.write_clip(
        tmp_path / "in.mp4",
        codec="libx264",
        pix_fmt="yuv420p",
        pts=CFR,
        time_base=Fraction(1, 30000),
        audio="aac",
    )
    output = enlarge(source, tmp_path / name)
    assert videos.times(output) == videos.times(source) == [Fraction(t, 30000) for t in CFR]
    assert videos.packets(output, "audio") == videos.packets(source, "audio")


def test_matroska_keeps_times_to_its_millisecond(tmp_path):
    source = videos.write_clip(
        tmp_path / "in.mp4",
        codec="libx264",
        pix_fmt="yuv420p",
        pts=CFR,
        time_base=Fraction(1, 30000),
        audio="aac",
    )
    output = enlarge(source, tmp_path / "out.mkv")
    shift = [abs(a - b) for a, b in zip(videos.times(output), videos.times(source), strict=True)]
    assert max(shift) <= Fraction(1, 2000)
    assert videos.packets(output, "audio")[0] == videos.packets(source, "audio")[0]


@pytest.mark.parametrize("codec", ["h264", "h265", "vp9", "av1", "ffv1"])
def test_variable_rate_keeps_exact_times_with_every_codec(tmp_path, codec):
    source = videos.write_clip(tmp_path / "in.mkv", pts=VFR, time_base=Fraction(1, 1000), audio="libopus")
    output = enlarge(source, tmp_path / "out.mkv", codec=codec)
    assert videos.times(output) == [Fraction(t, 1000) for t in VFR]
    assert videos.packets(output, "audio") == videos.packets(source, "audio")
    if codec != "ffv1":
        output = enlarge(source, tmp_path / "out.mp4", codec=codec)
        assert videos.times(output) == [Fraction(t, 1000) for t in VFR]


def test_frames_are_in_their_order(tmp_path):
    """Across segments, and although the encoder reorders."""
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(23)))
    small, large = videos.frames(source), videos.frames(enlarge(source, tmp_path / "out.mkv", crf=1))
    for before, after in zip(small, large, strict=True):
        error = videos.pixels(before).repeat(2, 0).repeat(2, 1).astype(float) - videos.pixels(after)
        assert abs(error).mean() < 1.5 * 257  # neighbours in time differ by 3 levels


def test_streams_metadata_and_geometry_are_kept(tmp_path):
    chapters = [
        {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}
    ]
    source = videos.write_clip(
        tmp_path / "in.mkv",
        audio="aac",
        subtitles="subrip",
        attachment=b"a font",
        rotation=90,
        chapters=chapters,
    )
    output = enlarge(source, tmp_path / "out.mkv")
    for kind in ("audio", "subtitle"):
        assert videos.packets(output, kind) == videos.packets(source, kind) != []
    first = videos.frames(output)[0]
    assert first.rotation == 90
    assert videos.display_matrix(first) == videos.display_matrix(videos.frames(source)[0])
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "subtitle", "attachment"]
        assert container.streams[3].data == b"a font"
        assert container.streams.audio[0].metadata["language"] == "fra"
        assert container.metadata["title"] == "a title"
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["one"]


def test_pixel_aspect_is_kept_or_told(tmp_path):
    source = videos.write_clip(
        tmp_path / "in.mp4",
        codec="libx264",
        pix_fmt="yuv420p",
        time_base=Fraction(1, 25),
        aspect=Fraction(4, 3),
    )
    for name in ("out.mp4", "out.mkv"):
        with av.open(str(enlarge(source, tmp_path / name))) as container:
            next(container.decode(video=0))
            assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    notes: list[str] = []
    enlarge(source, tmp_path / "out.webm", note=notes.append)
    assert any("4:3" in note for note in notes)


def test_what_a_container_does_not_take_is_told_and_left_out(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", audio="aac", subtitles="subrip")
    notes: list[str] = []
    output = enlarge(source, tmp_path / "out.mp4", note=notes.append)
    (note,) = notes
    assert "stream 2 (subtitle" in note
    assert ".mkv" in note
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4", "lossless.mkv"])
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_colours(tmp_path, matrix, color_range, depth, name):
    rgb = (200, 30, 60)
    source = videos.write_clip(
        tmp_path / "in.mkv",
        pts=(0, 1),
        rgb=rgb,
        matrix=matrix,
        color_range=color_range,
        primaries=9,
        transfer=14,
        pix_fmt="yuv420p" if depth == 8 else "yuv420p10le",
    )
    given = videos.mean_colour(videos.frames(source)[0])
    assert np.allclose(given, rgb, rtol=0, atol=1.7 if depth == 8 else 0.5)  # what rounding YUV can do
    upscaler = Nearest()
    codec = {"codec": "ffv1"} if name == "lossless.mkv" else {"codec": "h265", "crf": 4}
    output = enlarge(source, tmp_path / name, upscaler, **codec)
    frame = videos.frames(output)[0]
    assert upscaler.dtypes == {"uint8" if depth == 8 else "uint16"}
    assert frame.format.name.replace("yuvj", "yuv") == ("yuv420p" if depth == 8 else "yuv420p10le")
    assert (frame.colorspace, frame.color_range) == (matrix, color_range)
    assert (frame.color_primaries, frame.color_trc) == (9, 14)
    assert np.allclose(videos.mean_colour(frame), given, rtol=0, atol=2 if depth == 8 else 1)


def test_ten_bits_in_webm(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(5)), pix_fmt="yuv420p10le", size=(64, 64))
    frame = videos.frames(enlarge(source, tmp_path / "out.webm"))[0]
    assert frame.format.name == "yuv420p10le"
    expect_refusal(tmp_path, "vp9 takes .*; av1 and h265 take 10 bits", source, name="o.webm", codec="vp9")


def test_ten_bits_do_not_pass_through_eight(tmp_path):
    """A slow gradient has more than 256 gray levels' steps, before and after."""
    source = tmp_path / "in.mkv"
    gray = np.linspace(20000, 26000, 256).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(np.broadcast_to(gray[None, :, None], (16, 256, 3)).copy(), "rgb48le")
    with av.open(str(source), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 16, "yuv420p10le"
        frame = frame.reformat(format="yuv420p10le", src_color_range=2, dst_color_range=1)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux([*stream.encode(frame), *stream.encode(None)])
    output = enlarge(source, tmp_path / "out.mkv", codec="ffv1")
    luma = np.frombuffer(videos.frames(output)[0].planes[0], np.uint16)
    before = np.frombuffer(videos.frames(source)[0].planes[0], np.uint16)
    assert len(np.unique(luma)) >= len(np.unique(before)) > 70  # 8 bits have 21


def test_unlabelled_colours_are_read_as_of_the_small_picture_and_labelled(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=(0,), matrix=2, color_range=0)
    frame = videos.frames(enlarge(source, tmp_path / "out.mkv", Nearest(32)))[0]
    assert (frame.height, frame.colorspace, frame.color_range) == (768, 6, 1)


def test_odd_sizes_are_cut_with_a_note(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=(0,), size=(33, 25))
    notes: list[str] = []
    frame = videos.frames(enlarge(source, tmp_path / "out.mkv", Nearest(3), note=notes.append))[0]
    assert (frame.width, frame.height) == (98, 74)
    assert notes == ["99x75 is cut to 98x74, as yuv420p needs; yuv444p keeps it"]
    frame = videos.frames(enlarge(source, tmp_path / "out.mkv", Nearest(3), pix_fmt="yuv444p"))[0]
    assert (frame.width, frame.height) == (99, 75)


def damaged(tmp_path: Path, name: str) -> Path:
    """A clip of 75 frames without its end."""
    source = videos.write_clip(
        tmp_path / name,
        pts=tuple(range(75)),
        codec="libx264",
        pix_fmt="yuv420p",
        options={"g": "5"},
    )
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    return source


def test_truncated_input_fails_and_what_is_there_comes_on_demand(tmp_path):
    source = damaged(tmp_path, "in.mkv")
    output = tmp_path / "out.mkv"
    with pytest.raises(VideoError, match="--ignore-errors"):
        upscale_video(source, output, Nearest(), segment=4)
    assert not output.exists()
    notes: list[str] = []
    enlarge(source, output, ignore_errors=True, note=notes.append)
    assert 20 < len(videos.times(output)) < 60
    assert any("ends too soon" in note for note in notes)


def indexed_clip(path: Path) -> Path:
    """50 frames in an MP4 file that begins with its index."""
    options = {"codec": "libx264", "pix_fmt": "yuv420p", "options": {"g": "10", "bf": "0"}}
    return videos.write_clip(
        path,
        pts=range(0, 50 * 512, 512),
        time_base=Fraction(1, 12800),
        container={"movflags": "faststart"},
        **options,
    )


def test_an_index_that_promises_more_is_noticed(tmp_path):
    source = indexed_clip(tmp_path / "in.mp4")
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(VideoError, match=r"ends too soon: .* of 50 frames"):
        upscale_video(source, tmp_path / "out.mp4", Nearest())


def test_a_clip_that_was_trimmed_by_its_edit_list_is_whole(tmp_path):
    """As phones trim: all frames are in the file, and a list says which are shown."""
    source = indexed_clip(tmp_path / "in.mp4")
    content = bytearray(source.read_bytes())
    entry = content.index(b"elst") + 12
    *_, rate = struct.unpack(">IiI", content[entry : entry + 12])
    content[entry : entry + 12] = struct.pack(">IiI", 800, 15 * 512, rate)  # 20 frames, from the 16th
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24)):  # durations
        at = content.index(box) + offset
        content[at : at + 4] = struct.pack(">I", 800)
    source.write_bytes(content)
    output = enlarge(source, tmp_path / "out.mp4")
    assert videos.times(output) == videos.times(source) == [Fraction(i, 25) for i in range(20)]


def test_seeded_damage_gives_an_error_or_a_video(tmp_path):
    """Bit flips and cuts anywhere: one of our errors or an output, nothing in between."""
    whole = videos.write_clip(tmp_path / "whole.mkv", codec="libx264", pix_fmt="yuv420p", audio="aac")
    content, dice = whole.read_bytes(), random.Random(3)
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    refused = written = 0
    for case in range(24):
        spoilt = bytearray(content)
        if case % 3 == 0:
            del spoilt[dice.randrange(len(spoilt)) :]
        for _ in range(dice.randrange(1, 20) if spoilt else 0):
            spoilt[dice.randrange(len(spoilt))] ^= 1 << dice.randrange(8)
        source.write_bytes(spoilt)
        output.unlink(missing_ok=True)
        try:
            upscale_video(source, output, Nearest(), ignore_errors=case % 2 == 1)
        except SeemoreError as error:
            named = "in.mkv" in str(error) or "out.mkv" in str(error)
            refused += named and not output.exists()
        else:
            written += len(videos.times(output)) > 0
    assert refused + written == 24
    assert min(refused, written) > 3


def expect_refusal(tmp_path: Path, match: str, source: Path | None = None, **options: Any) -> None:
    name = options.pop("name", "out.mkv")
    with pytest.raises(VideoError, match=match):
        upscale_video(source or videos.write_clip(tmp_path / "in.mkv"), tmp_path / name, Nearest(), **options)
    assert not (tmp_path / name).exists()
    assert not list(tmp_path.glob("*.parts/*.nut"))


def test_what_is_refused_before_the_work(tmp_path):
    expect_refusal(tmp_path, r"\.webm does not hold h264", name="out.webm", codec="h264")
    expect_refusal(tmp_path, "must end in one of", name="out.avi")
    expect_refusal(tmp_path, "codec must be one of", codec="mpeg2")
    expect_refusal(tmp_path, "crf must be", crf=-1)
    expect_refusal(tmp_path, "lossless", codec="ffv1", crf=3)
    expect_refusal(tmp_path, "pix-fmt", pix_fmt="yuv9")
    expect_refusal(tmp_path, "libx264 refuses", preset="quick")
    expect_refusal(tmp_path, "at least 1", segment=0)
    expect_refusal(tmp_path, "no such file", source=tmp_path / "none.mkv")
    text = tmp_path / "text.mkv"
    text.write_text("no video")
    expect_refusal(tmp_path, "cannot be read as a video", source=text)
    source = videos.write_clip(tmp_path / "in.mkv")
    with pytest.raises(VideoError, match="replace the input"):
        upscale_video(source, source, Nearest())


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        videos._write_sine(out, out.add_stream("aac", rate=16000), 0.2)
    expect_refusal(tmp_path, "no video stream", source=tmp_path / "in.mkv")


def test_interlaced_is_refused(tmp_path):
    source = videos.write_clip(
        tmp_path / "in.mkv",
        codec="libx264",
        pix_fmt="yuv420p",
        size=(64, 64),
        options={"x264-params": "tff=1"},
    )
    expect_refusal(tmp_path, "interlaced", source=source)


def test_the_command(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=(0, 1, 2), audio="aac")
    output = tmp_path / "out.mp4"
    arguments = ["video", str(source), "-o", str(output), "--crf", "1", "--codec", "h265"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    upscaler = Upscaler("t-x4")
    for small, large in zip(videos.frames(source), videos.frames(output), strict=True):
        expected = upscaler.up((videos.pixels(small) / 257).round().astype(np.uint8))
        error = abs(videos.pixels(large) / 257 - expected)
        assert error.mean() < 4  # 4:2:0 of saturated gradients, and the codec

    result = CliRunner().invoke(app, ["video", str(tmp_path / "none.mkv"), "-o", str(output)])
    assert result.exit_code == 2
    assert "no such file" in result.output
