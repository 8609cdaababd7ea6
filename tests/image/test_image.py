"""Pictures on disk: every layout, depth and format there and back, and what must be refused, in one line."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageCms

from seemore_fast.errors import ImageError
from seemore_fast.image import Image, Writer, check_writable, read, size, write
from seemore_fast.image.formats import FORMATS, vips
from seemore_fast.image.picture import PROFILE

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
    assert np.corrcoef(cmyk.pixels.ravel(), smooth(3).ravel())[0, 1] > 0.9
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
    write(tmp_path / name, with_profile(smooth(3), SRGB))
    assert read(tmp_path / name).icc_profile == SRGB
    write(tmp_path / name, with_profile(smooth(3), GRAY))
    assert read(tmp_path / name).icc_profile is None
    write(tmp_path / name, with_profile(smooth(1), GRAY))
    assert read(tmp_path / name).icc_profile == (None if name == "a.webp" else GRAY)


def sixteen_bit_png(colour_type: int, channels: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(2 * 2 * channels)) * 2)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_profile(pixels: np.ndarray, icc: bytes) -> Image:
    return Image(pixels, {PROFILE: (vips().GValue.blob_type, icc)})


def refused(path: Path, reason: str, **limits: int) -> None:
    with pytest.raises(ImageError, match=re.escape(reason)) as caught:
        read(path, **limits)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path, colour_type: int, channels: int) -> None:
    """In files of another writer, and in our own of each format that can."""
    (tmp_path / "a.png").write_bytes(sixteen_bit_png(colour_type, channels))
    assert (read(tmp_path / "a.png").pixels == np.zeros((2, 2, channels), np.uint16)).all()
    pixels = noise(9, 14, channels).astype(np.uint16) * 251 + 3
    for name in ("b.png", "b.tif"):
        write(tmp_path / name, Image(pixels))
        back = read(tmp_path / name).pixels
        assert back.dtype == np.uint16
        np.testing.assert_array_equal(back, pixels)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif").reshape(pixels.shape), pixels)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    write(tmp_path / "c.avif", Image(pixels.repeat(4, axis=0).repeat(4, axis=1)))
    back = read(tmp_path / "c.avif")
    assert back.pixels.dtype == np.uint16
    write(tmp_path / "d.jpg", Image(np.full((8, 8, 1), 40000, np.uint16)))
    assert abs(int(read(tmp_path / "d.jpg").pixels[4, 4, 0]) - round(40000 / 257)) <= 1


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.png", "No such file")
    refused(tmp_path, "Is a directory")
    (tmp_path / "text.png").write_text("a shopping list")
    refused(
        tmp_path / "text.png", "not a PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, JPEG XL, HEIC or OpenEXR image"
    )
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "the file is empty")
    Pillow.fromarray(noise(4, 4, 3)).save(tmp_path / "picture.png", "PPM")
    refused(
        tmp_path / "picture.png",
        "not a PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, JPEG XL, HEIC or OpenEXR image",
    )
    tifffile.imwrite(tmp_path / "whole.tif", np.zeros((4, 4), np.int32))
    refused(tmp_path / "whole.tif", "int pixels; only 8 and 16 bits")
    tifffile.imwrite(
        tmp_path / "bands.tif", np.zeros((4, 4, 6), np.uint8), photometric="rgb", planarconfig="contig"
    )
    refused(tmp_path / "bands.tif", "6 channels")


def test_a_photograph_with_further_views_is_its_first(tmp_path: Path) -> None:
    """Phones store previews and depth behind the photograph, in one JPEG (MPO)."""
    views = [Pillow.fromarray(smooth(3)), Pillow.fromarray(255 - smooth(3))]
    views[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=views[1:], quality=95)
    assert np.abs(read(tmp_path / "a.jpg").pixels.astype(int) - smooth(3)).mean() < 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif", "a.gif"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, Image(noise(40, 40, 3)))
    whole = path.read_bytes()
    for keep in (1, 20, 25, 40, 200, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:keep])
        with pytest.raises(ImageError, match=r"truncated or damaged|not a PNG, JPEG"):
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
    refused(tmp_path / "bomb.png", "50000x50000 is over the limit of 100 megapixels")
    assert size(tmp_path / "bomb.png") == (50_000, 50_000)


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("a.ppm", (4, 4), "must end in one of .png, .jpg, .jpeg, .webp"),
        ("a", (4, 4), "must end in one of"),
        ("a.jpg", (12, 80_000), "80000x12 is too large for JPEG"),
        ("a.webp", (16_384, 1), "1x16384 is too large for WebP"),
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

    def full(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", full)
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


# Metadata


@pytest.mark.parametrize("name", ["out.jpg", "out.png", "out.webp", "out.avif", "out.tif"])
@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.tif"])
def test_the_resolution_travels_without_exif(tmp_path: Path, source: str, name: str) -> None:
    Pillow.fromarray(smooth(3)).save(tmp_path / source, dpi=(300, 150))
    picture = read(tmp_path / source)
    write(tmp_path / name, picture)
    with Pillow.open(tmp_path / name) as back:
        exif = back.getexif()  # of which Pillow's own dpi is the first side alone
        found = back.info["dpi"] if name.endswith(("png", "tif")) else [exif[tag] for tag in (282, 283)]
    assert [float(value) for value in found] == pytest.approx([300, 150], rel=1e-3)


def test_no_resolution_is_made_up(tmp_path: Path) -> None:
    """A JPEG's JFIF header without a unit tells no resolution."""
    Pillow.fromarray(smooth(3)).save(tmp_path / "in.jpg")
    assert read(tmp_path / "in.jpg").density is None


