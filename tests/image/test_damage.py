"""Damaged files of every format: refused where something is missing, noted where the decoder went on."""

from __future__ import annotations

import io
import random
import re
import struct
from itertools import product
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import features

from seemore_fast.backends import native
from seemore_fast.errors import ImageError
from seemore_fast.image import FORMATS, damage, read
from seemore_fast.image.formats import vips

NATIVE = pytest.mark.skipif(native.lib is None, reason="without the native library codes are not walked")


def photo(side: int = 192) -> np.ndarray:
    """Smooth shapes with some grain, so that nothing compresses to nothing."""
    yy, xx = np.mgrid[:side, :side]
    shapes = 128 + 90 * np.sin(yy / 17) * np.cos(xx / 23)
    grain = np.random.default_rng(0).normal(0, 6, (side, side, 3))
    return (shapes[..., None] + grain).clip(0, 255).astype(np.uint8)


def saved(format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(photo()).save(file, format_, **options)
    return file.getvalue()


def tiff(**options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, photo(), photometric="rgb", **options)
    return file.getvalue()


def refused(data: bytes, reason: str = "") -> None:
    with pytest.raises(ImageError, match=r"^a: truncated or damaged \(.*" + reason) as caught:
        read("a", data=data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.9999])
def test_a_tiled_tiff_that_is_cut(compression: str | None, kept: float) -> None:
    whole = tiff(tile=(64, 64), compression=compression)
    np.testing.assert_array_equal(read("a", data=whole).pixels, photo())
    refused(whole[: int(len(whole) * kept)])


def test_tiles_behind_a_remark_on_metadata() -> None:
    """libtiff's warnings on tags are none on pixels, and hide no missing tile."""
    whole = tiff(tile=(64, 64), extratags=[(65000, "s", 0, "private", True)])
    picture = read("a", data=whole)
    np.testing.assert_array_equal(picture.pixels, photo())
    assert picture.notes == ()
    refused(whole[: len(whole) // 2])


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_deflate_whose_checksum_is_wrong(tile: tuple[int, int] | None) -> None:
    whole = tiff(tile=tile, compression="zlib")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        start, length = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    at = start + length - 3  # within the checksum
    refused(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def test_jpeg_inside_a_tiff() -> None:
    whole = saved("TIFF", compression="jpeg")
    middle = len(whole) // 2
    refused(whole[:middle] + bytes(200) + whole[middle + 200 :])


KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "gray": {},
}


def jpeg(kind: str) -> bytes:
    file = io.BytesIO()
    picture = Pillow.fromarray(photo())
    (picture.convert("L") if kind == "gray" else picture).save(file, "JPEG", quality=90, **KINDS[kind])
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_jpeg_that_is_cut_and_closed(kind: str, kept: float) -> None:
    whole = jpeg(kind)
    assert read("a", data=whole).notes == ()
    refused(whole[: int(len(whole) * kept)])
    refused(whole[: int(len(whole) * kept)] + b"\xff\xd9")


def test_scans_that_are_missing_altogether() -> None:
    """Each scan of a progressive file is whole: libjpeg has nothing to say."""
    whole = jpeg("progressive")
    scans = [found.start() for found in re.finditer(rb"\xff\xda", whole)]
    tables = whole.rfind(b"\xff\xc4", 0, scans[-1])
    refused(whole[: min(tables, scans[-1])] + b"\xff\xd9", "its last scans are missing")


def test_bytes_lost_between_restart_markers_are_noted() -> None:
    whole = jpeg("restarts")
    middle = len(whole) // 2
    picture = read("a", data=whole[:middle] + whole[middle + 200 :])
    assert len(picture.notes) == 1
    assert re.search("Corrupt JPEG data|its data|left over|restart", picture.notes[0])
    wrong = np.abs(picture.pixels.astype(int) - read("a", data=whole).pixels).max(2) > 8
    assert 0 < wrong.mean() < 0.2


def test_bytes_lost_without_restart_markers_are_refused() -> None:
    whole = jpeg("baseline")
    middle = len(whole) // 3
    refused(whole[:middle] + whole[middle + 200 :], "premature end of data|its data")


def spoiled(whole: bytes, seed: int) -> bytes:
    """Bytes behind the headers lost, changed, repeated, or cut off and closed."""
    draw = random.Random(seed)
    start = whole.index(b"\xff\xda") + 20
    length = draw.choice((1, 4, 20, 200))
    at = draw.randrange(start, len(whole) - length - 2)
    middle = draw.choice(
        (
            b"",
            bytes(length),
            bytes(draw.randrange(256) for _ in range(length)),
            whole[at : at + length] * 2,
        )
    )
    cut = draw.randrange(3) == 0
    return whole[:at] + (b"\xff\xd9" if cut else middle + whole[at + length :])


@NATIVE
@pytest.mark.parametrize("kind", KINDS)
def test_damage_that_shows_is_not_silent(kind: str) -> None:
    """Seldom a code becomes another of its length, and the blocks are as many as before: nothing shows."""
    whole = jpeg(kind)
    right = read("a", data=whole).pixels.astype(int)
    silent, told = [], 0
    for seed in range(60):
        try:
            picture = read("a", data=spoiled(whole, seed))
        except ImageError:
            told += 1
            continue
        told += bool(picture.notes)
        wrong = np.abs(picture.pixels - right).max(2) > 30
        if not picture.notes and wrong.mean() > 0.02:
            silent.append((seed, wrong.mean()))
    assert len(silent) <= 3, silent
    assert told > 40


@NATIVE
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}, {"quality": 1}]
)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (17, 200)])
def test_whole_files_have_no_fault(
    options: dict[str, Any], progressive: bool, shape: tuple[int, int]
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 4), dtype=np.uint8)
    for mode in ("L", "RGB", "CMYK"):
        for restart in (0, 1, 3):
            file = io.BytesIO()
            pixels = {"L": noise[..., 0], "RGB": noise[..., :3], "CMYK": noise}[mode]
            more = {"restart_marker_blocks": restart} if restart else {}
            Pillow.fromarray(pixels, mode).save(file, "JPEG", progressive=progressive, **options, **more)
            assert native.require().jpeg_fault(file.getvalue())[0] == "", (mode, restart)


