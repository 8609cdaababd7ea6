"""The golden vectors: computed in float64 by an independent implementation, stored in tests/data.

Every path of the network is held to them.  Weights are not stored but made by :func:`recipe`.
Test modules use this as ``from tests.support import golden``.
"""

from __future__ import annotations

import copy
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seemore_fast.network.accuracy import relative_l2 as relative_l2

DATA = Path(__file__).parents[1] / "data"

EVALUATION = ("t_x4", "t_x2_odd", "b_x3", "l_x2")
TRAINING = "train_t_x2"


@dataclass(frozen=True)
class Golden:
    """One golden file; ``expected`` holds its arrays by name.

    Evaluation: ``output`` (N, 3, H * scale, W * scale), ``experts`` (layers, topk), ``router_logits``
    (layers, E), ``rme0`` and ``sme0`` (N, C, H, W), the outputs of the first group's blocks.
    Training: ``cotangent`` and ``output``, ``grad_input``, and ``grad:<parameter>``, whole up to 2000
    entries, else [norm, sum, first 64 entries]; the loss is sum(output * cotangent).
    """

    name: str
    config: dict[str, Any]  # constructor arguments
    seed: int  # of the weights
    x: Tensor  # [N, 3, H, W] float64 in [0, 1]
    expected: dict[str, Tensor]

    def fill(self, network: nn.Module) -> nn.Module:
        """The network with this file's weights, in evaluation mode."""
        return fill(network, self.seed).eval()


def load(name: str) -> Golden:
    with np.load(DATA / f"{name}.npz") as file:
        arrays = dict(file)
    config = json.loads(str(arrays.pop("config")))
    seed = int(arrays.pop("seed"))
    x = torch.from_numpy(arrays.pop("input").astype(np.float64) / 255)
    return Golden(name, config, seed, x, {key: torch.from_numpy(value) for key, value in arrays.items()})


def recipe(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The weights stored under one state-dict key, float32."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{key}".encode())))
    normal = generator.standard_normal(shape).astype(np.float32)
    if "norm" in key:
        return 1 + 0.1 * normal if key.endswith("weight") else 0.1 * normal
    if key.endswith("bias"):
        return 0.05 * normal
    gain = 8.0 if ".gate.body." in key else 1.0
    return (gain * normal / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def fill(network: nn.Module, seed: int) -> nn.Module:
    """Loads the recipe's weights for ``seed`` into a network of any configuration; returns it."""
    state = network.state_dict()
    made = {key: torch.from_numpy(recipe(key, tuple(value.shape), seed)) for key, value in state.items()}
    network.load_state_dict(made)
    return network


def crop(x: Tensor, height: int = 21, width: int = 19) -> Tensor:
    """A few tiles' worth of a golden file's pictures: [N, 3, height, width] float32."""
    return x[..., :height, :width].float().contiguous()


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def twice_half(network: nn.Module, x: Tensor, want: Tensor, dtype: torch.dtype = torch.float16) -> float:
    """Twice the error of PyTorch itself in float16, or ``dtype``: what ours may have there."""
    narrow = copy.deepcopy(network).to(dtype)
    return 2 * relative_l2(run(narrow, x.to(narrow.mean.dtype)), want)
