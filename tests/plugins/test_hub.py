"""The Hugging Face mixin against a local folder, without a network connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from seemore_fast.model import SeemoRe, load
from tests.support import golden

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


def test_the_script(run_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = run_script("HubSeemoRe")["model"]
    assert not model.training
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(model(x), load("t-x4")(x))
    folder = tmp_path / "my-seemore"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert json.loads((folder / "config.json").read_text())["embedding_dim"] == 36
    assert "library_name: seemore-fast" in (folder / "README.md").read_text()


def test_every_argument_comes_back(tmp_path: Path) -> None:
    from seemore_fast.plugins.hub import HubSeemoRe

    config = {"scale": 3, "in_chans": 1, "num_experts": 2, "num_layers": 1, "embedding_dim": 8, "topk": 2}
    network = golden.fill(SeemoRe(**config, mean=(0.25,), img_range=2.0, recursive=1, use_shuffle=True), 1)
    HubSeemoRe.of(network).save_pretrained(tmp_path)
    back = HubSeemoRe.from_pretrained(tmp_path)
    assert back.config == network.config
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), network.parameters(), strict=True))
    assert isinstance(back, SeemoRe)
