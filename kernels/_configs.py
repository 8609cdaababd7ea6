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
from functools import partial, reduce
from operator import or_
from typing import Any, NamedTuple

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

_KNOWN_LAUNCHER = triton.__version__.startswith("3.7.") and torch.version.hip is None
"""Whether Triton's launcher takes what `launch` hands it: that is Triton's own affair, and changes."""

_MOST_PREPARED = 4096

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
    return lambda config: -(-pixels // config.tile)


def planes_grid(n: int, c: int, pixels: int) -> Callable[[Config], tuple[int, int, int]]:
    """Tiles of every channel of every image; CUDA takes 2^31 along the first axis, 65535 along the others."""
    return lambda config: (-(-pixels // config.tile), c, n)


def sharing(pixels: int, least: int, others: int) -> int:
    """Programs that share the sums over ``pixels``, if ``others`` such images or planes run beside."""
    return max(1, min(-(-pixels // least), PROGRAMS // max(others, 1)))


class _Prepared(NamedTuple):
    """What stays as it is from launch to launch of one place with one shape."""

    config: Config
    launch: Callable[..., None]  # Triton's, in C
    before: tuple[Any, ...]  # its arguments between the stream and the kernel's own
    constants: tuple[None, ...]  # they have places among the kernel's, but no values any more


_prepared: dict[Any, _Prepared] = {}
_pointers: dict[int, int] = {}


def launch(
    kernel: Any, kind: str, grid: Callable[[Config], tuple[int, ...]], *args: Any, **constants: Any
) -> None:
    """Runs ``kernel`` on the device of its first tensor, in the configuration chosen for this kind.

    Tensors, or None, come first in ``args``, then numbers.  What Triton would find out at each launch is kept
    for the next one with the same dtypes, numbers and constants, as long as every tensor lies at a multiple
    of 16 bytes.
    """
    if not _prepares(args[0]):
        run(kernel, grid, _choice(kernel, kind, grid, args, constants), args, constants)
        return
    name = id(kernel)
    count = _pointers.get(name) or _count_pointers(kernel, args)
    tensors, numbers = args[:count], args[count:]
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    dtypes = [None if t is None else t.dtype for t in tensors]
    driver = triton.runtime.driver.active
    device = driver.get_current_device()
    key = (name, kind, _forced, device, *dtypes, *numbers, *constants.values())
    keeps = device == args[0].get_device() and not reduce(or_, addresses) & 15
    found = _prepared.get(key) if keeps else None
    if found is None:
        config = _choice(kernel, kind, grid, args, constants)
        compiled = run(kernel, grid, config, args, constants)
        if compiled is not None and keeps:
            _keep(key, config, compiled, len(constants) + 1)
        return
    x, y, z = (*grid(found.config), 1, 1)[:3]
    if x and y and z:
        values = (*addresses, *numbers, *found.constants)
        found.launch(x, y, z, driver.get_current_stream(device), *found.before, values)


def _keep(key: Any, config: Config, compiled: Any, constants: int) -> None:
    """``constants``: how many the kernel has."""
    launcher = compiled.run
    if launcher.global_scratch_size or launcher.profile_scratch_size:
        return  # memory that Triton allocates at each launch
    if len(_prepared) >= _MOST_PREPARED:
        _prepared.clear()
    before = (
        compiled.function,
        launcher.launch_cooperative_grid,
        launcher.launch_pdl,
        compiled.packed_metadata,
        *(None,) * 5,  # hooks and what they are told, memory
        launcher.arg_annotations,
        launcher.kernel_signature,
    )
    _prepared[key] = _Prepared(config, launcher.launch, before, (None,) * constants)


def _prepares(x: Tensor) -> bool:
    """Whether launches on x's device are kept: no profiler of Triton's listens, and its launcher is known."""
    hooks = triton.knobs.runtime
    return (
        x.is_cuda and _KNOWN_LAUNCHER and not (hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls)
    )


def _count_pointers(kernel: Any, args: tuple[Any, ...]) -> int:
    """How many arguments of a kernel are tensors, or None in their place."""
    count = sum(arg is None or isinstance(arg, Tensor) for arg in args)
    _pointers[id(kernel)] = count
    return count


def run(
    kernel: Any,
    grid: Callable[[Config], tuple[int, ...]],
    config: Config,
    args: tuple[Any, ...],
    constants: dict[str, Any],
) -> Any:
    """One launch with this configuration, by Triton; what it has compiled, None where there is no grid."""
    size, device = grid(config), args[0].device
    if 0 in size:
        return None
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return kernel[size](
            *args, **constants, TILE=config.tile, num_warps=config.warps, num_stages=config.stages
        )


def _choice(
    kernel: Any,
    kind: str,
    grid: Callable[[Config], tuple[int, ...]],
    args: tuple[Any, ...],
    constants: dict[str, Any],
) -> Config:
    x = args[0]
    choice = CONFIGS[kind, x.element_size()]
    named = {config.name: config for config in choice}
    if _forced in named:
        return named[_forced]
    if os.environ.get("SEEMORE_TRITON_AUTOTUNE", "0") not in ("", "0") and x.device.type == "cuda":
        key = (kernel, x.dtype, *constants.items())
        if key not in _tuned:
            attempt = partial(run, kernel, grid, args=args, constants=constants)
            times = {c.name: triton.testing.do_bench(partial(attempt, config=c)) for c in choice}
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
