"""Other people's networks through the Upscaler and the commands: by spandrel, in local tiles, and told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.errors import CheckpointError
from seemore_fast.image import Image, read, write
from seemore_fast.model import SeemoRe, load
from seemore_fast.upscale import Size, Upscaler, foreign
from tests.plugins.test_comfyui import load_package
from tests.upscale.test_upscale import noise

pytestmark = [
    pytest.mark.usefixtures("torchvision_or_stand_in"),
    pytest.mark.skipif(
        importlib.util.find_spec("spandrel") is None,
        reason="spandrel is not installed ([test] leaves it out)",
    ),
]


@pytest.fixture(params=["SAFMN", "Compact"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """Another network's file, and the network."""
    if request.param == "SAFMN":
        from spandrel.architectures.SAFMN import SAFMN

        network = SAFMN(dim=12, n_blocks=1, upscaling_factor=2)
    else:
        from spandrel.architectures.Compact import Compact

        network = Compact(num_feat=8, num_conv=2, upscale=2)
    torch.save({"params": network.state_dict()}, tmp_path / "other.pth")
    return tmp_path / "other.pth", network.eval()


def test_it_upscales_pictures_of_every_kind(other: tuple[Path, torch.nn.Module]) -> None:
    path, network = other
    upscaler = Upscaler(path)
    assert upscaler.scale == 2
    assert "not SeemoRe: by spandrel, on PyTorch, in local tiles" in upscaler.foreign
    image = noise(40, 48, 3)
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        expected = (network(x)[0].permute(1, 2, 0) * 255).round().clamp(0, 255).numpy()
    assert np.abs(upscaler.up(image) - expected).max() <= 1
    for shape in [(1, 1, 3), (5, 70, 4), (33, 33, 1), (17, 40, 2)]:
        out = upscaler.up(noise(*shape, seed=2))
        assert out.shape == (2 * shape[0], 2 * shape[1], shape[2])
    assert upscaler.up(noise(20, 20, 3).astype(np.uint16) * 257).dtype == np.uint16
    tiled = Upscaler(path, tile=64, ensemble=True).up(noise(150, 90, 3))
    assert tiled.shape == (300, 180, 3)
    assert upscaler.identity() == Upscaler(path).identity()


def test_the_commands_say_that_it_is_not_ours(other: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    path, _ = other
    write(tmp_path / "in.png", Image(noise(20, 30, 3)))
    command = ["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--model", str(path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith(f"seemore-fast: {path}: a ")
    np.testing.assert_array_equal(read(tmp_path / "out.png").pixels, Upscaler(path).up(noise(20, 30, 3)))


def test_service_page_and_node_say_it_too(
    other: tuple[Path, torch.nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, _ = other
    said = "network, not SeemoRe: by spandrel, on PyTorch"
    write(tmp_path / "in.png", Image(noise(20, 30, 3)))
    page = pytest.importorskip("seemore_fast.demo.page")
    made = page.enlarge(tmp_path / "in.png", tmp_path, Upscaler(path), Size(scale=2), page.Limits())
    assert said in made.report
    package = load_package(monkeypatch)
    package.folder_paths = SimpleNamespace(get_full_path_or_raise=lambda kind, name: str(path))
    package.SeemoreFastUpscale().upscale(torch.rand(1, 8, 8, 3), "other.pth", "fp32")
    assert f"other.pth: {Upscaler(path).foreign}" in caplog.text
    app = pytest.importorskip("seemore_fast.serve.app", exc_type=ImportError)
    from fastapi.testclient import TestClient

    web = TestClient(app.service({"other": Upscaler(path)}), base_url="http://127.0.0.1")
    answer = web.post("/upscale", content=(tmp_path / "in.png").read_bytes())
    assert answer.status_code == 200
    assert said in answer.headers["seemore-notes"]
    assert str(tmp_path) not in answer.headers["seemore-notes"]


def test_seemore_files_stay_ours(tmp_path: Path) -> None:
    state = load("t-x4").state_dict()
    torch.save({"params_ema": state}, tmp_path / "ours.pth")
    network = foreign.load_any(tmp_path / "ours.pth")
    assert isinstance(network, SeemoRe)
    assert Upscaler(tmp_path / "ours.pth").foreign == ""
    del state["body.0.local_block.norm_1.weight"]
    torch.save({"params_ema": state}, tmp_path / "ours.pth")
    with pytest.raises(CheckpointError, match=r"ours\.pth: .*norm_1") as refused:
        foreign.load_any(tmp_path / "ours.pth")
    assert "spandrel" not in str(refused.value)
    torch.save({"code": print}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        foreign.load_any(tmp_path / "evil.pth")
