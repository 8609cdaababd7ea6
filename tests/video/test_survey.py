"""What is known before the work: late times, times that jump, fields, names that look like protocols."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

import av

from seemore_fast.errors import VideoError
from seemore_fast.video import survey, upscale_video
from tests.support import videos
from tests.support.videos import Nearest, enlarge

H264 = {"codec": "libx264", "pix_fmt": "yuv420p", "size": (64, 48)}
LATE = tuple(range(75, 100))  # of 25: from 3 s on


def refused(source: Path, output: Path, match: str, **options: Any) -> Nearest:
    upscaler = Nearest()
    with pytest.raises(VideoError, match=match):
        upscale_video(source, output, upscaler, segment=5, **options)
    assert not output.exists()
    return upscaler


def spoil(path: Path, number: int) -> None:
    """Damages the second half of a packet."""
    with av.open(str(path)) as container:
        at, size = [(packet.pos, packet.size) for packet in container.demux() if packet.size][number]
    content = bytearray(path.read_bytes())
    content[at + size // 2 : at + size] = bytes(byte ^ 0x55 for byte in content[at + size // 2 : at + size])
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "codec"), [("in.mkv", "libx264"), ("in.webm", "libvpx-vp9"), ("in.nut", "libx264")]
)
def test_late_times_are_not_a_missing_end(tmp_path, name, codec):
    source = videos.write_clip(tmp_path / name, pts=LATE, **{**H264, "codec": codec})
    notes: list[str] = []
    output = enlarge(source, tmp_path / f"out{source.suffix.replace('nut', 'mkv')}", note=notes.append)
    assert videos.times(output) == videos.times(source) == [Fraction(t, 25) for t in LATE]
    assert notes == []


@pytest.mark.parametrize("pts", [LATE, tuple(range(25))])
def test_a_missing_end_is_refused_before_the_first_frame(tmp_path, pts):
    source = videos.write_clip(tmp_path / "in.mkv", pts=pts, options={"g": "5", "bf": "0"}, **H264)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 2 // 3])
    assert refused(source, tmp_path / "out.mkv", "ends too soon").calls == 0


def test_ignoring_errors_goes_on_with_the_segments_before_the_damage(tmp_path):
    options = {"level": "3", "slicecrc": "1"}
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(25)), size=(64, 48), options=options)
    spoil(source, 13)
    output = tmp_path / "out.mkv"
    before = refused(source, output, "with --ignore-errors the rest is upscaled").calls
    assert before >= 10
    upscaler, notes = Nearest(), []
    enlarge(source, output, upscaler, ignore_errors=True, note=notes.append)
    assert any(note.startswith("going on:") for note in notes)
    assert upscaler.calls + 5 * (before // 5) == len(videos.times(output)) == 24


@pytest.mark.parametrize(
    ("name", "codec", "audio"), [("in.ts", "libx264", "aac"), ("in.vob", "mpeg2video", "mp2")]
)
@pytest.mark.parametrize("out", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("pieces", [2, 3])
def test_joined_files_follow_each_other(tmp_path, name, codec, audio, out, pieces):
    """By ``cat``: each piece keeps its length, and its sound stays with its pictures."""
    piece = videos.write_clip(tmp_path / name, pts=tuple(range(25)), audio=audio, **{**H264, "codec": codec})
    alone = enlarge(piece, tmp_path / f"alone{Path(out).suffix}")
    piece.write_bytes(piece.read_bytes() * pieces)
    notes: list[str] = []
    output = enlarge(piece, tmp_path / out, note=notes.append)
    assert [note for note in notes if "jump" in note] == notes != []
    small = Fraction(1, 500)
    shown, once = videos.times(output), videos.times(alone)
    heard, heard_once = ([t for t, _ in videos.packets(file, "audio")] for file in (output, alone))
    assert len(shown) == 25 * pieces
    assert len(heard) == len(heard_once) * pieces
    for n in range(pieces):
        part = shown[25 * n : 25 * (n + 1)]
        offset = part[0] - once[0]
        assert n * Fraction(99, 100) <= offset <= n * Fraction(13, 10)
        assert all(abs(a - b - offset) <= small for a, b in zip(part, once, strict=True))
        part = heard[len(heard_once) * n : len(heard_once) * (n + 1)]
        assert all(abs(a - b - offset) <= small for a, b in zip(part, heard_once, strict=True))


def test_sound_that_slips_alone_is_no_joint(tmp_path):
    """A recorder's fault in one stream moves nothing else."""
    rises = survey._Rises(0, frozenset((0, 1)), False)
    number = 0
    for frame in range(50):
        rises.see(number, 0, Fraction(frame, 25), Fraction(1, 25))
        rises.see(number + 1, 1, Fraction(frame % 30, 25), Fraction(1, 25))
        number += 2
    assert rises.joints().changes == {}