def tagged(path: Path) -> None:
    """A photograph as a camera leaves it: turned, with a position, 300 dpi and a profile."""
    tags = Pillow.Exif()
    tags[0x010F], tags[0x0112] = "Maker", 6
    tags.get_ifd(0x8769)[0xA002], tags.get_ifd(0x8769)[0xA003] = 56, 40
    tags.get_ifd(0x8825)[1] = "N"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    Pillow.fromarray(smooth(3)).save(path, exif=tags, dpi=(300, 300), icc_profile=SRGB, xmp=xmp, quality=95)


@pytest.mark.parametrize("name", ["out.jpg", "out.png", "out.webp", "out.avif", "out.tif"])
@pytest.mark.parametrize("source", ["in.jpg", "in.webp"])
def test_metadata_travels_and_tells_the_truth(tmp_path: Path, source: str, name: str) -> None:
    tagged(tmp_path / source)
    picture = read(tmp_path / source)
    assert picture.pixels.shape == (56, 40, 3)
    larger = Image(picture.pixels.repeat(2, axis=0).repeat(2, axis=1), picture.metadata, picture.density)
    write(tmp_path / name, larger)
    back = read(tmp_path / name)
    assert back.pixels.shape == (112, 80, 3), "turned twice"
    assert back.icc_profile == SRGB
    assert b"xmpmeta" in back.metadata["xmp-data"][1]
    if source == "in.jpg" and name not in ("out.webp", "out.avif"):
        assert back.density == pytest.approx((300 / 25.4, 300 / 25.4), rel=1e-3)
    if name == "out.tif":
        return  # libvips writes no EXIF there
    with Pillow.open(tmp_path / name) as file:
        exif = file.getexif()
        assert (exif[0x010F], exif.get(0x0112, 1), exif.get_ifd(0x8825)[1]) == ("Maker", 1, "N")
        assert (exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003]) == (80, 112)
        if source == "in.jpg":
            assert exif[0x011A] == pytest.approx(300, rel=1e-3)


