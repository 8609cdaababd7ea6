"""The CUDA engine's device, and what it launches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seemore_fast.engines import cuda_engine
from tests.support import cudasim
from tests.support.on_cuda import GPU


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the CUDA engine's tensors are."""
    # PyTorch's convolutions, to compare with, are else in TF32.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if not GPU:
        cudasim.stand_in_for_a_gpu(monkeypatch)
    return "cuda" if GPU else "cpu"


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, device: str) -> list[tuple[int, ...]]:
    """Shapes of the input of each forward that was launched or captured, in turn."""
    shapes: list[tuple[int, ...]] = []
    launch = cuda_engine.launch

    def spy(native, x: Tensor, *rest) -> None:
        shapes.append(tuple(x.shape))
        launch(native, x, *rest)

    monkeypatch.setattr(cuda_engine, "launch", spy)
    return shapes
