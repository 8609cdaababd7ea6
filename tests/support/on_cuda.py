"""Small networks on the CUDA engine, on a GPU where there is one, else with the simulator in its place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seemore_fast import SeemoRe
from seemore_fast.backends import choice
from seemore_fast.engines import cuda_engine
from tests.support import golden

GPU = choice.missing("cuda") is None

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 12, "lr_space": "exp", "topk": 1}


def small(device: str, backend: str = "cuda", **config) -> SeemoRe:
    return golden.fill(SeemoRe(**{**SMALL, **config}, backend=backend), seed=11).to(device).eval()


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def network_of(model: SeemoRe, x: Tensor) -> cuda_engine.Network:
    with torch.no_grad():
        engine, network = model.packed_for(x)
    assert engine is model.cuda_engine
    return network


def watch_launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A list that gets the shape of the input of each forward that is launched or captured, in turn."""
    shapes: list[tuple[int, ...]] = []
    launch = cuda_engine.launch

    def spy(native, x: Tensor, *rest) -> None:
        shapes.append(tuple(x.shape))
        launch(native, x, *rest)

    monkeypatch.setattr(cuda_engine, "launch", spy)
    return shapes
