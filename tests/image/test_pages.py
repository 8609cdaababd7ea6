"""Files of several pictures: pages of a TIFF come and go as pages, what cannot be read as such is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from seemore_fast.errors import ImageError
from seemore_fast.image import Image, read, write


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def enlarged(picture: Image) -> Image:
    pixels = picture.pixels.repeat(2, axis=0).repeat(2, axis=1)
    return Image(pixels, picture.metadata, animation=picture.animation)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pages_stay_pages(tmp_path: Path, dtype: type) -> None:
    pages = noise(3, 5, 6, 3).astype(dtype)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, photometric="rgb")
    picture = read(tmp_path / "a.tif")
    assert picture.notes == ()
    assert (picture.animation.frames, picture.animation.delays) == (3, ())
    np.testing.assert_array_equal(picture.pixels, pages.reshape(15, 6, 3))
    write(tmp_path / "b.tif", enlarged(picture))
    np.testing.assert_array_equal(
        tifffile.imread(tmp_path / "b.tif"), pages.repeat(2, axis=1).repeat(2, axis=2)
    )
    for name, reason in [("b.png", "PNG does not hold 3 pages; use .tif"), ("b.gif", "GIF does not hold 3")]:
        with pytest.raises(ImageError, match=reason):
            write(tmp_path / name, picture)


def test_pages_are_turned_upright_one_by_one(tmp_path: Path) -> None:
    pages = noise(2, 4, 7, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    turned = read(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(turned, np.concatenate([np.rot90(page, -1) for page in pages]))


def test_thumbnails_and_reduced_copies_are_no_pages(tmp_path: Path) -> None:
    pixels = noise(64, 80, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels[::4, ::4], photometric="rgb", subfiletype=1)
        file.write(pixels, photometric="rgb")
        file.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
    picture = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.animation is None


def test_pages_of_different_sizes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise(5, 6, 3), photometric="rgb")
        file.write(noise(5, 8, 3), photometric="rgb")
    with pytest.raises(ImageError, match="its pages are of different sizes or kinds; split it"):
        read(tmp_path / "a.tif")


def test_a_page_that_is_damaged(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in noise(3, 64, 64, 3):
            file.write(page, photometric="rgb", compression="zlib")
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        last = file.pages[2]
        whole[last.dataoffsets[0] + last.databytecounts[0] - 2] ^= 1
    with pytest.raises(ImageError, match="truncated or damaged"):
        read("a.tif", data=bytes(whole))


def frames() -> list[Pillow.Image]:
    return [Pillow.fromarray(np.roll(noise(40, 60, 3), shift, axis=1)) for shift in (0, 5, 9)]


def test_an_animated_avif_is_refused(tmp_path: Path) -> None:
    first, *others = frames()
    first.save(tmp_path / "a.avif", save_all=True, append_images=others)
    with pytest.raises(ImageError, match="an animated AVIF"):
        read(tmp_path / "a.avif")
    first.save(tmp_path / "still.avif")
    assert read(tmp_path / "still.avif").pixels.shape == (40, 60, 3)


@pytest.mark.parametrize("text", ["x" * 70_000, "IDAT and acTL"])
def test_an_animated_png_behind_any_text_is_refused(tmp_path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", text)
    first, *others = frames()
    first.save(tmp_path / "a.png", save_all=True, append_images=others, pnginfo=info)
    with pytest.raises(ImageError, match="an animated PNG"):
        read(tmp_path / "a.png")
    first.save(tmp_path / "still.png", pnginfo=info)
    assert read(tmp_path / "still.png").texts == (("Comment", text),)
