"""The bundled weights: named, described by a card, complete, and better than interpolation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from seemore_fast import load
from seemore_fast.cli import app
from seemore_fast.data.resize import imresize
from seemore_fast.image import Image, read, write
from seemore_fast.network import checkpoint, weights
from seemore_fast.network.reference import SeemoRe
from tests.support.faults import fault_of
from tests.support.repository import ROOT


@pytest.mark.parametrize("name", weights.names())
def test_bundled_weights(name):
    found = checkpoint.read(weights.path(name))
    assert found.resolve_config() == {**found.config, "mean": tuple(found.config["mean"])}
    assert weights.path(name).with_suffix(".md").read_text().startswith(f"# {name}: ")


def test_bundled_t_x4_beats_bicubic():
    """Curved edges at a quarter of their size must come back better than by interpolation."""
    found = checkpoint.read(weights.path("t-x4"))
    network = SeemoRe(**found.resolve_config()).eval()
    network.load_state_dict(found.state)
    y, x = np.mgrid[:128, :128] / 16.0
    picture = 0.5 + 0.4 * np.sign(np.sin(x + 0.3 * y) + np.sin(0.5 * y - x / 3))
    high = torch.from_numpy(picture).float().expand(1, 3, 128, 128)
    low = torch.nn.functional.interpolate(high, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        error = (network(low) - high).square().mean()
    plain = torch.nn.functional.interpolate(low, scale_factor=4, mode="bicubic")
    assert error < 0.7 * (plain - high).square().mean()


@pytest.mark.parametrize("name", weights.names())
def test_eval_finds_what_the_card_says(name: str, tmp_path: Path) -> None:
    """Of the sample photograph, which is in the repository: Set5, whose figures the card has too, is not."""
    scale = load(name).scale
    truth = read(ROOT / "examples/cat.png").pixels
    truth = truth[: truth.shape[0] // scale * scale, : truth.shape[1] // scale * scale]
    for folder, pixels in ("HR", truth), ("LR", imresize(truth, 1 / scale)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "cat.png", Image(pixels))
    report = tmp_path / "cat.json"
    data = ["--data", str(tmp_path / "HR"), str(tmp_path / "LR")]
    result = CliRunner().invoke(app, ["eval", "--model", name, *data, "--json", str(report)])
    assert result.exit_code == 0, result.output
    (scored,) = json.loads(report.read_text())["sets"]
    row = rf"\| examples/cat.png x{scale} \| ([\d.]+) dB, (0\.\d+) \| \*\*([\d.]+) dB, (0\.\d+)\*\* \|"
    card = re.search(row, weights.path(name).with_suffix(".md").read_text())
    assert card, f"{name}.md has no line like {row}"
    found = [scored[kind][metric] for kind in ("bicubic", "network") for metric in ("psnr", "ssim")]
    # Engines and threads change the last bits, which may round a few of 19,200 pixels differently.
    assert [float(value) for value in card.groups()] == pytest.approx(found, abs=0.006)


def test_names_and_paths_of_bundled_weights():
    assert "t-x4" in weights.names()
    assert fault_of(lambda: weights.path("t-x9")) == (
        f"no bundled weights are called 't-x9'; there are {', '.join(weights.names())}"
    )
