"""Other people's networks: whatever spandrel recognises, on plain PyTorch.  SeemoRe files stay ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seemore_fast.errors import CheckpointError
from seemore_fast.model import SeemoRe, extend, load
from seemore_fast.network import checkpoint, wrapped
from seemore_fast.system.optional import need

TILE = 256
"""Side of automatic tiles, in input pixels: what such a network takes for more is not known."""

_LEAST = 32  # pixels a side: networks of windows pad by mirroring, which needs as many


class Foreign(nn.Module):
    """A network of spandrel's with the interface that `Upscaler` asks for: ``scale`` and ``config``.

    ``architecture`` is its name in spandrel.  Takes [N, 3, H, W] floating point in [0, 1], of any size.
    """

    def __init__(self, descriptor: Any):
        super().__init__()
        self.network = descriptor.model
        self.architecture: str = descriptor.architecture.name
        self.scale: int = descriptor.scale
        self.config = {"in_chans": 3, "architecture": self.architecture}
        self._descriptor = descriptor  # pads to the sizes that the network takes; for single pictures

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        if min(h, w) < _LEAST:
            x = extend(x, max(h, _LEAST), max(w, _LEAST))
        with torch.no_grad():
            large = torch.cat([self._descriptor(picture.clone()) for picture in x.split(1)])
        return large[..., : h * self.scale, : w * self.scale]


def load_any(
    name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu", backend: str = "auto"
) -> SeemoRe | Foreign:
    """A network in evaluation mode: ours for SeemoRe weights, else whatever spandrel recognises.

    Raises CheckpointError for what neither knows, PackageError where spandrel is missing, BackendError for
    ``backend``.
    """
    try:
        return load(name_or_path, device=device, backend=backend)
    except CheckpointError as error:
        if not Path(name_or_path).is_file():
            raise
        ours = error
    data = checkpoint.tensors_of(name_or_path)  # refuses what is damaged or could run code
    if not isinstance(data, Mapping) or set(wrapped.MARKS) <= wrapped.find(data).keys():
        raise ours
    with need(f"{ours}; any other network", "spandrel"):
        import spandrel
    try:
        found = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(dict(data)))
    except Exception as error:  # its own classes, and whatever strange tensors make of its detection
        raise CheckpointError(f"{name_or_path}: spandrel does not load it either ({error})") from None
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.input_channels != 3:
        raise CheckpointError(f"{name_or_path}: not a network from RGB pictures to RGB pictures")
    return Foreign(found).to(device).eval()
