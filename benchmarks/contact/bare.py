"""The CUDA engine with nothing around it: no self-check, no graphs, and no kernel of PyTorch's on the GPU.

So a fault is the engine's own, and compute-sanitizer sees its kernels alone.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from seemore_fast.engines import cuda_engine
from seemore_fast.network import reference, variants
from tests.support import golden

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Of pixels and activations; float32 in the other precisions."""


def network(layers: int) -> reference.SeemoRe:
    """SeemoRe-T x2, its first layers; weights that are the same everywhere."""
    model = reference.SeemoRe(**{**variants.config("t-x2"), "num_layers": layers})
    golden.fill(model, seed=11)
    return model.eval()


def picture(height: int, width: int) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1]: soft shapes and grain, the same everywhere."""
    y, x = np.mgrid[:height, :width]
    soft = [0.5 + 0.3 * np.sin(x / 5 + c) * np.cos(y / (3 + c)) for c in range(3)]
    grain = np.random.Generator(np.random.PCG64(7)).uniform(-0.1, 0.1, (3, height, width))
    return torch.from_numpy(np.clip(soft + grain, 0, 1).astype(np.float32))[None]


class Bare:
    """A network in one precision on a device; ``lib``: the native library, or the simulator."""

    def __init__(self, lib: ModuleType, model: reference.SeemoRe, precision: str, device: str):
        self.device, self.scale = torch.device(device), model.scale
        self.dtype = DTYPES.get(precision, torch.float32)
        self.native, self._weights = cuda_engine.pack(lib, model, precision, self.device)

    def run(self, x: Tensor, launches: int = 0, poison: bool = False) -> tuple[Tensor, Tensor]:
        """Output and workspace, on the CPU, after the first ``launches`` (0: all).

        ``poison``: both hold NaN before, so that what was not written shows.
        """
        n, channels, h, w = x.shape
        host = torch.full((n, channels, h * self.scale, w * self.scale), torch.nan, dtype=self.dtype)
        out = host.to(self.device) if poison else torch.empty_like(host, device=self.device)
        workspace = cuda_engine.aligned(self.native.workspace(n, h, w), self.device)
        if poison:
            workspace.copy_(torch.full((workspace.numel(),), 255, dtype=torch.uint8))
        there = x.to(self.dtype).to(self.device)
        stream = torch.cuda.current_stream().cuda_stream if self.device.type == "cuda" else 0
        cuda_engine.launch(self.native, there, out, workspace, stream, launches)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return out.cpu(), workspace.cpu()
