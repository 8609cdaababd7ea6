"""LPIPS and DISTS by torchmetrics: how different two pictures look to networks that recognise things.

Both are 0 for equal pictures.  Their backbones (AlexNet, VGG-16) are torchvision's, which fetches the weights
at first use.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seemore_fast.data.metrics import inner
from seemore_fast.errors import PackageError, SeemoreError
from seemore_fast.system.optional import need

LEAST = 32  # pixels a side, of which the backbones leave one


def lpips(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], crop_border: int = 0, test_y_channel: bool = False
) -> float:
    """LPIPS with AlexNet of (H, W, 3) uint8 RGB pictures; lower is better.

    Raises as `prepare` does, and ImageError unless both have one size with 32x32 pixels inside the border.
    """
    return _measured("calculate_lpips", image, truth, crop_border)


def dists(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], crop_border: int = 0, test_y_channel: bool = False
) -> float:
    """DISTS of (H, W, 3) uint8 RGB pictures; lower is better.  Raises as `lpips`."""
    return _measured("calculate_dists", image, truth, crop_border)


def prepare(kind: str) -> None:
    """Loads what ``calculate_lpips`` or ``calculate_dists`` needs, so that it is missed at the start.

    Raises PackageError without torchmetrics or torchvision, SeemoreError where the backbone's weights are not
    there and cannot be fetched.
    """
    _network(kind)


@functools.lru_cache(maxsize=2)
def _network(kind: str) -> Any:
    with need(f"val:metrics: {kind}", "perceptual"), _fitting(kind):
        import torchvision
        from torchmetrics.functional.image.dists import DISTSNetwork
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    models = torchvision.models
    backbone = models.AlexNet_Weights if kind == "calculate_lpips" else models.VGG16_Weights
    url = backbone.DEFAULT.url
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own
            if kind == "calculate_lpips":
                return LearnedPerceptualImagePatchSimilarity("alex", normalize=True).eval()
            return DISTSNetwork().eval()  # its metric would load the backbone for each picture
    except (OSError, RuntimeError) as error:  # no network, or a file that is damaged
        folder = Path(torch.hub.get_dir(), "checkpoints")
        why = str(getattr(error, "reason", None) or error).strip().split("\n")[0]
        raise SeemoreError(
            f"val:metrics: {kind} needs the backbone's weights ({why}); put {url} into {folder}"
        ) from None


@contextlib.contextmanager
def _fitting(kind: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what it registers for operators that are not there
        raise PackageError(
            f"val:metrics: {kind}: this torchvision does not fit this PyTorch ({error}); "
            "install both from the same place"
        ) from None


def _measured(kind: str, image: NDArray[np.uint8], truth: NDArray[np.uint8], crop: int) -> float:
    planes = [
        torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))[None].float() / 255
        for part in inner(image, truth, crop, LEAST)
    ]
    network = _network(kind)
    with torch.inference_mode():
        value = float(network(*planes))
    if kind == "calculate_lpips":
        network.reset()  # it would add pictures up
    return value
