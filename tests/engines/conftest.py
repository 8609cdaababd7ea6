"""The CUDA engine's device, and what it launches."""

from __future__ import annotations

import pytest
import torch

from tests.support import cudasim
from tests.support.on_cuda import GPU, watch_launches


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
    return watch_launches(monkeypatch)
