"""``seemore-fast compare``: the figure's parts are in their places, its figures are the metrics' own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from seemore_fast import compare
from seemore_fast.cli import app
from seemore_fast.data.metrics import psnr, ssim
from seemore_fast.data.resize import enlarge, imresize
from seemore_fast.errors import CheckpointError, PackageError, SeemoreError
from seemore_fast.measure.peers import memory
from seemore_fast.model import load
from seemore_fast.network.reference import SeemoRe
from tests.support.repository import ROOT
from tests.support.small import SMALL

CAT = ROOT / "examples/cat.png"


@pytest.fixture
def truth() -> np.ndarray:
    with Image.open(CAT) as file:
        return np.asarray(file.convert("RGB"))[:66, :90].copy()


def test_results_are_the_metrics_own(truth: np.ndarray) -> None:
    network = load("t-x4")
    hr, bicubic, ours = compare.run(truth, {"ours": (network, 4)}, runs=1)
    cropped = truth[:64, :88]
    small = imresize(cropped, 0.25)
    assert np.array_equal(hr.pixels, cropped)
    assert np.array_equal(bicubic.pixels, enlarge(small, 4))
    with torch.inference_mode():
        large = network(torch.from_numpy(small).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(ours.pixels.astype(int) - large).max() <= 1
    assert (ours.psnr, ours.ssim) == (psnr(ours.pixels, cropped, 4), ssim(ours.pixels, cropped, 4))
    assert ours.seconds > 0
    assert ours.peak_bytes >= 0
    assert compare.labels(hr) == ["HR"]


def test_the_busiest_part_is_found() -> None:
    flat = np.full((200, 300, 3), 90, np.uint8)
    flat[128:160, 192:224] = np.random.default_rng(0).integers(0, 255, (32, 32, 3))
    box = compare.busiest_box(flat, 32)
    assert box == (192, 128, 32, 32)


def test_crops_and_boxes_are_drawn() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    results = [compare.Result(str(c), np.full((60, 80, 3), c, np.uint8)) for c in colours]
    boxes = [compare.Box(0, 0, 20, 20), compare.Box(40, 20, 40, 20)]
    drawn = np.asarray(compare.figure(results, boxes))
    found = [np.argwhere((drawn == colour).all(2)) for colour in colours]
    assert all(len(places) > 220 * 300 for places in found)  # a crop of each box at least
    lefts = [places[:, 1].min() for places in found]
    assert lefts == sorted(lefts)
    assert (drawn == (230, 25, 75)).all(2).any(), "the first box's colour"


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (60, 0, 30, 5), (0, 50, 5, 20)])
def test_boxes_outside_are_refused(box: tuple[int, ...]) -> None:
    result = compare.Result("HR", np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(SeemoreError, match="is not inside the picture, 80x60"):
        compare.figure([result], [compare.Box(*box)])


def test_scales_must_agree(truth: np.ndarray) -> None:
    with pytest.raises(SeemoreError, match="must have one scale, got a x2, b x4"):
        compare.run(truth, {"a": (torch.nn.Identity(), 2), "b": (torch.nn.Identity(), 4)})


def test_what_cannot_be_compared_costs_no_computation(truth: np.ndarray) -> None:
    """The network here would fail if it were asked."""
    networks = {"none": (torch.nn.Identity(), 4)}
    with pytest.raises(SeemoreError, match=r"is 16x12 pixels, .* must have 19 a side"):
        compare.run(truth[:12, :16], networks)
    with pytest.raises(SeemoreError, match="box 80,60,10,6 is not inside the picture, 88x64"):
        compare.run(truth, networks, [compare.Box(80, 60, 10, 6)])
    with pytest.raises(SeemoreError, match="box 0,0,1,60 is more than 8 times as tall as wide"):
        compare.run(truth, networks, [compare.Box(0, 0, 1, 60)])


def test_networks_for_gray_are_refused(tmp_path: Path) -> None:
    torch.save(SeemoRe(**{**SMALL, "in_chans": 1}).state_dict(), tmp_path / "gray.pth")
    with pytest.raises(SeemoreError, match=r"gray\.pth: takes 1 channels; networks for RGB"):
        compare.load_any(str(tmp_path / "gray.pth"))


def test_a_system_that_does_not_tell_the_memory(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: object) -> object:
        raise TypeError("no C library can be opened so, on Windows")

    monkeypatch.setattr(memory.ctypes, "CDLL", missing)
    *_, ours = compare.run(truth, {"ours": (load("t-x4"), 4)}, runs=1)
    assert ours.peak_bytes is None
    assert "MB" not in compare.labels(ours)[-1]


def test_the_command(tmp_path: Path, truth: np.ndarray) -> None:
    Image.fromarray(truth).save(tmp_path / "hr.png")
    arguments = [
        "compare",
        str(tmp_path / "hr.png"),
        "--model",
        "ours=t-x4",
        "-o",
        str(tmp_path / "figure.png"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--box", "0,0,40,32"])
    assert done.exit_code == 0, done.output
    assert "bicubic" in done.output
    assert "ours" in done.output
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > 3 * 220
    done = CliRunner().invoke(app, [*arguments, "--box", "0,0,40"])
    assert done.exit_code == 2
    assert "--box must be X,Y,WIDTH,HEIGHT in pixels, got '0,0,40'" in done.output
    done = CliRunner().invoke(app, [*arguments, "--model", "b/net.pth", "--model", "a/net.pth"])
    assert done.exit_code == 2
    assert "two networks are called net: name one, as --model NAME=a/net.pth" in done.output
    for name, said in [
        ("x=", "NAME=WEIGHTS"),
        ("=t-x4", "NAME=WEIGHTS"),
        ("HR=t-x4", "HR is a column already"),
    ]:
        done = CliRunner().invoke(app, [*arguments, "--model", name])
        assert done.exit_code == 2
        assert said in done.output


def test_what_nobody_knows(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    # PackageError where spandrel is missing.
    with pytest.raises((CheckpointError, PackageError), match=r"other\.pth: .*spandrel"):
        compare.load_any(str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match="neither a file nor bundled weights"):
        compare.load_any("t-x9")


@pytest.mark.usefixtures("torchvision_or_stand_in")
def test_another_network_through_spandrel(tmp_path: Path, truth: np.ndarray) -> None:
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed ([test] leaves it out)")
    from spandrel.architectures.SAFMN import SAFMN

    torch.save(SAFMN(dim=12, n_blocks=1, upscaling_factor=4).state_dict(), tmp_path / "safmn.pth")
    network, scale = compare.load_any(str(tmp_path / "safmn.pth"))
    assert scale == 4
    result = compare.run(truth, {"SAFMN": (network, scale)}, runs=1)[-1]
    assert result.pixels.shape == (64, 88, 3)
