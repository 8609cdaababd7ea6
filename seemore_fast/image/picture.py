"""A picture in memory: pixels, and what else its file told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seemore_fast.errors import ImageError

PROFILE = "icc-profile-data"


@dataclass(frozen=True)
class Animation:
    """``frames`` pictures of equal size, each shown for its ``delays`` entry in ms; ``loop`` times, 0 for
    ever.

    Without ``delays``: the pages of a TIFF, shown one at a time.
    """

    frames: int
    delays: tuple[int, ...]
    loop: int


@dataclass(frozen=True, eq=False)
class Image:
    """A picture: ``pixels`` is (H, W, C) uint8 or uint16, or float32 for scene-linear light, which is not
    limited to 0..1; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.

    Alpha is straight (not premultiplied).  An animation's frames are stacked from top to bottom.
    ``metadata`` holds the ICC profile, EXIF, XMP and IPTC as libvips names them: field -> (type, value).
    ``texts`` are PNG's texts, JPEG's and GIF's comments.  ``density`` is in pixels per mm, across and down.
    ``notes`` say what reading had to change.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
    metadata: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    density: tuple[float, float] | None = None
    animation: Animation | None = None
    notes: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile, which fits the pixels."""
        return self.metadata[PROFILE][1] if PROFILE in self.metadata else None

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.shape[2] in (2, 4)

    @property
    def transparent(self) -> bool:
        """Whether any pixel is not opaque."""
        return self.has_alpha and bool(self.pixels[..., -1].min() < self._opaque)

    @property
    def linear(self) -> bool:
        """Whether the pixels are scene-linear light in floating point."""
        return self.pixels.dtype == np.float32

    @property
    def _opaque(self) -> int:
        return {1: 255, 2: 65535}.get(self.pixels.itemsize, 1)


def named(path: Any) -> Path:
    """``path`` as one.  Raises ImageError for what is none."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise ImageError(f"a picture's path must be text or a Path, got {path!r:.80}")
    return Path(path)


def profile_fits(icc: bytes, channels: int) -> bool:
    """Whether the profile's colour space (bytes 16-19 of its header) is the one of so many channels."""
    return icc[16:20] == (b"GRAY" if channels < 3 else b"RGB ")


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, C) turned as EXIF's orientation says."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))
