"""seemore-fast: SeemoRe image super-resolution at hardware speed.

model = seemore_fast.load("t-x4")           # or SeemoRe(scale=4, ...), or accelerate(your_model)
large = model(small)                        # (N, 3, H, W) in [0, 1] -> (N, 3, 4 H, 4 W)
picture = seemore_fast.Upscaler("t-x4").up(array_or_pil_image)
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import ops as ops
    from .model import SeemoRe as SeemoRe
    from .model import accelerate as accelerate
    from .model import load as load
    from .upscale import Upscaler as Upscaler

if not (_beside := Path(__file__).with_name("kernels")).is_dir():
    # In a source tree the Triton kernels lie beside the package; an installed one has them inside.
    __path__.append(str(_beside.parents[1]))

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
