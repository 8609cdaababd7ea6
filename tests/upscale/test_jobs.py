"""Which files become which: what is taken, what is left out and told, what a name may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image as Pillow

from seemore_fast.errors import ImageError
from seemore_fast.upscale.jobs import Job, plan_jobs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "in"
    pictures.mkdir()
    for name, kind in [
        ("a.png", "PNG"),
        ("b.jfif", "JPEG"),
        ("c.JPE", "JPEG"),
        ("d.ppm", "PPM"),
        ("e", "PNG"),
    ]:
        Pillow.new("RGB", (4, 5)).save(pictures / name, kind)
    (pictures / "f.svg").write_bytes(b"anything")
    (pictures / "notes.txt").write_text("a shopping list")
    (pictures / ".hidden.ppm").write_bytes(b"BM")
    return pictures


@pytest.mark.parametrize("pattern", ["", "/*"])
def test_what_is_left_out_is_told(folder: Path, tmp_path: Path, pattern: str) -> None:
    told: list[str] = []
    jobs = plan_jobs([f"{folder}{pattern}"], tmp_path / "out", tell=told.append)
    assert [job.output.name for job in jobs] == ["a.png", "b.jfif", "c.JPE"]
    assert len(told) == 1
    assert told[0].startswith(f"{folder}{pattern}: left out, as they are not named like PNG, JPEG, WebP")
    assert told[0].endswith(f": {folder}/d.ppm, {folder}/e, {folder}/f.svg")


def test_a_folder_of_other_pictures(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.jfif", "c.JPE"):
        (folder / name).unlink()
    with pytest.raises(ImageError, match=r"no pictures in this folder; left out, .*/d\.ppm"):
        plan_jobs([str(folder)], tmp_path / "out")


@pytest.mark.parametrize("name", ["x.dng", "x.ico", "x.PPM", "x.jp2", "x.mp4"])
def test_outputs_of_other_formats_are_no_folders(folder: Path, tmp_path: Path, name: str) -> None:
    for text in (str(folder), str(folder / "a.png")):
        with pytest.raises(ImageError, match=r"is not written; the name must end in one of \.png"):
            plan_jobs([text], tmp_path / name)
    (tmp_path / name).mkdir()  # who has such a folder may use it
    assert plan_jobs([str(folder / "a.png")], tmp_path / name)[0].output == tmp_path / name / "a.png"


def test_a_picture_and_a_link_to_it_are_two(folder: Path, tmp_path: Path) -> None:
    (folder / "z.png").symlink_to(folder / "a.png")
    jobs = plan_jobs([str(folder)], tmp_path / "out")
    assert [job.output.name for job in jobs] == ["a.png", "b.jfif", "c.JPE", "z.png"]


def test_links_to_nothing_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "y.png").symlink_to(folder / "none.png")
    (folder / ".#a.png").symlink_to("somebody@somewhere")  # as editors lock files
    told: list[str] = []
    plan_jobs([str(folder)], tmp_path / "out", tell=told.append)
    assert told[0].endswith(f"; left out, as they are links to what is not there: {folder / 'y.png'}")


def test_folders_that_cannot_be_read_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in, for root may read all."""
    (folder / "below").mkdir()
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path) in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    locked, told = {str(folder / "below")}, list[str]()
    assert len(plan_jobs([str(folder)], tmp_path / "out", tell=told.append)) == 3
    assert f"{folder / 'below'}: left out, it cannot be read (Permission denied)" in told
    locked = {str(folder)}
    with pytest.raises(ImageError, match=r"in: cannot be read \(Permission denied\)"):
        plan_jobs([str(folder)], tmp_path / "out")


def test_dots_in_folders(folder: Path, tmp_path: Path) -> None:
    job = Job(folder / "a.png", tmp_path / "run.v2" / "a.png")
    assert plan_jobs([str(folder / "a.png")], tmp_path / "run.v2") == [job]
