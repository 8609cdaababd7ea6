"""A target size: what it means, chained networks, what is large enough, animations; the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.cli.sizes import wished_size
from seemore_fast.errors import SeemoreError
from seemore_fast.image import Animation, Image, read, resampled, write
from seemore_fast.model import SeemoRe
from seemore_fast.upscale import Size, Upscaler
from seemore_fast.upscale.folders import Settings, upscale_files
from seemore_fast.upscale.jobs import Job
from tests.upscale.test_upscale import noise


class Twice(nn.Module):
    """Repeats pixels x2, and remembers the sizes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.config = 2, {"in_chans": 3}
        self.anchor = nn.Parameter(torch.zeros(()))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[2:]))
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


WISHES = [
    # of 40 rows x 60 columns: the result, and how often a network x2 runs
    (Size(width=240), (160, 240), 2),
    (Size(width=100), (67, 100), 1),
    (Size(height=41), (41, 62), 1),
    (Size(width=100, height=300), (300, 100), 3),
    (Size(longest=30), (20, 30), 0),
    (Size(shortest=80), (80, 120), 1),
    (Size(at_least=(61, 20)), (41, 61), 1),
    (Size(at_least=(60, 20)), (40, 60), 0),
    (Size(fit=(240, 90)), (90, 135), 2),
    (Size(scale=2), (80, 120), 1),
    (Size(scale=3), (120, 180), 2),
    (Size(scale=8), (320, 480), 3),
    (Size(scale=0.5), (20, 30), 1),
]


