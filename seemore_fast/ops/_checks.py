"""Checks of operators' arguments: shapes ValueError, dtypes TypeError, each naming the argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.network.parameters import Leaf
from seemore_fast.ops._operator import Operator

_HALF = (torch.float16, torch.bfloat16)


def check_arguments(op: Operator, tensors: Sequence[Tensor], options: Mapping[str, Any]) -> None:
    """All of an operator's inputs."""
    check_image(op.images[0], x := tensors[0])
    for name, image in zip(op.images[1:], tensors[1:], strict=False):
        check_like(x, name, image, tuple(x.shape))
    sizes = {"C": x.shape[1]}
    if "ranks" in options:
        check_routing(options["ranks"], options["topk"])
        sizes |= {"R": sum(options["ranks"]), "E": len(options["ranks"])}
    weights = tensors[len(op.images) :]
    for symbol, (i, dim) in op.found.items():
        if symbol not in sizes:
            _check_tensor(op.leaves[i].name, weights[i])
            sizes[symbol] = _free_size(op.leaves[i], symbol, weights[i], dim)
    for leaf, value in zip(op.leaves, weights, strict=True):
        check_like(x, leaf.name, value, leaf.shape(sizes))
    if "recursive" in options:
        check_recursive(x, options["recursive"])
    if options.get("shuffle") and x.shape[1] % 2:
        raise ValueError(f"shuffle needs an even number of channels, got {x.shape[1]}")
    if "eps" in options and not options["eps"] >= 0:
        raise ValueError(f"eps must be at least 0, got {options['eps']!r}")


def _free_size(leaf: Leaf, symbol: str, value: Tensor, dim: int) -> int:
    """What the first weight that has it says: stripes are odd, ranks at least 1."""
    size = value.shape[dim] if value.dim() == len(leaf.dims) else 0
    if (size % 2 == 0) if symbol == "k" else size < 1:
        shape = ", ".join(letter or str(factor) for factor, letter in leaf.dims)
        limit = "k odd" if symbol == "k" else f"{symbol} >= 1"
        raise ValueError(f"{leaf.name} must have shape ({shape}) with {limit}, got {tuple(value.shape)}")
    return size


def _check_tensor(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def check_image(name: str, value: Tensor) -> None:
    """``value`` must be a floating tensor (N, C, H, W) with at least one channel and pixel."""
    _check_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {value.dtype}")
    if value.dim() != 4 or 0 in value.shape[1:]:
        raise ValueError(f"{name} must be (N, C, H, W) with C, H, W >= 1, got {tuple(value.shape)}")


def check_like(x: Tensor, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """``value`` must have this shape, and the device and dtype of ``x``; weights may stay in float32.

    Weights are what has a ``shape`` other than that of ``x``.  Under autocast dtypes may differ as with
    PyTorch's own layers, for kernels are given what they take; but for float64, which autocast leaves alone.
    """
    _check_tensor(name, value)
    if value.dtype != x.dtype:
        is_weight = x.dtype in _HALF and shape != x.shape
        casts = autocast_dtype(x) is not None and value.dtype in (torch.float32, *_HALF)
        if not casts and not (is_weight and value.dtype == torch.float32):
            also = " or float32" if is_weight else ""
            raise TypeError(f"{name} must have the dtype of x ({x.dtype}){also}, got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of x ({x.device}), got {value.device}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")


def check_routing(ranks: Sequence[int], topk: int) -> None:
    """Raises ValueError for ranks that are no ranks and for a ``topk`` outside 1..E."""
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks must be integers of at least 1, one per expert, got {list(ranks)}")
    if not 1 <= topk <= len(ranks):
        raise ValueError(f"topk must lie in 1..{len(ranks)}, the number of experts, got {topk!r}")


def check_recursive(x: Tensor, recursive: int) -> None:
    """Raises ValueError for a negative ``recursive``, or sides that it leaves nothing of."""
    if recursive < 0:
        raise ValueError(f"recursive must be at least 0, got {recursive!r}")
    if min(x.shape[2:]) < 4**recursive:
        raise ValueError(f"x must have sides of at least 4^{recursive}, got {tuple(x.shape)}")
