"""How kernels are launched: named configurations, the choice among them, grids, dtypes, partial sums.

The choice is fixed (by the size of the dtype), so results are bitwise the same in every process.
SEEMORE_TRITON_AUTOTUNE=1 times the named configurations at a kernel's first call instead and keeps the
fastest: faster perhaps, but the order of sums, hence the last bits, may then differ from process to process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Config:
    """Pixels of a tile, warps of a program, stages of its software pipeline."""

    name: str
    tile: int
    warps: int
    stages: int = 2


_LONG, _SHORT = Config("long", 512, 4), Config("short", 256, 2)
_EXACT = Config("exact", 32, 4, 1)

CONFIGS = {
    # All channels of some pixels, in matrix products.
    ("matrix", 2): (Config("wide", 64, 4), Config("narrow", 32, 4), Config("broad", 128, 8)),
    ("matrix", 4): (_EXACT,),
    ("matrix_gradient", 2): (Config("wide", 64, 4), Config("narrow", 32, 4)),
    ("matrix_gradient", 4): (_EXACT,),
    # Many pixels of one channel: depthwise stencils.
    ("plane", 2): (_LONG, _SHORT),
    ("plane", 4): (_LONG, _SHORT),
    # One coarse row of one channel, one image: the gradient of resizing, the router.
    ("row", 2): (Config("one", 64, 2),),
    ("row", 4): (Config("one", 64, 2),),
    ("image", 4): (Config("one", 1, 4),),
}
"""By kind of kernel and bytes of an element; the first is the default."""

_DOT = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}

PROGRAMS = 264
"""Programs that share a sum: two for each of an H100's 132 multiprocessors.  Never the card's own number, on
which
the order of a sum would then depend."""

_forced: str | None = None
_tuned: dict[Any, Config] = {}


@contextmanager
def using(name: str) -> Iterator[None]:
    """Takes the configuration of this name wherever a kernel has one: for tests and for tuning."""
    global _forced
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def dot(x: Tensor) -> dict[str, Any]:
    """Products have operands of x's dtype; float32 is exact unless PyTorch is told that TF32 will do."""
    # Not torch.get_float32_matmul_precision(), which raises where the newer switches have been used.
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return {"DOT": _DOT[x.dtype], "PRECISION": "tf32" if tf32 else "ieee"}


def planes(x: Tensor) -> Tensor:
    """x (N, C, H, W) itself if its images lie planar and dense, at any distance; else a contiguous copy."""
    return x if x.is_contiguous() or (x.shape[0] and x[0].is_contiguous()) else x.contiguous()


def tiles(pixels: int) -> Callable[[Config], int]:
    return lambda config: triton.cdiv(pixels, config.tile)


def planes_grid(n: int, c: int, pixels: int) -> Callable[[Config], tuple[int, int, int]]:
    """Tiles of every channel of every image; CUDA takes 2^31 along the first axis, 65535 along the others."""
    return lambda config: (triton.cdiv(pixels, config.tile), c, n)


def sharing(pixels: int, least: int, others: int) -> int:
    """Programs that share the sums over ``pixels``, if ``others`` such images or planes run beside."""
    return max(1, min(triton.cdiv(pixels, least), PROGRAMS // max(others, 1)))


def launch(
    kernel: Any, kind: str, grid: Callable[[Config], tuple[int, ...]], *args: Any, **constants: Any
) -> None:
    """Runs ``kernel`` on the device of its first tensor, in the configuration chosen for this kind."""
    first = args[0]
    key = (kernel, first.dtype, *constants.items())
    config = _choice(kind, first, key, lambda config: run(kernel, grid, config, args, constants))
    run(kernel, grid, config, args, constants)


def run(
    kernel: Any,
    grid: Callable[[Config], tuple[int, ...]],
    config: Config,
    args: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    """One launch with this configuration."""
    size, device = grid(config), args[0].device
    if 0 in size:
        return
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[size](*args, **constants, TILE=config.tile, num_warps=config.warps, num_stages=config.stages)


def _choice(kind: str, x: Tensor, key: Any, attempt: Callable[[Config], None]) -> Config:
    choice = CONFIGS[kind, x.element_size()]
    named = {config.name: config for config in choice}
    if _forced in named:
        return named[_forced]
    if os.environ.get("SEEMORE_TRITON_AUTOTUNE", "0") not in ("", "0") and x.device.type == "cuda":
        if key not in _tuned:
            times = {c.name: triton.testing.do_bench(lambda c=c: attempt(c)) for c in choice}
            _tuned[key] = named[min(times, key=times.__getitem__)]
        return _tuned[key]
    return choice[0]


def split(sums: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Copies of consecutive parts of the vector ``sums``, in these shapes."""
    parts = torch.split_with_sizes_copy(sums, [torch.Size(shape).numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def needed(gradients: Sequence[Tensor], inputs: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor]:
    """The gradients that are needed, in the dtypes of their inputs."""
    every = zip(gradients, inputs, needs, strict=True)
    return [gradient.to(value.dtype) for gradient, value, need in every if need]
