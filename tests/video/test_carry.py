"""What goes over into the output besides the pictures: carried, or told once, and the telling is true."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

import av

from seemore_fast.errors import VideoError
from seemore_fast.video import upscale_video
from tests.support import videos
from tests.support.videos import Nearest, enlarge

H264 = {"codec": "libx264", "pix_fmt": "yuv420p"}


def run(source: Path, output: Path, **options: Any) -> tuple[Path, list[str]]:
    notes: list[str] = []
    enlarge(source, output, note=notes.append, **options)
    assert len(set(notes)) == len(notes)
    return output, notes


def timecode(path: Path) -> str | None:
    with av.open(str(path)) as container:
        found = [container.metadata, *(s.metadata for s in container.streams)]
        return next((v for m in found for k, v in m.items() if k.lower() == "timecode"), None)


@pytest.mark.parametrize("name", ["out.mov", "out.mp4", "out.mkv"])
def test_a_timecode_track_is_carried(tmp_path, name):
    source = videos.write_clip(tmp_path / "in.mov", audio="aac", timecode="01:02:03:04", **H264)
    with av.open(str(source)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "data"]
    output, notes = run(source, tmp_path / name)
    assert notes == []
    assert timecode(output) == "01:02:03:04"


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("wmav2", "asf"),
        ("wmav1", "asf"),
        ("adpcm_ms", "avi"),
        ("adpcm_ima_wav", "avi"),
        ("pcm_mulaw", "avi"),
        ("pcm_alaw", "avi"),
        ("pcm_mulaw", "mov"),
        ("mp2", "avi"),
        ("pcm_s16le", "avi"),
    ],
)
def test_matroska_takes_the_sound_that_it_can_hold(tmp_path, codec, container):
    folder = tmp_path / "it's [a|b]:c"
    folder.mkdir()
    source = videos.write_clip(
        folder / f"in.{container}", codec="mpeg4", pix_fmt="yuv420p", audio=codec, size=(64, 48)
    )
    output, notes = run(source, folder / "out.mkv")
    assert notes == []
    given, kept = ([content for _, content in videos.packets(f, "audio")] for f in (source, output))
    assert b"".join(kept) == b"".join(given) != b""
    with av.open(str(output)) as result:
        assert result.streams.audio[0].name == codec
        assert sum(frame.samples for frame in result.decode(audio=0)) > 5000


def test_the_hint_to_mkv_is_given_where_it_is_true(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", audio="aac", subtitles="subrip")
    (note,) = run(source, tmp_path / "out.mp4")[1]
    assert note == "stream 2 (subtitle srt) is left out: .mp4 does not take it; an output named .mkv keeps it"
    source = videos.write_clip(tmp_path / "in.mov", audio="adpcm_ima_qt", **H264)
    (note,) = run(source, tmp_path / "out.mkv")[1]
    assert note == "stream 1 (audio adpcm_ima_qt fra) is left out: .mkv does not take it"
    (note,) = run(source, tmp_path / "out.mp4")[1]
    assert note == "stream 1 (audio adpcm_ima_qt fra) is left out: .mp4 does not take it"


@pytest.mark.parametrize("codec", ["h264", "h265", "av1", "vp9", "ffv1"])
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm"])
def test_pixel_aspect_is_carried_or_told(tmp_path, name, codec):
    taken = {".mp4": codec != "ffv1", ".mkv": True, ".webm": codec in ("av1", "vp9")}
    if not taken[Path(name).suffix]:
        return
    source = videos.write_clip(
        tmp_path / "in.mp4", pts=tuple(range(5)), time_base=Fraction(1, 25), aspect=Fraction(4, 3), **H264
    )
    output, notes = run(source, tmp_path / name, codec=codec)
    with av.open(str(output)) as container:
        next(container.decode(video=0))
        aspect = container.streams.video[0].sample_aspect_ratio
    told = [note for note in notes if "4:3" in note]
    assert notes == told
    assert (aspect == Fraction(4, 3)) != bool(told)
    if name == "out.mp4":
        assert aspect == Fraction(4, 3)


def test_transparency_is_told(tmp_path):
    vp9 = videos.write_clip(tmp_path / "in.webm", codec="libvpx-vp9", pix_fmt="yuva420p")
    ffv1 = videos.write_clip(tmp_path / "in.mkv", pix_fmt="yuva444p")
    for source in (vp9, ffv1):
        for name in ("out.webm", "out.mkv"):
            output, notes = run(source, tmp_path / name)
            assert notes == ["transparency is left out: the output is opaque"]
            with av.open(str(output)) as container:
                assert "alpha_mode" not in {key.lower() for key in container.streams.video[0].metadata}


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4", "out.mov", "out.webm"])
def test_cover_pictures_are_carried_or_told(tmp_path, name):
    plain = videos.write_clip(tmp_path / "plain.mp4", **H264)
    picture = io.BytesIO()
    with av.open(picture, "w", format="image2pipe") as out:
        stream = out.add_stream("png", rate=1, width=8, height=8, pix_fmt="rgb24")
        out.mux([*stream.encode(av.VideoFrame(8, 8, "rgb24")), *stream.encode(None)])
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as given, av.open(str(source), "w") as out:
        copy = out.add_stream_from_template(given.streams.video[0])
        out.add_attachment("cover.png", "image/png", picture.getvalue())
        for packet in given.demux():
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    output, notes = run(source, tmp_path / name)
    with av.open(str(output)) as container:
        covers = [s for s in container.streams.video if av.stream.Disposition.attached_pic in s.disposition]
        content = [bytes(p) for s in covers for p in container.demux(s) if p.size]
    if name in ("out.mkv", "out.mp4"):
        assert (content, notes) == ([picture.getvalue()], [])
    else:
        assert len(notes) == 1
        assert "stream 1 (video png) is left out" in notes[0]


def test_tags_and_chapters_are_carried_or_told(tmp_path):
    source = tmp_path / "in.mkv"
    videos.write_clip(
        source,
        audio="aac",
        chapters=[
            {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "a"}}
        ],
    )
    for name in ("out.mkv", "out.mp4", "out.mov"):
        output, notes = run(source, tmp_path / name)
        with av.open(str(output)) as container:
            chapters, title = len(container.chapters()), container.metadata.get("title")
        assert (chapters, title, notes) == (1, "a title", [])


def test_tee_has_no_place_for_chapters_and_says_so(tmp_path):
    source = videos.write_clip(
        tmp_path / "in.mov",
        audio="pcm_mulaw",
        chapters=[
            {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "a"}}
        ],
        **H264,
    )
    output, notes = run(source, tmp_path / "out.mkv")
    assert notes == ["1 of 1 chapters are left out"]
    with av.open(str(output)) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]


def test_streams_that_do_not_fit_together_are_refused_before_the_work(tmp_path, monkeypatch):
    from seemore_fast import video

    def failing(*_: Any, **__: Any) -> None:
        raise av.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(video, "join", failing)
    upscaler = Nearest()
    source = videos.write_clip(tmp_path / "in.mkv")
    with pytest.raises(VideoError, match="does not take these streams together"):
        upscale_video(source, tmp_path / "out.mkv", upscaler)
    assert upscaler.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]