@pytest.mark.parametrize("kind", ["joined", "within one stream"])
def test_interlaced_after_a_progressive_start_is_refused_before_the_work(tmp_path, kind):
    plain = videos.write_clip(tmp_path / "plain.ts", pts=tuple(range(25)), **H264)
    start = 0 if kind == "joined" else 25
    fields = videos.write_clip(
        tmp_path / "fields.ts",
        pts=tuple(range(start, start + 25)),
        options={"x264-params": "tff=1"},
        **H264,
    )
    source = tmp_path / "in.ts"
    source.write_bytes(plain.read_bytes() + fields.read_bytes())
    assert refused(source, tmp_path / "out.mkv", "interlaced at").calls == 0


def test_fields_between_key_frames_are_met_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "_look", lambda *_: None)
    pieces = [
        videos.write_clip(tmp_path / f"{n}.ts", pts=tuple(range(25)), options=options, **H264).read_bytes()
        for n, options in enumerate(({}, {"x264-params": "tff=1"}))
    ]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(pieces))
    assert refused(source, tmp_path / "out.mkv", "interlaced at").calls <= 25


@pytest.mark.parametrize("name", ["S01:E02.mkv", "concat:a.mkv", "http:x.mkv", "file:y.mkv", "%05d.mkv"])
def test_names_are_names_of_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    given = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(6)))
    given.rename(tmp_path / name)
    output = enlarge(Path(name), Path(f"out-{name}"))
    assert len(videos.frames(tmp_path / output)) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"out-{name}"])


def test_pipes_with_names_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mkv")
    refusal = "is not a file"
    with pytest.raises(VideoError, match=f"{refusal}: pipe it in"):
        upscale_video(tmp_path / "pipe.mkv", tmp_path / "out.mkv", Nearest())
    source = videos.write_clip(tmp_path / "in.mkv", pts=(0,))
    with pytest.raises(VideoError, match=f"{refusal}, and would be replaced"):
        upscale_video(source, tmp_path / "pipe.mkv", Nearest())
    assert (tmp_path / "pipe.mkv").is_fifo()


def test_protocols_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos.write_clip(tmp_path / "a.mkv", pts=(0,))
    for name in ("concat:a.mkv", "http://127.0.0.1:9/a.mkv", "subfile,,start,0,end,99,,:a.mkv"):
        refused(Path(name), Path("out.mkv"), "no such file")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize("codec", ["libx265", "libx264", "ffv1"])
def test_frames_that_the_decoder_drops_are_missed(tmp_path, codec):
    """HEVC's decoder says nothing of a damaged packet: 12 frames were gone."""
    source = videos.write_clip(
        tmp_path / "in.mkv",
        pts=tuple(range(40)),
        codec=codec,
        pix_fmt="yuv420p",
        size=(64, 64),
        options={"x265-params": "log-level=error"} if codec == "libx265" else {},
    )
    spoil(source, 13)
    refused(source, tmp_path / "out.mkv", "damaged")
    notes: list[str] = []
    output = enlarge(source, tmp_path / "out.mkv", ignore_errors=True, note=notes.append)
    assert notes != []
    assert len(videos.times(output)) <= 40
