"""Pictures resampled to another size (Lanczos, wider where it shrinks), by libvips."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seemore_fast.image.formats import vips

_KINDS = {
    # dtype -> interpretation without and with colour, and what is opaque
    "uint8": ("b-w", "srgb", 255.0),
    "uint16": ("grey16", "rgb16", 65535.0),
    "float32": ("b-w", "scrgb", 1.0),
}


def resampled(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """(H, W, C) uint8, uint16 or float32, C from 1 to 4 as `Image` has it -> (height, width, C), clipped to
    the range of the input's own values or its dtype."""
    if pixels.shape[:2] == (height, width):
        return pixels
    gray, colour, highest = _KINDS[pixels.dtype.name]
    image = vips().Image.new_from_array(np.ascontiguousarray(pixels))
    image = image.copy(interpretation=gray if pixels.shape[2] < 3 else colour)
    larger = resize(image, height, width, highest).write_to_memory()
    result: NDArray[Any] = np.frombuffer(larger, pixels.dtype).reshape(height, width, pixels.shape[2])
    if pixels.dtype == np.float32:  # the kernel swings over where integers are cut off
        result = result.clip(pixels.min(), pixels.max())
    return result


def resize(image: Any, height: int, width: int, highest: float | None = None) -> Any:
    """The same for libvips's images; where there is alpha (opaque: ``highest``), invisible pixels do not
    colour their surroundings."""
    format_, alpha = image.format, image.hasalpha()
    options = {} if highest is None else {"max_alpha": highest}
    if alpha:
        image = image.premultiply(**options)
    image = image.resize(width / image.width, vscale=height / image.height)
    if not alpha:
        return image
    image = image.unpremultiply(**options)
    return image if format_ == "float" else image.rint().cast(format_)
