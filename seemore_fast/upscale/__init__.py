"""Pictures through the network: `Upscaler` for arrays, tiles, folders, many machines."""

from seemore_fast.upscale.size import Size
from seemore_fast.upscale.upscaler import Upscaler

__all__ = ["Size", "Upscaler"]
