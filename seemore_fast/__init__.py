"""seemore-fast: SeemoRe image super-resolution at hardware speed.

model = seemore_fast.load("t-x4")           # or SeemoRe(scale=4, ...), or accelerate(your_model)
large = model(small)                        # (N, 3, H, W) in [0, 1] -> (N, 3, 4 H, 4 W)
picture = seemore_fast.Upscaler("t-x4").up(array_or_pil_image)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seemore_fast import ops as ops
    from seemore_fast.model import SeemoRe as SeemoRe
    from seemore_fast.model import accelerate as accelerate
    from seemore_fast.model import load as load
    from seemore_fast.upscale.upscaler import Upscaler as Upscaler

__version__ = "0.1.0"
__all__ = ["SeemoRe", "Upscaler", "accelerate", "load", "ops"]

_HOMES = {"SeemoRe": "model", "Upscaler": "upscale", "accelerate": "model", "load": "model"}


def __getattr__(name: str) -> Any:
    # Importing torch takes a second: the command line's help does without.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name == "ops":
        return import_module(".ops", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
