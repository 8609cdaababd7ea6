"""Self-ensemble: the mean over eight pictures, whatever the tiles, the memory and the kind of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.data.metrics import psnr
from seemore_fast.data.resize import imresize
from seemore_fast.image import Image, read, write
from seemore_fast.model import load
from seemore_fast.upscale import Upscaler, ensemble
from tests.support.repository import ROOT
from tests.upscale.test_upscale import noise


def by_hand(image: np.ndarray) -> np.ndarray:
    """The mean of the eight, in [0, 1]."""
    network, total = load("t-x2"), 0.0
    for mirrored in (False, True):
        for quarters in range(4):
            turned = np.rot90(image[:, ::-1] if mirrored else image, quarters)
            x = torch.from_numpy(np.ascontiguousarray(turned)).permute(2, 0, 1)[None].float() / 255
            with torch.inference_mode():
                large = network(x)[0].permute(1, 2, 0).numpy()
            large = np.rot90(large, -quarters)
            total = total + (large[:, ::-1] if mirrored else large) / 8
    return total


def test_it_is_the_mean_of_the_eight() -> None:
    image = imresize(read(ROOT / "examples/cat.png").pixels, 0.2)[:37, :50]
    expected = by_hand(image).clip(0, 1)
    shares: list[float] = []
    whole = Upscaler("t-x2", ensemble=True, tile=0)
    out = whole.up(image.astype(np.float32) / 255, lambda done, of: shares.append(done / of))
    assert np.abs(out - expected).max() < 1e-5
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert np.abs(whole.up(image) - (expected * 255).round()).max() <= 1
    assert np.abs(out - Upscaler("t-x2").up(image.astype(np.float32) / 255)).max() > 1e-3, "it does something"


@pytest.mark.parametrize("tile_mode", ["exact", "local"])
def test_tiles_and_files_change_nothing(tile_mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(70, 50, 4)
    whole = Upscaler("t-x2", ensemble=True, tile=0).up(image)
    tiled = Upscaler("t-x2", ensemble=True, tile=32 if tile_mode == "exact" else 64, tile_mode=tile_mode)
    monkeypatch.setattr("seemore_fast.upscale.upscaler.free_memory", lambda device: 0)  # the sum is in a file
    made: list[object] = []
    file = ensemble.temporary_file
    monkeypatch.setattr(ensemble, "temporary_file", lambda: made.append(None) or file())
    found = tiled.up(image)
    assert made
    assert found.shape == whole.shape
    if tile_mode == "exact":
        assert np.abs(found.astype(int) - whole).max() <= 1


def test_what_is_stored_of_it(tmp_path: Path) -> None:
    plain, better = Upscaler("t-x2").identity(), Upscaler("t-x2", ensemble=True).identity()
    assert {key for key in plain if plain[key] != better[key]} == {"ensemble"}
    write(tmp_path / "in.png", Image(noise(20, 30, 3)))
    command = ["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--model", "t-x2"]
    done = CliRunner().invoke(app, [*command, "--ensemble"])
    assert done.exit_code == 0, done.output
    expected = Upscaler("t-x2", ensemble=True).up(noise(20, 30, 3))
    assert np.abs(read(tmp_path / "out.png").pixels.astype(int) - expected).max() <= 1


def test_eval_measures_it(tmp_path: Path) -> None:
    truth = read(ROOT / "examples/cat.png").pixels[:120, :160]
    (tmp_path / "HR").mkdir()
    (tmp_path / "LR").mkdir()
    write(tmp_path / "HR/cat.png", Image(truth))
    small = imresize(truth, 0.5)
    write(tmp_path / "LR/cat.png", Image(small))
    command = ["eval", "--model", "t-x2", "--data", str(tmp_path / "HR"), str(tmp_path / "LR")]
    figures = []
    for more in ([], ["--ensemble"]):
        done = CliRunner().invoke(app, [*command, *more, "--csv", str(tmp_path / "out.csv")])
        assert done.exit_code == 0, done.output
        assert ("self-ensemble" in done.stdout) == bool(more)
        figures.append(float((tmp_path / "out.csv").read_text().splitlines()[1].split(",")[2]))
        expected = Upscaler("t-x2", ensemble=bool(more)).up(small)
        assert figures[-1] == pytest.approx(psnr(expected, truth, 2, test_y_channel=True), abs=1e-3)
    assert figures[0] != figures[1]
