"""LPIPS and DISTS: through torchmetrics on backbones that are there; one line where something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from seemore_fast.data import perceptual
from seemore_fast.errors import ImageError, PackageError, SeemoreError
from tests.upscale.test_upscale import noise

KINDS = {"calculate_lpips": perceptual.lpips, "calculate_dists": perceptual.dists}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision keeps its weights: empty, and nothing can be fetched."""
    pytest.importorskip("torchmetrics", reason="needs pip install 'seemore-fast[perceptual]'")
    pytest.importorskip("torchvision", reason="needs pip install 'seemore-fast[perceptual]'")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):  # nobody listens there
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    perceptual._network.cache_clear()
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


ALL = [
    "calculate_lpips",
    pytest.param("calculate_dists", marks=pytest.mark.full),
]  # VGG has 138 million weights


@pytest.mark.parametrize("kind", ALL)
def test_pictures_differ_by_how_much_they_were_spoilt(hub: Path, kind: str) -> None:
    """The backbone's weights are drawn: the package's own parts, and ours, are what is looked at."""
    import torchvision

    torch.manual_seed(0)
    if kind == "calculate_lpips":
        name = torchvision.models.AlexNet_Weights.DEFAULT.url.rpartition("/")[2]
        torch.save(torchvision.models.alexnet().state_dict(), hub / name)
    else:  # of the whole network only the features count
        name = torchvision.models.VGG16_Weights.DEFAULT.url.rpartition("/")[2]
        with torch.device("meta"):
            shapes = torchvision.models.vgg16().state_dict()
        made = {key: torch.randn(x.shape) * 0.05 for key, x in shapes.items() if key.startswith("features")}
        made |= {k: torch.zeros(1).expand(x.shape) for k, x in shapes.items() if k not in made}
        torch.save(made, hub / name)
    truth = noise(48, 64, 3)
    soft = (truth * 0.9 + 12).astype(np.uint8)
    hard = noise(48, 64, 3, seed=5)
    values = [KINDS[kind](picture, truth) for picture in (truth, soft, hard)]
    assert abs(values[0]) < 1e-4
    assert values[0] < values[1] < values[2]
    again = KINDS[kind](soft, truth)
    assert again == pytest.approx(values[1], rel=1e-5)  # no picture remembers the one before
    assert KINDS[kind](soft, truth, crop_border=8) == pytest.approx(
        KINDS[kind](soft[8:-8, 8:-8], truth[8:-8, 8:-8])
    )
    with pytest.raises(ImageError, match="leave at least 32x32 pixels of 64x48"):
        KINDS[kind](soft, truth, crop_border=9)


@pytest.mark.parametrize("kind", ALL)
def test_without_a_network_one_line_says_what_goes_where(hub: Path, kind: str) -> None:
    with pytest.raises(SeemoreError) as caught:
        perceptual.prepare(kind)
    message = str(caught.value)
    assert message.startswith(f"val:metrics: {kind} needs the backbone's weights (")
    assert message.endswith(f".pth into {hub}")
    assert "\n" not in message


@pytest.mark.parametrize("kind", KINDS)
def test_missing_packages_are_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    perceptual._network.cache_clear()
    with pytest.raises(PackageError, match=rf"{kind} needs pip install 'seemore-fast\[perceptual\]'"):
        perceptual.prepare(kind)
