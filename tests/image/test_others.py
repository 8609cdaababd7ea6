"""BMP, JPEG XL, HEIC and OpenEXR, float TIFF, and what cameras record: read, written, refused."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.errors import ImageError, PackageError
from seemore_fast.image import Image, read, write
from seemore_fast.image.linear import Curve
from seemore_fast.upscale import Upscaler
from tests.support.repository import ROOT
from tests.upscale.test_upscale import noise

PACKAGES = {".jxl": "pillow_jxl", ".heic": "pillow_heif", ".exr": "OpenEXR", ".bmp": "PIL"}


def needed(suffix: str) -> None:
    if importlib.util.find_spec(PACKAGES[suffix]) is None:
        pytest.skip(f"{PACKAGES[suffix]} is not installed")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("suffix", "loss"), [(".bmp", 0), (".jxl", 0), (".heic", 20)])
def test_pictures_come_back(tmp_path: Path, suffix: str, channels: int, loss: float) -> None:
    needed(suffix)
    y, x = np.mgrid[:40, :60]
    planes = [(2 * x + y) % 256, 255 - 3 * x % 200, 4 * y, np.where(x > 20, 255, 4 * x)]
    chosen = {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    pixels = np.stack([planes[i] for i in chosen], 2).astype(np.uint8)
    path = tmp_path / f"picture{suffix}"
    if channels in (2, 4) and suffix == ".bmp":
        with pytest.raises(ImageError, match="BMP has no transparency"):
            write(path, Image(pixels))
        return
    write(path, Image(pixels))
    found = read(path).pixels
    if suffix == ".heic" and channels < 3:
        assert found.shape[2] == channels + 2
        found = np.concatenate([found[..., :1], found[..., 3:]], 2)
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() <= loss / 4
    assert np.abs(found.astype(int) - pixels).max() <= loss


def test_metadata_of_jpeg_xl_and_heic(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x010E] = "a cat"
    exif[0x0112] = 6
    for suffix in (".jxl", ".heic"):
        needed(suffix)
        source = tmp_path / "in.jpg"
        Pillow.fromarray(noise(20, 30, 3)).save(source, exif=exif)
        write(tmp_path / f"a{suffix}", read(source))
        found = read(tmp_path / f"a{suffix}")
        assert found.pixels.shape == (30, 20, 3), "upright, once"
        assert b"a cat" in found.metadata["exif-data"][1]


def test_ten_bits_of_heic_are_spread_over_sixteen(tmp_path: Path) -> None:
    needed(".heic")
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16)
    pixels = np.broadcast_to(ramp[None, :, None], (64, 64, 3)).copy()
    write(tmp_path / "a.heic", Image(pixels), quality=100)
    found = read(tmp_path / "a.heic").pixels
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - pixels).max() < 65536 / 1024 * 3
    assert found.max() == 65535


def test_the_curve_is_its_own_inverse() -> None:
    light = np.concatenate([np.linspace(-0.5, 1, 50), np.geomspace(1, 60000, 50)]).astype(np.float32)
    pixels = np.broadcast_to(light[None, :, None], (2, 100, 3))
    curve = Curve.of(pixels)
    shown = curve.encoded(pixels)
    assert shown.min() == 0
    assert shown.max() == 1
    assert (np.diff(shown[0, :, 0]) >= 0).all()
    np.testing.assert_allclose(curve.decoded(shown), pixels, rtol=2e-4, atol=1e-5)
    white = Curve().encoded(np.full((1, 1, 3), 0.5, np.float32))
    assert white == pytest.approx(188 / 255, abs=0.002), "sRGB's"


def sunset(channels: int = 3) -> np.ndarray:
    """Light of a real scene, the window 20 times white."""
    cat = read(ROOT / "examples/cat.png").pixels[:60, :80] / np.float32(255)
    light = Curve().decoded(cat)
    light[10:20, 30:50] = 20
    if channels == 4:
        light = np.concatenate(
            [light, np.linspace(0, 1, 80, dtype=np.float32)[None, :, None].repeat(60, 0)], 2
        )
    return light


@pytest.mark.parametrize("suffix", [".exr", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_light_above_white_survives(tmp_path: Path, suffix: str, channels: int) -> None:
    if suffix == ".exr":
        needed(suffix)
    light = sunset(channels)
    write(tmp_path / f"in{suffix}", Image(light))
    stored = read(tmp_path / f"in{suffix}").pixels
    assert stored.dtype == np.float32
    seen = light[..., -1] > 0 if channels == 4 else np.ones((60, 80), bool)
    np.testing.assert_allclose(stored[seen], light[seen], rtol=2e-3, atol=1e-4)
    command = ["upscale", str(tmp_path / f"in{suffix}"), "-o", str(tmp_path / f"out{suffix}"), "-n", "t-x2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    large = read(tmp_path / f"out{suffix}").pixels
    assert large.shape == (120, 160, channels)
    inside = large[24:36, 68:92, :3]
    assert np.abs(inside / 20 - 1).max() < 0.1
    mean = large[..., :3].reshape(60, 2, 80, 2, 3).mean((1, 3))
    shown = Curve.of(light).encoded(mean.astype(np.float32)) - Curve.of(light).encoded(light[..., :3])
    assert np.abs(shown[:, 20:]).mean() < 0.02
    done = CliRunner().invoke(app, [*command[:3], str(tmp_path / "out.png"), "-n", "t-x2"])
    assert done.exit_code == 1
    assert "PNG holds no floating point; use .exr or .tif" in done.stderr


def test_eight_bits_become_light(tmp_path: Path) -> None:
    needed(".exr")
    write(tmp_path / "in.png", Image(np.full((20, 20, 3), 188, np.uint8)))
    done = CliRunner().invoke(app, ["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.exr")])
    assert done.exit_code == 0, done.output
    assert read(tmp_path / "out.exr").pixels[30:50, 30:50] == pytest.approx(0.5, abs=0.03)
    write(tmp_path / "same.exr", Image(np.full((20, 20, 1), 188, np.uint8)))
    assert read(tmp_path / "same.exr").pixels == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("suffix", [".jxl", ".heic", ".bmp"])
def test_they_go_through_the_command(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    cat = read(ROOT / "examples/cat.png").pixels[:40, :60]
    write(tmp_path / f"in{suffix}", Image(cat))
    done = CliRunner().invoke(app, ["upscale", str(tmp_path), "-o", str(tmp_path / "out"), "-n", "t-x2"])
    assert done.exit_code == 0, done.output
    found = read(tmp_path / f"out/in{suffix}").pixels
    expected = Upscaler("t-x2").up(read(tmp_path / f"in{suffix}").pixels)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < (3 if suffix == ".heic" else 0.01)


@pytest.mark.parametrize("suffix", [".jxl", ".heic", ".bmp", ".exr"])
def test_damaged_and_large_ones_are_refused(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    path = tmp_path / f"a{suffix}"
    write(path, Image(noise(50, 60, 3)))
    data = path.read_bytes()
    with pytest.raises(ImageError, match=r"60x50 is over the limit"):
        read(path, max_pixels=2999)
    for length in (len(data) // 2, 64):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError, match=rf"a\{suffix}: "):
            read(path)


@pytest.mark.parametrize("name", ["photo.nef", "photo.CR2", "photo.dng"])
def test_raw_files_name_a_converter(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.tif", Image(noise(20, 30, 3)))  # as they look inside
    (tmp_path / "a.tif").rename(tmp_path / name)
    with pytest.raises(ImageError, match=rf"raw file; develop it first: darktable-cli {name}"):
        read(tmp_path / name)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix, extra in [(".jxl", "jxl"), (".heic", "heic"), (".exr", "exr")]:
        monkeypatch.setitem(__import__("sys").modules, PACKAGES[suffix], None)
        with pytest.raises(PackageError, match=rf"pip install 'seemore-fast\[{extra}\]'"):
            write(tmp_path / f"a{suffix}", Image(noise(9, 9, 3)))
        done = CliRunner().invoke(
            app, ["upscale", str(ROOT / "examples/cat.png"), "-o", f"{tmp_path}/a{suffix}"]
        )
        assert done.exit_code == 1
        assert f"seemore-fast[{extra}]" in done.stderr
    assert not list(tmp_path.iterdir())


def test_text_that_begins_like_a_bmp_is_none() -> None:
    with pytest.raises(ImageError, match="not a PNG"):
        read("a.bmp", data=b"BMW is a make of cars, and this is long enough")
    buffer = io.BytesIO()
    Pillow.fromarray(noise(5, 6, 1)[..., 0]).convert("P").save(buffer, "BMP")
    assert read("a.bmp", data=buffer.getvalue()).pixels.shape[:2] == (5, 6)
