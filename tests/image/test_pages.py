"""Files of several pictures: pages of a TIFF come and go as pages, animations as frames."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import features
from PIL.PngImagePlugin import PngInfo

from seemore_fast.errors import ImageError
from seemore_fast.image import Animation, Image, read, write


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


def animated(format_: str, mode: str = "RGB", **options: Any) -> tuple[np.ndarray, bytes]:
    """Frames of noise (3, 40, 60, C), and a file of them."""
    channels = len(Pillow.new(mode, (1, 1)).getbands())
    pixels = noise(3, 40, 60, channels)
    first, *others = (Pillow.fromarray(frame.squeeze()) for frame in pixels)
    file = io.BytesIO()
    options = {"duration": [100, 200, 40], **options}
    first.save(file, format_, save_all=True, append_images=others, **options)
    return pixels, file.getvalue()


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
KINDS = ["PNG", pytest.param("AVIF", marks=needs_avif)]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_animated_png_comes_and_goes(tmp_path: Path, mode: str) -> None:
    pixels, data = animated("PNG", mode, loop=2, dpi=(254, 254))
    picture = read("a.png", data=data)
    assert picture.animation == Animation(3, (100, 200, 40), 2)
    np.testing.assert_array_equal(picture.pixels.reshape(pixels.shape), pixels)
    write(tmp_path / "b.png", enlarged(picture))
    again = read(tmp_path / "b.png")
    assert again.animation == picture.animation
    np.testing.assert_array_equal(again.pixels, enlarged(picture).pixels)
    with Pillow.open(tmp_path / "b.png") as other:  # whose reader checks the sequence numbers
        assert other.n_frames == 3


def test_equal_frames_of_a_png_stay_frames(tmp_path: Path) -> None:
    picture = Image(np.tile(noise(5, 6, 3), (3, 1, 1)), animation=Animation(3, (10, 70_000, 30), 0))
    write(tmp_path / "a.png", picture)
    assert read(tmp_path / "a.png").animation == picture.animation


def test_the_still_picture_of_an_animated_png_is_no_frame() -> None:
    pixels, data = animated("PNG", default_image=True, duration=70)
    picture = read("a.png", data=data)
    assert picture.animation == Animation(2, (70, 70), 0)
    np.testing.assert_array_equal(picture.pixels.reshape(2, 40, 60, 3), pixels[1:])


@needs_avif
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_animated_avif_comes_and_goes(tmp_path: Path, mode: str) -> None:
    pixels, data = animated("AVIF", mode, quality=100, subsampling="4:4:4")
    picture = read("a.avif", data=data)
    assert picture.animation == Animation(3, (100, 200, 40), 0)
    assert np.abs(picture.pixels.reshape(pixels.shape) - pixels.astype(int))[..., :3].mean() < 2
    write(tmp_path / "b.avif", picture, quality=100)
    again = read(tmp_path / "b.avif")
    assert again.animation == picture.animation
    assert np.abs(again.pixels - picture.pixels.astype(int)).mean() < 2
    Pillow.fromarray(pixels[0]).save(tmp_path / "still.avif")
    assert read(tmp_path / "still.avif").animation is None


@needs_avif
def test_a_turned_animation_becomes_an_upright_avif(tmp_path: Path) -> None:
    """Told to turn an animation, Pillow's AVIF encoder takes the process down."""
    exif = Pillow.Exif()
    exif[0x0112], exif[0x010E] = 6, "a title"
    frames = [Pillow.new("RGB", (30, 20), color) for color in ("red", "blue")]
    frames[0].save(
        tmp_path / "a.webp", save_all=True, append_images=frames[1:], exif=exif.tobytes(), lossless=True
    )
    write(tmp_path / "b.avif", read(tmp_path / "a.webp"))
    with Pillow.open(tmp_path / "b.avif") as made:
        assert (made.size, made.n_frames) == ((20, 30), 2)
        assert dict(made.getexif()).get(0x010E) == "a title"
    assert read(tmp_path / "b.avif").pixels.shape == (60, 20, 3)


@pytest.mark.parametrize("kind", ["GIF", "WebP", *KINDS])
def test_gray_frames_go_into_every_kind_of_animation(tmp_path: Path, kind: str) -> None:
    picture = read("a.png", data=animated("PNG", "L")[1])
    path = tmp_path / f"a.{kind.lower()}"
    write(path, picture)
    assert read(path).animation == Animation(3, (100, 200, 40), 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_an_animation_that_is_cut_off(kind: str, share: float) -> None:
    data = animated(kind)[1]
    with pytest.raises(ImageError, match="truncated or damaged"):
        read("a", data=data[: int(len(data) * share)])


def test_what_is_left_of_a_damaged_animation() -> None:
    pixels, data = animated("PNG")
    picture = read("a.png", data=data[: len(data) * 5 // 6], accept_damaged=True)
    assert picture.animation == Animation(2, (100, 200), 0)
    assert "damaged" in picture.notes[0]
    np.testing.assert_array_equal(picture.pixels.reshape(2, 40, 60, 3), pixels[:2])
    wrong = bytearray(data)
    wrong[-13] ^= 1  # before the end mark of 12 bytes
    with pytest.raises(ImageError, match="the checksum of its"):
        read("a.png", data=bytes(wrong))


@pytest.mark.parametrize("text", ["x" * 70_000, "IDAT and acTL"])
def test_an_animated_png_behind_any_text(tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_text("Comment", text)
    picture = read("a.png", data=animated("PNG", pnginfo=info)[1])
    assert (picture.animation.frames, picture.texts) == (3, (("Comment", text),))
    write(tmp_path / "b.png", picture)
    assert read(tmp_path / "b.png").texts == picture.texts
    Pillow.fromarray(noise(4, 4, 3)).save(tmp_path / "still.png", pnginfo=info)
    assert read(tmp_path / "still.png").texts == (("Comment", text),)
    assert read(tmp_path / "still.png").animation is None


def test_too_many_frames() -> None:
    with pytest.raises(ImageError, match="60x120 is over the limit"):
        read("a.png", 7000, animated("PNG")[1])