@NATIVE
def test_what_is_no_jpeg_has_no_codes_to_walk() -> None:
    """Headers cut or changed at random must be survived; the decoder says what is wrong with them."""
    whole = jpeg("progressive")
    draw = random.Random(2)
    for _ in range(300):
        data = bytearray(whole[: draw.choice((len(whole), draw.randrange(len(whole))))])
        for _ in range(3):
            if data:
                data[draw.randrange(min(len(data), 700))] = draw.randrange(256)
        assert len(native.require().jpeg_fault(bytes(data))) == 4


def test_bytes_that_are_left_over_cost_nothing() -> None:
    """Cameras pad their files."""
    whole = jpeg("baseline")
    np.testing.assert_array_equal(read("a", data=whole + bytes(1000)).pixels, read("a", data=whole).pixels)


@pytest.mark.parametrize("accept", [False, True])
def test_a_small_jpeg_that_declares_a_huge_picture(accept: bool) -> None:
    whole = bytearray(jpeg("baseline")[:1500])
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", 9999, 9999)
    with pytest.raises(ImageError, match="cannot be 9999x9999 pixels"):
        read("a", data=bytes(whole) + b"\xff\xd9", accept_damaged=accept)


SHAPES = [(1, 1), (1, 300), (77, 131), (190, 33)]


