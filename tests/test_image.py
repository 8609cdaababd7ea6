"""Pictures on disk: every layout and format there and back, and what must be refused, in one line."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms

from seemore_fast.errors import ImageError
from seemore_fast.image import Image, check_writable, read, write

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def smooth(channels: int) -> np.ndarray:
    """Slow gradients: what JPEG keeps within a few levels."""
    yy, xx = np.mgrid[:40, :56].astype(np.float32)
    planes = [128 + 100 * np.sin(yy / 20 + c) * np.cos(xx / 25 - c) for c in range(channels)]
    return np.stack(planes, axis=2).round().astype(np.uint8)


def only_file_in(folder: Path, name: str) -> bool:
    return [p.name for p in folder.iterdir()] == [name]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (1, 300)])
def test_png_keeps_every_layout(tmp_path: Path, channels: int, shape: tuple[int, int]) -> None:
    pixels = noise(*shape, channels)
    write(tmp_path / "a.png", Image(pixels))
    back = read(tmp_path / "a.png").pixels
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, pixels)
    assert only_file_in(tmp_path, "a.png")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_webp_is_lossless_and_stores_gray_as_rgb(tmp_path: Path, channels: int) -> None:
    pixels = noise(9, 11, channels)
    pixels[..., -1] |= 1  # WebP does not keep the colour of invisible pixels
    write(tmp_path / "a.webp", Image(pixels))
    back = read(tmp_path / "a.webp").pixels
    colour = pixels[..., :1].repeat(3, axis=2) if channels < 3 else pixels[..., :3]
    np.testing.assert_array_equal(back[..., :3], colour)
    assert back.shape[2] == (4 if channels in (2, 4) else 3)
    if channels in (2, 4):
        np.testing.assert_array_equal(back[..., 3], pixels[..., -1])


@pytest.mark.parametrize(("name", "channels"), [("a.jpg", 1), ("a.JPEG", 3)])
def test_jpeg_is_close_and_not_subsampled(tmp_path: Path, name: str, channels: int) -> None:
    pixels = smooth(channels)
    write(tmp_path / name, Image(pixels))
    back = read(tmp_path / name).pixels
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).max() <= 6
    with Pillow.open(tmp_path / name) as file:
        assert all(layer[1:3] == (1, 1) for layer in file.layer)


def test_views_that_are_not_contiguous(tmp_path: Path) -> None:
    pixels = noise(20, 30, 3)[::2, ::-3]
    write(tmp_path / "a.png", Image(pixels))
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, pixels)


def test_palettes_bilevel_and_cmyk_are_converted(tmp_path: Path) -> None:
    rgb = Pillow.fromarray(smooth(3))
    rgb.quantize(16).save(tmp_path / "palette.png")
    palette = read(tmp_path / "palette.png").pixels
    np.testing.assert_array_equal(palette, np.asarray(rgb.quantize(16).convert("RGB")))

    clear = rgb.quantize(16)
    clear.save(tmp_path / "clear.png", transparency=clear.getpixel((3, 2)))
    pixels = read(tmp_path / "clear.png").pixels
    assert pixels.shape[2] == 4
    np.testing.assert_array_equal(pixels[..., 3] == 0, np.asarray(clear) == clear.getpixel((3, 2)))

    rgb.convert("1").save(tmp_path / "bilevel.png")
    bilevel = read(tmp_path / "bilevel.png").pixels
    assert bilevel.shape == (40, 56, 1)
    assert set(np.unique(bilevel)) == {0, 255}

    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98, icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
    cmyk = read(tmp_path / "cmyk.jpg")
    assert np.abs(cmyk.pixels.astype(int) - smooth(3)).max() <= 8
    assert cmyk.icc_profile is None, "it describes four inks, not the RGB that comes out"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    pixels = noise(5, 8, 3)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    flipped = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    upright = np.rot90(flipped, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, upright)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    pixels = noise(5, 8, 3)
    Pillow.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_profile_travels_where_it_fits(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, Image(smooth(3), SRGB))
    assert read(tmp_path / name).icc_profile == SRGB
    write(tmp_path / name, Image(smooth(3), GRAY))
    assert read(tmp_path / name).icc_profile is None
    write(tmp_path / name, Image(smooth(1), GRAY))
    assert read(tmp_path / name).icc_profile == (None if name == "a.webp" else GRAY)


def sixteen_bit_png(colour_type: int, channels: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(2 * 2 * channels)) * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refused(path: Path, reason: str, **limits: int) -> None:
    with pytest.raises(ImageError, match=re.escape(reason)) as caught:
        read(path, **limits)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_not_cut(tmp_path: Path, colour_type: int, channels: int) -> None:
    (tmp_path / "a.png").write_bytes(sixteen_bit_png(colour_type, channels))
    refused(tmp_path / "a.png", "16 bits a channel")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.png", "No such file")
    refused(tmp_path, "Is a directory")
    (tmp_path / "text.png").write_text("a shopping list")
    refused(tmp_path / "text.png", "not a PNG, JPEG or WebP image")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "not a PNG, JPEG or WebP image")
    Pillow.fromarray(noise(4, 4, 3)).save(tmp_path / "picture.png", "BMP")
    refused(tmp_path / "picture.png", "not a PNG, JPEG or WebP image")
    frames = [Pillow.fromarray(noise(4, 4, 3)), Pillow.fromarray(255 - noise(4, 4, 3))]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    refused(tmp_path / "moving.webp", "animated (2 frames)")


def test_a_photograph_with_further_views_is_its_first(tmp_path: Path) -> None:
    """Phones store previews and depth behind the photograph, in one JPEG (MPO)."""
    views = [Pillow.fromarray(smooth(3)), Pillow.fromarray(255 - smooth(3))]
    views[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=views[1:], quality=95)
    assert np.abs(read(tmp_path / "a.jpg").pixels.astype(int) - smooth(3)).mean() < 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, Image(noise(40, 40, 3)))
    whole = path.read_bytes()
    for keep in (1, 20, 25, 40, 200, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:keep])
        with pytest.raises(ImageError, match=r"truncated or damaged|not a PNG, JPEG or WebP"):
            read(path)


def test_the_pixel_limit_counts_pixels(tmp_path: Path) -> None:
    write(tmp_path / "a.png", Image(noise(10, 30, 1)))
    assert read(tmp_path / "a.png", max_pixels=300).pixels.shape == (10, 30, 1)
    refused(tmp_path / "a.png", "30x10 is over the limit", max_pixels=299)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    bomb = bytearray(sixteen_bit_png(0, 1))
    bomb[16:25] = struct.pack(">IIB", 50_000, 50_000, 8)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (tmp_path / "bomb.png").write_bytes(bomb)
    refused(tmp_path / "bomb.png", "more than 178 megapixels")


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("a.tiff", (4, 4), "must end in one of .png, .jpg, .jpeg, .webp"),
        ("a", (4, 4), "must end in one of"),
        ("a.jpg", (12, 80_000), "80000x12 is too large for JPEG"),
        ("a.webp", (16_384, 1), "1x16384 is too large for WEBP"),
    ],
)
def test_formats_that_cannot_hold_it(tmp_path: Path, name: str, shape: tuple[int, int], reason: str) -> None:
    with pytest.raises(ImageError, match=re.escape(reason)):
        check_writable(tmp_path / name, *shape, transparent=False)
    with pytest.raises(ImageError, match=re.escape(reason)):
        write(tmp_path / name, Image(np.zeros((*shape, 1), np.uint8)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [2, 4])
def test_jpeg_drops_alpha_only_when_opaque(tmp_path: Path, channels: int) -> None:
    pixels = smooth(channels)
    with pytest.raises(ImageError, match="no transparency"):
        write(tmp_path / "a.jpg", Image(pixels))
    pixels[..., -1] = 255
    write(tmp_path / "a.jpg", Image(pixels))
    assert read(tmp_path / "a.jpg").pixels.shape[2] == channels - 1


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write(path, Image(noise(4, 4, 3)))
    before = path.read_bytes()

    def half(self: Pillow.Image, target: Path, *_: object, **__: object) -> None:
        Path(target).write_bytes(b"half a picture")
        raise failure

    monkeypatch.setattr(Pillow.Image, "save", half)
    failure: BaseException = OSError(28, "No space left on device")
    with pytest.raises(ImageError, match="No space left on device"):
        write(path, Image(noise(5, 5, 3)))
    failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        write(path, Image(noise(5, 5, 3)))
    assert path.read_bytes() == before
    assert only_file_in(tmp_path, "a.png")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot be written \(No such file or directory\)"):
        write(tmp_path / "none" / "a.png", Image(noise(4, 4, 3)))
