"""ComfyUI nodes: a folder for ``custom_nodes``.  One node upscales; the standard upscale nodes speed up too.

Where ComfyUI's own "Load Upscale Model" finds a SeemoRe file, it gets our network, through spandrel.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import Any

import torch

import seemore_fast
from seemore_fast.errors import PackageError, SeemoreError
from seemore_fast.network import weights
from seemore_fast.upscale.size import CHOICES, Size, chosen

with contextlib.suppress(PackageError):  # a ComfyUI without spandrel has only our node
    import seemore_fast.plugins.spandrel

try:
    import comfy.utils
    import folder_paths
except ImportError:  # outside ComfyUI, as in tests: bundled weights, no progress bar
    comfy = folder_paths = None
try:
    from comfy import model_management
except ImportError:
    model_management = None
try:
    import comfy_api.latest as comfy_api
except ImportError:  # an older ComfyUI
    comfy_api = None

_TITLE = "Upscale Image (seemore-fast)"
_OWN = "the model's"


@functools.lru_cache(maxsize=2)
def _upscaler(model: str, dtype: str, border: str, ensemble: bool) -> seemore_fast.Upscaler:
    path = model
    if folder_paths is not None and model not in weights.names():
        path = folder_paths.get_full_path_or_raise("upscale_models", model)
    upscaler = seemore_fast.Upscaler(path, dtype=dtype, border=border, ensemble=ensemble)
    if upscaler.foreign:
        logging.warning("%s: %s: %s", _TITLE, model, upscaler.foreign)
    return upscaler


def _enlarged(
    image: torch.Tensor, model: str, dtype: str, border: str, size: str, pixels: str, ensemble: bool
) -> torch.Tensor:
    """IMAGE (B, H, W, C) -> (B, H', W', C) float32, with ComfyUI's progress bar and its Cancel.

    ``size`` and ``pixels``: see `_more`.  Values are clamped to [0, 1]: ComfyUI's own resizing leaves it a
    little.  Raises SeemoreError, which ComfyUI shows at the node.
    """
    if image.ndim != 4:
        raise SeemoreError(f"image must be a batch (B, H, W, C), got {tuple(image.shape)}")
    upscaler = _upscaler(model, dtype, border, ensemble)
    count, height, width, channels = image.shape
    wish: Size | None = None if size == _OWN else chosen(size, pixels)
    h, w = wish.of(height, width) if wish else (height * upscaler.scale, width * upscaler.scale)
    large = torch.empty(count, h, w, channels)
    bar = comfy.utils.ProgressBar(1000 * count) if comfy is not None else None
    for i in range(count):

        def progress(done: int, total: int, i: int = i) -> None:
            if model_management is not None:
                model_management.throw_exception_if_processing_interrupted()
            if bar is not None:
                bar.update_absolute(1000 * i + 1000 * done // total)

        picture = image[i].detach().float().clamp(0, 1).cpu().numpy()
        large[i] = torch.from_numpy(upscaler.up(picture, progress, size=wish))
    return large


def _more() -> dict[str, tuple[Any, dict[str, Any]]]:
    return {
        "size": ([_OWN, *CHOICES], {"default": _OWN, "tooltip": "the size to reach"}),
        "pixels": ("STRING", {"default": "", "tooltip": "of that size: 1920, or 1920x1080; of a scale: 2.5"}),
        "ensemble": ("BOOLEAN", {"default": False, "tooltip": "a little better, 8 times the time"}),
    }


def _choices() -> dict[str, list[str]]:
    files = folder_paths.get_filename_list("upscale_models") if folder_paths is not None else []
    return {
        "model": [*weights.names(), *files],
        "dtype": ["fp32", "bf16", "fp16"],
        "border": ["zero", "reflect", "wrap"],
    }


class SeemoreFastUpscale:
    """IMAGE (B, H, W, C) in [0, 1] -> IMAGE (B, H', W', C) float32, larger, tiled if need be."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The node's inputs in ComfyUI's terms."""
        choices = _choices()
        required = {"image": ("IMAGE",), "model": (choices["model"],), "dtype": (choices["dtype"],)}
        return {"required": required, "optional": {"border": (choices["border"],), **_more()}}

    def upscale(
        self,
        image: torch.Tensor,
        model: str,
        dtype: str,
        border: str = "zero",
        size: str = _OWN,
        pixels: str = "",
        ensemble: bool = False,
    ) -> tuple[torch.Tensor]:
        """Raises SeemoreError, which ComfyUI shows at the node."""
        return (_enlarged(image, model, dtype, border, size, pixels, ensemble),)


NODE_CLASS_MAPPINGS = {"SeemoreFastUpscale": SeemoreFastUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"SeemoreFastUpscale": _TITLE}

if comfy_api is not None:  # the same node in today's schema

    class SeemoreFastUpscaleNode(comfy_api.io.ComfyNode):  # type: ignore[misc,name-defined]
        """As `SeemoreFastUpscale`."""

        @classmethod
        def define_schema(cls) -> Any:
            """Inputs and outputs in ComfyUI's terms."""
            io, choices = comfy_api.io, _choices()
            return io.Schema(
                node_id="SeemoreFastUpscale",
                display_name=_TITLE,
                category=SeemoreFastUpscale.CATEGORY,
                inputs=[
                    io.Image.Input("image"),
                    *(io.Combo.Input(name, options=options) for name, options in choices.items()),
                    io.Combo.Input("size", options=_more()["size"][0], **_more()["size"][1]),
                    io.String.Input("pixels", **_more()["pixels"][1]),
                    io.Boolean.Input("ensemble", **_more()["ensemble"][1]),
                ],
                outputs=[io.Image.Output()],
            )

        @classmethod
        def execute(
            cls,
            image: torch.Tensor,
            model: str,
            dtype: str,
            border: str = "zero",
            size: str = _OWN,
            pixels: str = "",
            ensemble: bool = False,
        ) -> Any:
            """Raises SeemoreError, which ComfyUI shows at the node."""
            large = _enlarged(image, model, dtype, border, size, pixels, ensemble)
            return comfy_api.io.NodeOutput(large)

    class _Extension(comfy_api.ComfyExtension):  # type: ignore[misc,name-defined]
        async def get_node_list(self) -> list[Any]:
            return [SeemoreFastUpscaleNode]

    async def comfy_entrypoint() -> Any:
        """What ComfyUI asks for nodes of today's schema."""
        return _Extension()
