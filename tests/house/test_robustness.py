"""Damaged files and killed processes: a message and an exit status each, nothing half-written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from seemore_fast.errors import SeemoreError
from seemore_fast.image import Image, read, write
from seemore_fast.system import atomic
from seemore_fast.system.atomic import atomic_path, remove_stale
from tests.support.corrupt import sound_checkpoints, try_checkpoints, try_images
from tests.support.warm import python


def test_damaged_pictures_fail_one_by_one(tmp_path: Path) -> None:
    written, failed = try_images(tmp_path, 120, seed=1)
    assert written >= 10
    assert failed >= 40


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    used, refused = try_checkpoints(tmp_path, 40, seed=1)
    assert used + refused == 40
    assert refused >= 20


def test_a_killed_run_is_taken_up_again(tmp_path: Path) -> None:
    """kill -9 at random moments: what is there is whole, is not done again, and nothing else is left."""
    sound_checkpoints(tmp_path)
    pictures, out = tmp_path / "in", tmp_path / "out"
    draw = random.Random(0)
    for index in range(36):
        folder = pictures / f"{index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        write(folder / f"{index}.png", Image(pixels))
    command = [*python(), "-m", "seemore_fast.cli", "upscale", pictures, "-o", out]
    command += ["--model", tmp_path / "sound.pth", "--skip-existing", "--threads", "1"]

    def finished() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}

    done: dict[Path, int] = {}
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(finished()) == len(done) and process.poll() is None:
            assert time.monotonic() < deadline, "no picture was written"
            time.sleep(0.005)
        time.sleep(draw.random() / 10)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before, done = done, finished()
        assert before.items() <= done.items(), "a picture was lost or written twice"
    last = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert f"{len(done)} skipped" in last.stderr
    assert done.items() <= finished().items()
    names = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(pictures) for path in pictures.rglob("*.png"))
    assert all(read(out / name).pixels.shape == (180, 240, 3) for name in names)


def test_only_what_nobody_writes_any_more_is_stale(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef.part").write_text("left by a killed process")
    (tmp_path / ".my.part").write_text("not ours")
    with atomic_path(tmp_path / "a.txt") as mine:
        other = [*python(), "-c", "import sys; from pathlib import Path;"]
        other[-1] += (
            "from seemore_fast.system.atomic import remove_stale; print(remove_stale(Path(sys.argv[1])))"
        )
        done = subprocess.run([*other, tmp_path], capture_output=True, text=True, check=True)
        assert done.stdout == "1\n"
        mine.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [".my.part", "a.txt"]
    assert remove_stale(tmp_path) == 0


@pytest.mark.parametrize("interrupted", ["open", "fstat", "close"])
def test_an_interrupt_leaves_nothing_wherever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    """Right after any of the calls that make the file, and while it is given up."""
    call = getattr(os, interrupted)

    def then_interrupt(*args: object) -> None:
        call(*args)
        raise KeyboardInterrupt

    def give_up() -> None:
        with atomic_path(tmp_path / "a.txt"):
            raise SeemoreError("given up")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, interrupted, then_interrupt)
        with pytest.raises(KeyboardInterrupt):
            give_up()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_permissions_that_the_user_wants(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("text")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask
