"""ComfyUI nodes: a folder for ``custom_nodes``.  One node upscales; the standard upscale nodes speed up too.

Where ComfyUI's own "Load Upscale Model" finds a SeemoRe file, it gets our network, through spandrel.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch

import seemore_fast
from seemore_fast.errors import BackendError
from seemore_fast.network import weights

with contextlib.suppress(BackendError):  # a ComfyUI without spandrel has only our node
    import seemore_fast.plugins.spandrel

try:
    import comfy.utils
    import folder_paths
except ImportError:  # outside ComfyUI, as in tests: bundled weights, no progress bar
    comfy = folder_paths = None


@functools.lru_cache(maxsize=2)
def _upscaler(model: str, dtype: str) -> seemore_fast.Upscaler:
    path = model
    if folder_paths is not None and model not in weights.names():
        path = folder_paths.get_full_path_or_raise("upscale_models", model)
    return seemore_fast.Upscaler(path, dtype=dtype)


class SeemoreFastUpscale:
    """IMAGE (B, H, W, 3) float32 in [0, 1] -> IMAGE (B, H * scale, W * scale, 3), tiled if need be."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The node's inputs in ComfyUI's terms."""
        files = folder_paths.get_filename_list("upscale_models") if folder_paths is not None else []
        return {
            "required": {
                "image": ("IMAGE",),
                "model": ([*weights.names(), *files],),
                "dtype": (["fp32", "bf16", "fp16"],),
            }
        }

    def upscale(self, image: torch.Tensor, model: str, dtype: str) -> tuple[torch.Tensor]:
        """Raises SeemoreError, which ComfyUI shows at the node."""
        upscaler = _upscaler(model, dtype)
        bar = comfy.utils.ProgressBar(len(image)) if comfy is not None else None
        results = []
        for picture in image.cpu().numpy():  # [H, W, C]
            results.append(torch.from_numpy(upscaler.up(picture)))
            if bar is not None:
                bar.update(1)
        return (torch.stack(results),)


NODE_CLASS_MAPPINGS = {"SeemoreFastUpscale": SeemoreFastUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"SeemoreFastUpscale": "Upscale Image (seemore-fast)"}
