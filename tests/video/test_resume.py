"""Videos whose run was interrupted, killed or changed: it goes on, and leaves nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="video needs PyAV (pip install 'seemore-fast[video]')")

from seemore_fast.errors import VideoError
from seemore_fast.video import upscale_video
from seemore_fast.video.parts import Parts
from tests.support import videos
from tests.support.repository import ROOT
from tests.support.videos import Nearest, enlarge
from tests.support.warm import python

CHILD = """
import os, sys, time
from pathlib import Path
from tests.support.videos import Nearest
from seemore_fast.video import upscale_video
class Slow(Nearest):
    def up(self, image, size=None):
        time.sleep(float(sys.argv[3]))
        return super().up(image)
print(os.getpid(), flush=True)
upscale_video(Path(sys.argv[1]), Path(sys.argv[2]), Slow(), segment=4, codec="h265")
"""


def start_child(source: Path, output: Path, seconds_a_frame: float) -> tuple[subprocess.Popen, int]:
    """The process, and the number of the one that does its work."""
    path = f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}\n"
    child = subprocess.Popen(
        [*python(), "-c", path + CHILD, source, output, str(seconds_a_frame)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, int(child.stdout.readline())


def segments(output: Path) -> dict[str, tuple[int, int]]:
    found = output.with_name(output.name + ".parts").glob("*.nut")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_killed_at_any_moment_it_goes_on(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(62)), audio="aac")
    expected = enlarge(source, tmp_path / "expected.mkv", segment=4, codec="h265")
    output = tmp_path / "out.mkv"
    delay = random.Random(7)
    kills, before = 0, {}
    while not output.exists() and kills < 40:
        child, number = start_child(source, output, 0.03)
        try:
            child.wait(timeout=0.3 + 0.8 * delay.random())
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(number, signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
        if not output.exists():
            assert before.items() <= segments(output).items()  # finished once, never again
            before = segments(output)
    assert kills >= 2
    upscaler = Nearest()
    # Also where the last kill met the tidying up.
    upscale_video(source, output, upscaler, segment=4, codec="h265")
    for kind in ("video", "audio"):
        assert videos.packets(output, kind) == videos.packets(expected, kind)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("out", "."))] == ["out.mkv"]


def test_what_a_kill_while_joining_left_is_removed(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv")
    (tmp_path / ".0123456789abcdef.part").write_bytes(b"half a container")
    enlarge(source, tmp_path / "out.mkv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.mkv"]


def test_ctrl_c_keeps_segments(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv", pts=tuple(range(62)))
    output = tmp_path / "out.mkv"
    child, _ = start_child(source, output, 0.2)  # ten seconds remain behind the first segment
    end = time.monotonic() + 60
    while not segments(output) and time.monotonic() < end:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) != 0
    finished = len(segments(output))
    assert finished
    assert not output.exists()
    upscaler = Nearest()
    enlarge(source, output, upscaler, segment=4, codec="h265")
    assert upscaler.calls == 62 - 4 * finished


def interrupt_after(count: int) -> Nearest:
    class Interrupted(Nearest):
        def up(self, image: np.ndarray, size: object = None) -> np.ndarray:
            if self.calls == count:
                raise KeyboardInterrupt
            return super().up(image)

    return Interrupted()


@pytest.mark.parametrize("change", ["input", "settings", "network"])
def test_a_changed_job_starts_anew_and_says_so(tmp_path, change):
    source = videos.write_clip(tmp_path / "in.mkv")
    output = tmp_path / "out.mkv"
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, output, interrupt_after(9), segment=4)
    assert len(segments(output)) == 2
    if change == "input":
        videos.write_clip(source, pts=tuple(range(11)))
    upscaler = Nearest(3 if change == "network" else 2)
    notes: list[str] = []
    enlarge(
        source,
        output,
        upscaler,
        segment=4,
        crf=30 if change == "settings" else None,
        note=notes.append,
    )
    assert notes == [f"starting anew: since the interrupted run, {change} changed"]
    assert upscaler.calls == (11 if change == "input" else 12)


def test_a_spoilt_segment_or_manifest_is_made_again(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv")
    output = tmp_path / "out.mkv"
    for spoil, again in (("000000.nut", 12 - 4), ("manifest.json", 12)):
        with pytest.raises(KeyboardInterrupt):
            upscale_video(source, output, interrupt_after(9), segment=4)
        (tmp_path / "out.mkv.parts" / spoil).write_bytes(b"spoilt")
        upscaler = Nearest()
        enlarge(source, output, upscaler, segment=4)
        assert upscaler.calls == again
        assert len(videos.times(output)) == 12


def test_killed_while_tidying_up_nothing_is_done_twice(tmp_path, monkeypatch):
    source = videos.write_clip(tmp_path / "in.mkv")
    output = tmp_path / "out.mkv"
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        if path.name == "000001.nut":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upscale_video(source, output, Nearest(), segment=4)
    assert sorted(segments(output)) == ["000001.nut", "000002.nut"]
    upscaler = Nearest()
    notes: list[str] = []
    enlarge(source, output, upscaler, segment=4, note=notes.append)
    assert upscaler.calls == 0
    assert notes == [f"{output}: had been finished already"]
    assert len(videos.times(output)) == 12


def test_a_file_of_someone_else_beside_the_segments_stays(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv")
    parts = tmp_path / "out.mkv.parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    assert upscale_video(source, tmp_path / "out.mkv", Nearest()) == 12
    assert [path.name for path in parts.iterdir()] == ["notes.txt"]


def test_one_run_at_a_time(tmp_path):
    source = videos.write_clip(tmp_path / "in.mkv")
    with Parts(tmp_path / "out.mkv").locked(), pytest.raises(VideoError, match="another run"):
        upscale_video(source, tmp_path / "out.mkv", Nearest())
