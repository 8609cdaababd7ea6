"""Texts inside pictures: titles, prompts and comments come through, whatever they are written in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from seemore_fast.errors import ImageError
from seemore_fast.image import Image, Writer, read, write

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
TEXTS = (
    ("Title", "été"),
    ("prompt", '{"a": 1}' * 1000),
    ("workflow", "日本語"),
    ("Title", "two"),
    ("empty", ""),
)


def with_texts(path: Path) -> None:
    info = PngInfo()
    info.add_text(*TEXTS[0])
    info.add_text(*TEXTS[1], zip=True)
    info.add_itxt(*TEXTS[2], "ja", "ワークフロー", zip=True)
    info.add_text(*TEXTS[3])
    info.add_text(*TEXTS[4])
    Pillow.fromarray(PIXELS).save(path, pnginfo=info)


def test_png_to_png(tmp_path: Path) -> None:
    with_texts(tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    assert picture.texts == TEXTS
    write(tmp_path / "b.png", picture)
    assert read(tmp_path / "b.png").texts == TEXTS
    with Pillow.open(tmp_path / "b.png") as file:
        assert file.text == dict(TEXTS), "as others read them"
        np.testing.assert_array_equal(np.asarray(file), PIXELS)


def test_png_to_jpeg_and_back(tmp_path: Path) -> None:
    with_texts(tmp_path / "a.png")
    write(tmp_path / "b.jpg", read(tmp_path / "a.png"))
    back = read(tmp_path / "b.jpg")
    assert back.texts == TEXTS
    write(tmp_path / "c.png", back)
    assert read(tmp_path / "c.png").texts == TEXTS


@pytest.mark.parametrize(
    "comment", [b"plain", "\u00e9t\u00e9".encode(), b"\xe9t\xe9", b"a: b", b"x" * 65_000]
)
def test_a_comment_of_a_jpeg(tmp_path: Path, comment: bytes) -> None:
    Pillow.fromarray(PIXELS).save(tmp_path / "a.jpg", comment=comment, quality=95)
    for name in ("b.jpg", "c.png"):
        write(tmp_path / name, read(tmp_path / "a.jpg"))
    with Pillow.open(tmp_path / "b.jpg") as file:
        file.load()
        try:
            assert file.info["comment"].decode() == comment.decode()
        except UnicodeDecodeError:
            assert file.info["comment"].decode() == comment.decode("latin-1")
    assert read(tmp_path / "c.png").texts == read(tmp_path / "a.jpg").texts


def test_xmp_is_not_doubled(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    Pillow.fromarray(PIXELS).save(tmp_path / "a.png", pnginfo=info)
    picture = read(tmp_path / "a.png")
    assert picture.texts == ()
    assert "xmp-data" in picture.metadata


def test_a_format_without_a_place_says_so(tmp_path: Path) -> None:
    with_texts(tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    writer = Writer(tmp_path / "b.webp", PIXELS.shape, np.uint8, picture)
    assert writer.left_out() == "WebP has no place for its texts (Title, prompt, workflow, empty)"
    assert Writer(tmp_path / "b.png", PIXELS.shape, np.uint8, picture).left_out() == ""


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif", "a.gif"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_called_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own word, from wherever libvips hides it."""
    encode = Writer._encode_plain

    def into_full(self: Writer, target: object) -> None:
        with open("/dev/full", "r+b", buffering=0) as full:
            encode(self, full)

    monkeypatch.setattr(Writer, "_encode_plain", into_full)
    large = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    with pytest.raises(ImageError, match=rf"{name}: cannot be written \(No space left on device\)"):
        write(tmp_path / name, Image(large))
    assert not list(tmp_path.iterdir())


def test_comments_of_a_gif(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(np.roll(PIXELS, shift, axis=1)) for shift in (0, 5)]
    comment = "été " * 200  # several blocks
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], comment=comment.encode())
    picture = read(tmp_path / "a.gif")
    assert picture.texts == (("Comment", comment),)
    write(tmp_path / "b.gif", picture)
    again = read(tmp_path / "b.gif")
    assert again.texts == picture.texts
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    with Pillow.open(tmp_path / "b.gif") as file:
        assert file.info["comment"] == comment.encode()
    with_texts(tmp_path / "c.png")
    write(tmp_path / "d.gif", read(tmp_path / "c.png"))
    assert read(tmp_path / "d.gif").texts == TEXTS
    writer = Writer(tmp_path / "e.webp", (20, 30, 3), np.uint8, picture)
    assert "WebP has no place for its texts (Comment)" in writer.left_out()
