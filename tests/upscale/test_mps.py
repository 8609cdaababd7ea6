"""Apple's GPUs, by a stand-in: tensors of the CPU that say they are on mps, and figures of its memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import seemore_fast
from seemore_fast import Upscaler
from seemore_fast.backends import choice, devices
from seemore_fast.errors import BackendError
from seemore_fast.system import machine
from tests.support.small import SMALL

MPS = torch.device("mps")
GIB = 2**30


class Apple(TorchFunctionMode):
    """What is asked for on mps is made on the CPU; where a tensor is, is mps."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return MPS
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        there = [self.on_cpu(value) for value in args]
        return func(*there, **{key: self.on_cpu(value) for key, value in (kwargs or {}).items()})

    @staticmethod
    def on_cpu(value: Any) -> Any:
        return "cpu" if isinstance(value, (str, torch.device)) and str(value) == "mps" else value


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(machine, "free_memory", lambda: 32 * GIB)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 8 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 0)
    with Apple():
        yield


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (90, 70, 3), np.uint8)


def small() -> seemore_fast.SeemoRe:
    torch.manual_seed(0)
    return seemore_fast.SeemoRe(**SMALL).eval()


def test_plain_pytorch_computes_and_the_log_says_so(
    apple: None, picture: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "seemore_fast"):
        upscaler = Upscaler(small(), device="mps")
    assert upscaler.device == MPS
    assert "device mps: plain PyTorch computes there" in caplog.text
    assert choice.resolve(None, "mps") == "reference"
    with pytest.raises(BackendError, match="'cpu' computes on cpu, but the input is on mps"):
        choice.resolve("cpu", "mps")
    got = upscaler.up(picture)
    assert caplog.text.count("device mps") == 1
    expected = Upscaler(small().cpu(), backend="reference").up(picture)
    np.testing.assert_array_equal(got, expected)


def test_tiles_by_its_free_memory(apple: None, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = Upscaler(small(), device="mps")
    x = torch.zeros(1, 3, 4000, 6000)
    tiles = []
    for taken in (0, 6 * GIB, 7 * GIB):
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda taken=taken: taken)
        assert devices.free_memory(MPS) == 8 * GIB - taken
        tiles.append(upscaler._choose(x, devices.free_memory(MPS)))
    assert 6000 > tiles[0] > tiles[1] > tiles[2] > 0


def test_fp16_keeps_what_layernorm_would_lose(apple: None) -> None:
    """Its sums of squares pass 65504 where |x - mean| >= 300."""
    model = small()
    norm = model.body[0].local_block.norm_1
    with torch.no_grad():
        x = torch.randn(1, 8, 9, 9).half() * 400
        got = norm.half()(x)
        expected = torch.nn.functional.layer_norm(x.double().permute(0, 2, 3, 1), (8,), eps=1e-6)
    assert got.isfinite().all()
    assert (got.double() - expected.permute(0, 3, 1, 2)).abs().max() < 5e-3