def test_nothing_is_made_up(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        write(tmp_path / name, Image(smooth(3)))
        with Pillow.open(tmp_path / name) as file:
            assert not file.getexif()


# Colour


def test_cmyk_and_lab_become_srgb_with_a_note(tmp_path: Path) -> None:
    rgb = Pillow.fromarray(smooth(3))
    rgb.convert("CMYK").save(tmp_path / "cmyk.tif")
    picture = read(tmp_path / "cmyk.tif")
    assert picture.notes == ("converted from CMYK to sRGB",)
    assert picture.pixels.shape == (40, 56, 3)
    assert np.corrcoef(picture.pixels.ravel(), smooth(3).ravel())[0, 1] > 0.9
    lab = vips().Image.new_from_array(smooth(3), interpretation="srgb").colourspace("lab")
    lab.tiffsave(str(tmp_path / "lab.tif"))
    picture = read(tmp_path / "lab.tif")
    assert picture.notes == ("converted from CIELAB to sRGB",)
    assert np.abs(picture.pixels.astype(int) - smooth(3)).max() <= 3


def test_cielab_of_8_bits_is_not_called_damaged(tmp_path: Path) -> None:
    Pillow.fromarray(smooth(3)).convert("LAB").save(tmp_path / "lab.tif")
    for asked in (read, size):
        with pytest.raises(ImageError, match=r"lab\.tif: CIELAB of 8 bits, .* save it with 16, or as RGB"):
            asked(tmp_path / "lab.tif")


# Animations


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_animations_keep_frames_and_timing(tmp_path: Path, name: str) -> None:
    frames = [Pillow.fromarray(np.full((6, 9, 3), 80 * index, np.uint8)) for index in range(3)]
    frames[0].save(
        tmp_path / name,
        save_all=True,
        append_images=frames[1:],
        duration=[40, 120, 70],
        loop=2,
        lossless=True,
    )
    picture = read(tmp_path / name)
    assert picture.pixels.shape[:2] == (18, 9)
    assert (picture.animation.frames, picture.animation.delays) == (3, (40, 120, 70))
    for other in ("b.gif", "b.webp"):
        larger = picture.pixels.repeat(2, axis=0).repeat(2, axis=1)
        write(tmp_path / other, Image(larger, picture.metadata, animation=picture.animation))
        with Pillow.open(tmp_path / other) as file:
            assert (file.size, file.n_frames) == ((18, 12), 3)
        back = read(tmp_path / other)
        assert back.animation == picture.animation
        assert np.abs(back.pixels[..., :3].astype(int) - larger[..., :3]).max() <= 2
    with pytest.raises(ImageError, match=r"JPEG has no transparency|JPEG holds no animation"):
        write(tmp_path / "b.jpg", picture)


# Writing


def test_quality_is_for_formats_that_have_one(tmp_path: Path) -> None:
    picture = Image(noise(64, 64, 3))
    sizes = {}
    for suffix in FORMATS:
        for quality in (None, 30, 90):
            write(tmp_path / f"a{suffix}", picture, quality)
            sizes[suffix, quality] = (tmp_path / f"a{suffix}").stat().st_size
    for suffix in (".jpg", ".webp", ".avif"):
        assert sizes[suffix, 30] < 0.8 * sizes[suffix, 90], suffix
    for suffix in (".png", ".tif", ".gif"):
        assert sizes[suffix, 30] == sizes[suffix, None], suffix


def test_an_abandoned_writer_leaves_nothing(tmp_path: Path) -> None:
    for given in (0, 5, 40):
        writer = Writer(tmp_path / "a.png", (40, 30, 3), np.uint8, Image(noise(1, 1, 3)))
        if given:
            writer.rows(noise(given, 30, 3))
        writer.abort()
        assert not list(tmp_path.iterdir())
    writer = Writer(tmp_path / "a.png", (40, 30, 3), np.uint8, Image(noise(1, 1, 3)))
    writer.rows(noise(39, 30, 3))
    with pytest.raises(ImageError, match="cannot be written"):
        writer.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resampling_keeps_flat_pictures_flat(tmp_path: Path, channels: int, dtype: type) -> None:
    pixels = np.full((40, 60, channels), 200, dtype)
    writer = Writer(tmp_path / "a.png", pixels.shape, dtype, Image(pixels), size=(25, 31))
    writer.rows(pixels)
    writer.finish()
    back = read(tmp_path / "a.png").pixels
    assert back.dtype == dtype
    assert back.shape == (25, 31, channels)
    assert (back == 200).all()


def test_names_that_are_not_utf8_or_look_like_options(tmp_path: Path) -> None:
    for name in ("ü 漢字.png", "a[1].png", os.fsdecode(b"\xff\xfe.png")):
        write(tmp_path / name, Image(noise(4, 5, 3)))
        assert read(tmp_path / name).pixels.shape == (4, 5, 3)