@pytest.mark.parametrize(
    ("compression", "mode"),
    [
        *product(("tiff_lzw", "packbits", "tiff_adobe_deflate"), ("1", "L", "I;16", "RGB", "RGBA")),
        *product(["jpeg"], ("L", "RGB")),
    ],
)
def test_whole_tiffs_have_no_fault(compression: str, mode: str) -> None:
    """Strips of few rows, the last one shorter; bits, bytes and words."""
    for shape in SHAPES:
        noise = np.random.default_rng(1).integers(0, 256, (*shape, 4), dtype=np.uint8)
        noise[: shape[0] // 2] = 70  # long runs, whose codes grow
        picture = Pillow.fromarray(noise if mode == "RGBA" else noise[..., :3])
        picture = Pillow.fromarray(noise[..., 0].astype(np.uint16) * 99) if mode == "I;16" else picture
        if mode in ("1", "L"):
            picture = picture.convert(mode)
        file = io.BytesIO()
        picture.save(file, "TIFF", compression=compression, strip_size=2000)
        assert damage.in_container(file, FORMATS[".tif"]) is None, shape
        assert read("a", data=file.getvalue()).notes == ()


@pytest.mark.parametrize("options", [{}, {"tile": True, "tile_width": 64, "tile_height": 32}])
@pytest.mark.parametrize("compression", ["lzw", "packbits"])
def test_whole_tiles_have_no_fault(compression: str, options: dict[str, Any]) -> None:
    pyvips = vips()
    image = pyvips.Image.new_from_array(photo(100))
    for predictor in ("none", "horizontal"):
        data = image.tiffsave_buffer(compression=compression, predictor=predictor, **options)
        assert damage.in_container(io.BytesIO(data), FORMATS[".tif"]) is None
        np.testing.assert_array_equal(read("a", data=data).pixels, photo(100))


@pytest.mark.parametrize("colours", [2, 5, 256])
def test_whole_gifs_have_no_fault(colours: int) -> None:
    for shape in SHAPES:
        noise = np.random.default_rng(1).integers(0, colours, shape, dtype=np.uint8)
        picture = Pillow.fromarray(noise, "P")
        picture.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
        for interlace in (0, 1):
            file = io.BytesIO()
            picture.save(file, "GIF", interlace=interlace)
            assert damage.in_container(file, FORMATS[".gif"]) is None, (shape, interlace)


@pytest.mark.parametrize("options", [{"quality": 5}, {"quality": 90}, {"lossless": True}])
def test_whole_webps_have_no_fault(options: dict[str, Any]) -> None:
    for shape in SHAPES:
        noise = np.random.default_rng(1).integers(0, 256, (*shape, 4), dtype=np.uint8)
        for pixels in (noise, noise[..., :3], np.full_like(noise, 9)):
            for method in (0, 4):
                file = io.BytesIO()
                Pillow.fromarray(pixels).save(file, "WebP", method=method, **options)
                assert damage.in_container(file, FORMATS[".webp"]) is None, (shape, method)


def overwritten(whole: bytes, seed: int) -> bytes:
    """As `spoiled`, in any format, mostly of the same length."""
    draw = random.Random(seed)
    length = draw.choice((1, 4, 20, 200))
    at = draw.randrange(len(whole) // 8, len(whole) - 2 * length - len(whole) // 8)
    middle = draw.choice(
        (
            b"",
            bytes(length),
            bytes(draw.randrange(256) for _ in range(length)),
            whole[at + length : at + 2 * length],
        )
    )
    return whole[:at] + middle + whole[at + length :]


@pytest.mark.parametrize(
    ("whole", "most"),
    [
        (saved("TIFF", compression="tiff_adobe_deflate"), 0),
        pytest.param(saved("TIFF", compression="tiff_lzw"), 1, marks=NATIVE),
        # Literals, and runs of equal length, are as good as others.
        pytest.param(saved("TIFF", compression="packbits"), 1, marks=NATIVE),
        pytest.param(saved("TIFF", compression="jpeg"), 3, marks=NATIVE),
        pytest.param(saved("GIF"), 1, marks=NATIVE),
        (saved("WebP", quality=80), 6),  # 25 of them without the check
        # Codes of one length for another, as in JPEG.
        (saved("WebP", lossless=True), 10),
    ],
    ids=["deflate", "lzw", "packbits", "jpeg", "gif", "webp", "lossless"],
)
def test_damage_within_the_data_is_seldom_silent(whole: bytes, most: int) -> None:
    right = read("a", data=whole).pixels.astype(int)
    silent = []
    for seed in range(60):
        try:
            picture = read("a", data=overwritten(whole, seed))
        except ImageError:
            continue
        if picture.notes:
            continue
        wrong = np.abs(picture.pixels - right).max(2) > 30
        if wrong.mean() > 0.02:
            silent.append((seed, wrong.mean()))
    assert len(silent) <= most, silent


@NATIVE
def test_lengths_of_codes() -> None:
    """TIFF's and GIF's codes of the same bytes, against Pillow's pixels; and by hand."""
    lib = native.require()
    # Clear, 7, the entry just made (7 7), end: codes of 9 bits from the top.
    codes = (256 << 27 | 7 << 18 | 258 << 9 | 257) << 4
    assert lib.lzw_length(codes.to_bytes(5, "big"), 8, False) == (False, 3, 0)
    # The same for literals of 2 bits: clear 4, end 5, first entry 6, codes of 3 bits from the bottom.
    codes = 4 | 1 << 3 | 6 << 6 | 5 << 9
    assert lib.lzw_length(codes.to_bytes(2, "little") + b"ab", 2, True) == (False, 3, 2)
    assert lib.lzw_length((4 | 7 << 3).to_bytes(2, "little"), 2, True) == (True, 0, 0)
    assert lib.packbits_length(bytes([2, 1, 1, 1, 256 - 4, 9, 128])) == (False, 8, 0)
    assert lib.packbits_length(bytes([5, 1])) == (True, 0, 0)
    assert lib.lzw_length(b"", 8, False) == (False, 0, 0)
    with pytest.raises(ValueError, match="bits must be 1 to 8"):
        lib.lzw_length(b"", 9, True)


def test_gif_frames_that_are_missing() -> None:
    frames = [Pillow.fromarray(np.roll(photo(64), shift, axis=1)) for shift in (0, 9, 30)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    whole = file.getvalue()
    assert read("a", data=whole).animation.frames == 3
    refused(whole[: len(whole) * 6 // 10])
    refused(whole[: len(whole) * 6 // 10] + b"\0;")
    picture = read("a", data=whole[:-1])
    assert picture.animation.frames == 3
    assert picture.notes == ("its end mark is missing, and perhaps frames before it",)


@pytest.mark.parametrize(
    "whole",
    [jpeg("baseline"), jpeg("progressive"), tiff(tile=(64, 64)), tiff()],
    ids=["jpg", "prog", "tiles", "strips"],
)
def test_damage_can_be_accepted(whole: bytes) -> None:
    cut = whole[: len(whole) * 6 // 10] + b"\xff\xd9" * (whole[:2] == b"\xff\xd8")
    picture = read("a", data=cut, accept_damaged=True)
    assert picture.pixels.shape == (192, 192, 3)
    assert picture.notes[0].startswith("damaged (")
    np.testing.assert_allclose(picture.pixels[:60, :60], read("a", data=whole).pixels[:60, :60], atol=60)


def moving(format_: str) -> bytes:
    file = io.BytesIO()
    frames = [Pillow.fromarray(np.roll(photo(48), shift, axis=1)) for shift in (0, 9, 30)]
    frames[0].save(file, format_, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    "whole",
    [
        *(saved(name) for name in ("PNG", "WebP", "GIF", "BMP")),
        *(saved("TIFF", compression=name) for name in ("jpeg", "tiff_lzw", "packbits")),
        tiff(tile=(64, 64), compression="zlib"),
        tiff(bigtiff=True),
        *(moving(name) for name in ("PNG", "WebP", "GIF")),
        *([saved("AVIF"), moving("AVIF")] if features.check("avif") else []),
    ],
    ids=lambda data: data[:12].decode("latin-1"),
)
def test_whatever_is_damaged_is_a_picture_or_an_image_error(whole: bytes) -> None:
    """Through a temporary file, as from a pipe."""
    refusals = []
    for seed in range(25):
        draw = random.Random(seed)
        at, length = draw.randrange(8, len(whole) - 40), draw.choice((1, 4, 40))
        middle = draw.choice((b"", bytes(draw.randrange(256) for _ in range(length))))
        data = whole[:at] + (b"" if draw.randrange(3) == 0 else middle + whole[at + length :])
        try:
            assert read("a", 10**7, data=data).pixels.size > 0
        except ImageError as error:
            refusals.append(str(error))
    assert len(refusals) > 3
    assert all(said.startswith("a: ") and "\n" not in said for said in refusals)


def test_too_little_memory_is_told_before_the_codec_runs(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GLib, under libvips, aborts the process where an allocation fails."""
    from seemore_fast.image import Image, write
    from seemore_fast.system import machine

    whole = saved("PNG")
    monkeypatch.setattr(machine, "free_memory", lambda: 48 << 20)
    with pytest.raises(ImageError, match="a: not enough memory to decode 192x192 pixels"):
        read("a", data=whole)
    monkeypatch.setattr(machine, "free_memory", lambda: 47 << 20)
    for name in ("a.png", "a.webp"):
        with pytest.raises(ImageError, match=f"{name}: not enough memory to encode it"):
            write(tmp_path / name, Image(photo()))
    assert not list(tmp_path.iterdir())
    # A bounded address space is used up faster: the C library sets 64 MB of it aside for each thread.
    monkeypatch.setattr(machine, "free_memory", lambda: 255 << 20)
    assert read("a", data=whole).pixels.shape == (192, 192, 3)
    monkeypatch.setattr(machine, "limited", lambda: True)
    with pytest.raises(ImageError, match="a: not enough memory to decode 192x192 pixels"):
        read("a", data=whole)
