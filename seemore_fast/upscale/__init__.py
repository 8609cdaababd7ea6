"""Pictures through the network: `Upscaler` for arrays, tiles, folders, many machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seemore_fast.upscale.size import Size

if TYPE_CHECKING:
    from seemore_fast.upscale.upscaler import Upscaler

__all__ = ["Size", "Upscaler"]


def __getattr__(name: str) -> Any:
    # The command line describes sizes without PyTorch, which takes a second.
    if name == "Upscaler":
        from seemore_fast.upscale.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
