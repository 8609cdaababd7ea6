"""Videos through standard input and output."""

from __future__ import annotations

import io
import shlex
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

import av

from seemore_fast.errors import VideoError
from seemore_fast.video import EncodingWish, pipe_video
from tests.support import videos
from tests.support.videos import Nearest
from tests.support.warm import python

VFR = (0, 40, 90, 130, 500, 520)  # of 1000


class Pipe(io.RawIOBase):
    """Bytes that come once, or go: no seeking."""

    def __init__(self, content: bytes = b""):
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)

    def write(self, data: Any) -> int:
        return self._content.write(bytes(data))

    def content(self) -> bytes:
        return self._content.getvalue()


def through(source: Any, output: Any, **options: Any) -> tuple[int, list[str]]:
    notes: list[str] = []
    wish = EncodingWish(**{k: options.pop(k) for k in ("codec", "crf", "pix_fmt") if k in options})
    return pipe_video(source, output, Nearest(), wish, note=notes.append, **options), notes


def y4m(path: Path, count: int = 7) -> bytes:
    with av.open(str(path), "w", format="yuv4mpegpipe") as out:
        stream = out.add_stream("wrapped_avframe", rate=25, width=32, height=24, pix_fmt="yuv420p")
        for index in range(count):
            pixels = (videos.moving_gradient(index, (32, 24)) >> 8).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes()


def test_y4m_to_y4m(tmp_path):
    given = y4m(tmp_path / "in.y4m")
    sink = Pipe()
    assert through(Pipe(given), sink) == (7, [])
    assert sink.content().startswith(b"YUV4MPEG2 W64 H48 F25:1 ")
    (tmp_path / "out.y4m").write_bytes(sink.content())
    for small, large in zip(
        videos.frames(tmp_path / "in.y4m"), videos.frames(tmp_path / "out.y4m"), strict=True
    ):
        before, after = (frame.to_ndarray(format="gray").astype(float) for frame in (small, large))
        assert abs(before.repeat(2, 0).repeat(2, 1) - after).mean() < 1.5


def test_ten_bits_stay_ten_in_y4m(tmp_path):
    with av.open(str(tmp_path / "in.y4m"), "w", container_options={"strict": "-1"}) as out:
        stream = out.add_stream("wrapped_avframe", rate=25, width=32, height=24, pix_fmt="yuv444p10le")
        for index in range(3):
            pixels = videos.moving_gradient(index, (32, 24))
            frame = av.VideoFrame.from_ndarray(pixels, "rgb48le").reformat(format="yuv444p10le")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    sink = Pipe()
    assert through(Pipe((tmp_path / "in.y4m").read_bytes()), sink) == (3, [])
    (tmp_path / "out.y4m").write_bytes(sink.content())
    with av.open(str(tmp_path / "out.y4m")) as made:
        assert made.streams.video[0].pix_fmt == "yuv420p10le"
        frames = [frame.to_ndarray(format="gray16le") for frame in made.decode(video=0)]
    assert len(frames) == 3
    levels = np.unique(frames[0] >> 6)
    assert (levels % 4).any()  # not 8 bits made 10


def test_nut_keeps_times_and_sound(tmp_path):
    source = videos.write_clip(tmp_path / "in.nut", pts=VFR, time_base=Fraction(1, 1000), audio="aac")
    sink = Pipe()
    assert through(Pipe(source.read_bytes()), sink) == (6, [])
    output = tmp_path / "out.nut"
    output.write_bytes(sink.content())
    assert videos.times(output) == videos.times(source)
    assert videos.packets(output, "audio") == videos.packets(source, "audio")
    assert videos.frames(output)[0].format.name == "yuv420p"


def test_a_file_to_standard_output_and_back(tmp_path):
    source = videos.write_clip(
        tmp_path / "in.mkv", pts=VFR, time_base=Fraction(1, 1000), audio="aac", pix_fmt="yuv420p10le"
    )
    sink = Pipe()
    assert through(source, sink, codec="ffv1")[0] == 6
    output = tmp_path / "out.mkv"
    assert through(Pipe(sink.content()), output, codec="h265", crf=4)[0] == 6
    assert videos.frames(output)[0].format.name == "yuv420p10le"
    # NUT has no times before 0, where this sound begins: everything moves together.
    (start, _), given = videos.packets(output, "audio")[0], videos.packets(source, "audio")
    moved = start - given[0][0]
    assert videos.times(output) == [Fraction(t, 1000) + moved for t in VFR]
    assert videos.packets(output, "audio") == [(time + moved, content) for time, content in given]


def test_what_y4m_loses_is_said(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=VFR, time_base=Fraction(1, 1000), audio="aac")
    count, notes = through(source, Pipe(), kind="y4m")
    assert count == 6
    assert any("stream 1 (audio aac" in note and ".y4m does not take it" in note for note in notes)
    assert any("one rate" in note for note in notes)


def test_damage_and_wrong_settings_are_refused(tmp_path):
    given = y4m(tmp_path / "in.y4m")
    for match, options in (
        ("no codec goes into it", {"codec": "h264"}),
        ("must be one of y4m, nut", {"kind": "avi"}),
        ("need --codec", {"crf": 3.0}),
    ):
        with pytest.raises(VideoError, match=match):
            through(Pipe(given), Pipe(), **options)
    with pytest.raises(VideoError, match="standard input: cannot be read as a video"):
        through(Pipe(b"no video"), Pipe())
    output = tmp_path / "out.mkv"
    cut = videos.write_clip(
        tmp_path / "in.mkv", codec="libx264", pix_fmt="yuv420p", size=(64, 48)
    ).read_bytes()
    with pytest.raises(VideoError):
        through(Pipe(cut[: len(cut) // 3]), output)
    assert not output.exists()


def test_a_reader_that_goes_is_one_line(tmp_path):
    class Closed(Pipe):
        def write(self, data: Any) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(VideoError, match=r"standard output: cannot be written \(Broken pipe\)"):
        through(Pipe(y4m(tmp_path / "in.y4m")), Closed())


@pytest.mark.parametrize(
    ("closed", "arguments"), [("<&-", "- -o out.mkv"), (">&-", "in.y4m -o -")], ids=["input", "output"]
)
def test_a_closed_standard_stream_is_one_line(tmp_path, closed, arguments):
    y4m(tmp_path / "in.y4m", 1)
    start = shlex.join([*python(), "-c", "from seemore_fast.cli import main; main()"])
    command = f"{start} video {arguments} {closed}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith("seemore-fast: standard ")
    assert result.stderr.endswith(" is closed\n")


def test_the_command_between_pipes(tmp_path):
    given = y4m(tmp_path / "in.y4m", 3)
    code = "from seemore_fast.cli import main; main()"
    result = subprocess.run(
        [*python(), "-c", code, "video", "-", "-o", "-", "--model", "t-x2"],
        input=given,
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(b"YUV4MPEG2 W64 H48 ")
    assert result.stdout.count(b"FRAME\n") == 3
