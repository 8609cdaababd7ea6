"""What happens to pictures before people send them: blur, noise, JPEG; made anew for each LR patch."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from seemore_fast.options.datasets import Degradations


def degraded(patch: NDArray[np.uint8], wish: Degradations, random: np.random.Generator) -> NDArray[np.uint8]:
    """``patch`` (H, W, 3) blurred, made noisy and compressed, each with its probability and strength drawn.

    The draws are the same in number whatever happens, so that one setting does not change another's.
    """
    chances, strengths = random.random(3), random.random(3)
    if chances[0] < wish.blur_prob:
        blur = ImageFilter.GaussianBlur(_between(wish.blur_sigma, strengths[0]))
        patch = np.asarray(Image.fromarray(np.ascontiguousarray(patch)).filter(blur))
    if chances[1] < wish.noise_prob:
        noise = random.normal(0, _between(wish.noise_range, strengths[1]), patch.shape)
        patch = (patch + noise).round().clip(0, 255).astype(np.uint8)
    if chances[2] < wish.jpeg_prob:
        file = io.BytesIO()
        quality = round(_between(wish.jpeg_range, strengths[2]))
        Image.fromarray(np.ascontiguousarray(patch)).save(file, "JPEG", quality=quality)
        patch = np.asarray(Image.open(file))
    return patch


def _between(bounds: Any, share: float) -> float:
    low, high = bounds
    return float(low + share * (high - low))
