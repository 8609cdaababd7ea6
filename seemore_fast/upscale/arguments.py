"""What callers of the Upscaler give it: arguments of the right kinds, pictures, functions of their own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import nn

from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.upscale.exact import MIN_TILE
from seemore_fast.upscale.planes import HIGHEST


class FromCallback(BaseException):
    """Carries what a caller's own function raised past our handlers: it is none of our errors."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def theirs(function: Any) -> Any:
    """A caller's function whose errors travel as `FromCallback`; None stays None."""
    if function is None:
        return None

    def guarded(*values: Any) -> Any:
        try:
            return function(*values)
        except Exception as error:
            raise FromCallback(error) from None

    return guarded


def check_kinds(model: Any, device: Any, dtype: Any, overlap: Any, backend: Any, memory_share: Any) -> None:
    """Raises SeemoreError for an argument of a wrong kind, which would fail far from here."""
    number = (int, float, np.integer, np.floating)
    kinds: list[tuple[str, Any, tuple[type, ...], str]] = [
        ("model", model, (str, os.PathLike, nn.Module), "a name, a file or a network"),
        ("device", device, (str, torch.device), "auto, cpu, cuda or cuda:N"),
        ("dtype", dtype, (str,), "fp32, bf16 or fp16"),
        ("overlap", overlap, (int, type(None)), "a whole number or None"),
        ("backend", backend, (str,), "the name of one"),
        ("memory_share", memory_share, number, "a number"),
    ]
    for name, value, allowed, wanted in kinds:
        if not isinstance(value, allowed) or (isinstance(value, bool) and str not in allowed):
            raise SeemoreError(f"{name} must be {wanted}, got {value!r:.80}")


def check_callable(**functions: Any) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise SeemoreError(f"{name} must be callable or None, got {type(function).__name__}")


def check_plain(image: NDArray[Any]) -> None:
    """Refuses arrays that mean more than their numbers: what is masked would come back as if it were not."""
    if type(image) not in (np.ndarray, np.memmap):
        kind = type(image).__name__
        raise ImageError(f"image is a {kind}; give a plain array (np.asarray, or filled() of a masked one)")


def pixel_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        known: np.dtype[Any] = np.dtype(dtype)
        if known in HIGHEST:
            return known
    except TypeError:
        pass
    raise SeemoreError(f"dtype must be uint8, uint16 or float32, got {dtype!r:.80}")


def check_tile(tile: int | str) -> int | str:
    if isinstance(tile, str) and tile == "auto":
        return tile
    if isinstance(tile, int) and not isinstance(tile, bool) and (tile == 0 or tile >= MIN_TILE):
        return tile
    raise SeemoreError(
        f"tile must be auto, 0 (the whole picture) or at least {MIN_TILE} pixels, got {tile!r:.80}"
    )


def from_pil(image: Any) -> NDArray[Any]:
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode not in ("L", "LA", "RGB", "RGBA") or "transparency" in image.info:
        if image.mode in ("I", "F"):
            raise ImageError(f"PIL mode {image.mode} has no fixed range; give a float32 array in [0, 1]")
        gray = image.mode in ("1", "L", "LA", "La")
        image = image.convert(("L" if gray else "RGB") + ("A" if image.has_transparency_data else ""))
    return np.asarray(image)