@pytest.mark.parametrize(("size", "expected", "passes"), WISHES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_each_wish_comes_out(size: Size, expected: tuple[int, int], passes: int, dtype: type) -> None:
    network = Twice()
    pixels = noise(40, 60, 3).astype(np.uint16) * (257 if dtype is not np.uint8 else 1)
    pixels = (pixels / 65535).astype(dtype) if dtype is np.float32 else pixels.astype(dtype)
    shares: list[float] = []
    out = Upscaler(network).up(pixels, lambda done, total: shares.append(done / total), size=size)
    assert (out.shape, out.dtype) == ((*expected, 3), dtype)
    assert size.of(40, 60) == expected
    assert size.passes(40, 60, 2) == passes
    assert network.sizes == [(40 << turn, 60 << turn) for turn in range(passes)]
    assert shares == sorted(shares)
    assert not passes or shares[-1] == 1
    larger = pixels.repeat(2**passes, 0).repeat(2**passes, 1)
    np.testing.assert_array_equal(out, resampled(larger, *expected))


def test_a_network_that_does_not_enlarge_always_runs(tmp_path: Path) -> None:
    """Fine-tunes for restoration, x1: once, whatever the size."""
    network = SeemoRe(1, 3, 3, 6, 36, use_shuffle=True, lr_space="exp", topk=1).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "mend.pth")
    upscaler, pixels = Upscaler(tmp_path / "mend.pth"), noise(40, 60, 3)
    assert upscaler.scale == 1
    same = upscaler.up(pixels)
    with torch.inference_mode():
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        expected = (network(x)[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy()
    assert np.abs(same - expected).max() <= 1
    np.testing.assert_array_equal(Upscaler(tmp_path / "mend.pth", tile=32).up(pixels), same)
    for size in (Size(width=30), Size(fit=(90, 90)), Size(at_least=(9, 9))):
        np.testing.assert_array_equal(upscaler.up(pixels, size=size), resampled(same, *size.of(40, 60)))
    write(tmp_path / "in.png", Image(pixels))
    files = [str(tmp_path / name) for name in ("in.png", "out.png", "mend.pth")]
    arguments = [files[0], "-o", files[1], "--model", files[2]]
    assert CliRunner().invoke(app, ["upscale", *arguments]).exit_code == 0
    np.testing.assert_array_equal(read(tmp_path / "out.png").pixels, same)
    done = CliRunner().invoke(app, ["upscale", *arguments, "--at-least", "50x30", "--skip-large"])
    assert "60x40 is large enough: left out" in done.stderr


@pytest.mark.parametrize(
    ("scale", "network"), [(1.5, "t-x2"), (2, "t-x2"), (2.5, "t-x3"), (3, "t-x3"), (3.5, "t-x4"), (8, "t-x4")]
)
def test_outscale_takes_the_network_that_loses_least(tmp_path: Path, scale: float, network: str) -> None:
    write(tmp_path / "in.png", Image(noise(16, 24, 3)))
    arguments = ["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "-s", str(scale)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = read(tmp_path / "out.png").pixels
    expected = Upscaler(network).up(noise(16, 24, 3), size=Size(scale=scale))
    assert found.shape == (round(16 * scale), round(24 * scale), 3)
    assert np.abs(found.astype(int) - expected).max() <= 1
    other = CliRunner().invoke(app, [*arguments, "--model", "t-x4" if network == "t-x3" else "t-x3"])
    assert other.exit_code == 0
    assert not np.array_equal(read(tmp_path / "out.png").pixels, found)


def test_resampling_keeps_flat_colours_and_alpha() -> None:
    for dtype, highest in [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)]:
        flat = np.full((20, 30, 4), highest * 0.6, np.float64).astype(dtype)
        flat[:10, :, :3] = 0
        flat[:10, :, 3] = 0  # invisible black must not darken what is seen
        small = resampled(flat, 13, 17)
        assert small.dtype == dtype
        seen = small[small[..., 3] > highest * 0.1].astype(float)
        assert np.abs(seen[:, :3] - highest * 0.6).max() <= highest * 0.02


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "got none"),
        ({"width": 5, "fit": (1, 1)}, "got width and fit"),
        ({"longest": 0}, "longest must be 1 to"),
        ({"fit": (3,)}, "fit must be"),
        ({"scale": float("nan")}, "scale"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SeemoreError, match=said):
        Size(**wrong)


def test_several_sizes_are_called_as_the_options_are() -> None:
    with pytest.raises(SeemoreError, match="got --fit and --outscale"):
        wished_size(fit="3x3", scale=2.0)


def command(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["upscale", *map(str, arguments), "--model", "t-x2"])
    assert done.exit_code == code, done.output
    return done.stderr


def test_a_folder_is_brought_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, shape in [("small.png", (20, 30, 3)), ("gray.jpg", (9, 31, 1)), ("large.png", (70, 80, 4))]:
        write(tmp_path / "in" / name, Image(noise(*shape) | np.uint8(255 * (name == "large.png"))))
    said = command(tmp_path / "in", "-o", tmp_path / "out", "--at-least", "64x64", "--skip-large")
    assert f"{tmp_path}/in/large.png: 80x70 is large enough: left out" in said
    assert "2 of 3 pictures written, 1 large enough" in said
    assert read(tmp_path / "out/small.png").pixels.shape == (64, 96, 3)
    assert read(tmp_path / "out/gray.jpg").pixels.shape == (64, 220, 1)
    assert not (tmp_path / "out/large.png").exists()
    command(tmp_path / "in", "-o", tmp_path / "out", "--at-least", "64x64")
    np.testing.assert_array_equal(
        read(tmp_path / "out/large.png").pixels, read(tmp_path / "in/large.png").pixels
    )
    command(tmp_path / "in/small.png", "-o", tmp_path / "wide.webp", "--width", 50)
    assert read(tmp_path / "wide.webp").pixels.shape == (33, 50, 3)
    assert "got --longest and --fit" in command(
        "x.png", "-o", tmp_path, "--longest", 9, "--fit", "9x9", code=2
    )
    assert "--fit takes WIDTHxHEIGHT" in command("x.png", "-o", tmp_path, "--fit", "9", code=2)
    assert "--skip-large needs a size" in command("x.png", "-o", tmp_path, "--skip-large", code=2)


def test_a_chained_file_is_the_chained_array(tmp_path: Path) -> None:
    write(tmp_path / "in.png", Image(noise(20, 30, 3, seed=1)))
    command(tmp_path / "in.png", "-o", tmp_path / "out.png", "--longest", 100)
    expected = Upscaler("t-x2").up(read(tmp_path / "in.png").pixels, size=Size(longest=100))
    found = read(tmp_path / "out.png").pixels
    assert found.shape == (67, 100, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [Size(width=50), Size(scale=1.5), Size(longest=10)])
def test_frames_are_resampled_one_by_one(tmp_path: Path, size: Size) -> None:
    frames = noise(3 * 20, 30, 3)
    frames[20:40] = 200  # its neighbours must not reach into it
    write(tmp_path / "in.webp", Image(frames, animation=Animation(3, (50, 60, 70), 0)))
    job = Job(tmp_path / "in.webp", tmp_path / "out.webp")
    outcome = upscale_files(Upscaler(Twice()), [job], Settings(10**6, size), Quiet())
    assert not outcome.failed
    out = read(job.output)
    assert out.animation == Animation(3, (50, 60, 70), 0)
    height, width = size.of(20, 30)
    assert out.pixels.shape == (3 * height, width, 3)
    assert (out.pixels[height : 2 * height] == 200).all()


class Quiet:
    """Listens to nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *told: None
