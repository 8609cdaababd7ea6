"""Compiled kernels on disk: whole, checked, bounded, and no obstacle where they cannot be kept."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seemore_fast.backends import kernel_cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel_cache, "folder", lambda: tmp_path / "cache" / "kernels")
    return tmp_path / "cache" / "kernels"


def test_what_is_written_is_read(folder):
    assert kernel_cache.read("a") is None
    kernel_cache.write("a", b"image")
    assert kernel_cache.read("a") == b"image"
    assert kernel_cache.read("b") is None
    assert [path.name for path in folder.iterdir()] == ["a.kernel"], "nothing else stays"


def test_keys_depend_on_every_part():
    keys = {
        kernel_cache.key_of(*parts) for parts in (("a", "b"), ("ab",), ("a", "c"), ("b", "a"), ("a", "b", ""))
    }
    assert len(keys) == 5


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 100])
def test_a_damaged_entry_is_not_there(folder, damage):
    kernel_cache.write("a", b"image")
    (folder / "a.kernel").write_bytes(damage)
    assert kernel_cache.read("a") is None
    kernel_cache.write("a", b"image")
    assert kernel_cache.read("a") == b"image"


def test_the_least_recently_used_go(folder, monkeypatch):
    monkeypatch.setattr(kernel_cache, "MOST_BYTES", 3 * (100 + 32))
    for age, key in ((30, "old"), (20, "used"), (10, "young")):
        kernel_cache.write(key, bytes(100))
        os.utime(folder / f"{key}.kernel", (1e9 - age, 1e9 - age))
    assert kernel_cache.read("used")
    os.utime(folder / "young.kernel", (1e9 - 40, 1e9 - 40))
    kernel_cache.write("new", bytes(100))
    assert [kernel_cache.read(key) is not None for key in ("old", "used", "young", "new")] == [
        True,
        True,
        False,
        True,
    ]


def test_a_folder_that_cannot_be_written(folder):
    folder.parent.mkdir()
    folder.write_text("a file in its place: even root cannot make it")
    kernel_cache.write("a", b"image")
    assert kernel_cache.read("a") is None


def test_a_full_disk(folder, monkeypatch):
    kernel_cache.write("a", b"image")

    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    kernel_cache.write("b", b"image")
    assert [path.name for path in folder.iterdir()] == ["a.kernel"]
    assert kernel_cache.read("a") == b"image"


def test_many_write_the_same():
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: kernel_cache.write("a", bytes(10000)), range(40)))
    assert kernel_cache.read("a") == bytes(10000)
