"""What the ops share: checks of their arguments, choice of the backend, registration with torch.library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from seemore_fast import _native
from seemore_fast.errors import BackendError

Backend = Literal["reference", "cpu"] | None

library = torch.library.Library("seemore_fast", "DEF")


def register(schema: str, cpu: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Defines the torch op ``seemore_fast::<schema>`` with its CPU kernel; returns the op itself.

    The op has no backward yet: asking for one raises NotImplementedError.  (Without any autograd kernel the
    result would silently be cut off from the graph.)
    """
    name = schema.split("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, cpu, "CPU")
    torch.library.register_fake(f"seemore_fast::{name}", fake, lib=library)

    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise NotImplementedError(
            f"torch.ops.seemore_fast.{name} has no backward: call seemore_fast.ops.{name}, which has"
        )

    torch.library.register_autograd(f"seemore_fast::{name}", backward, lib=library)
    return getattr(torch.ops.seemore_fast, name).default


def _check_tensor(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def size(name: str, value: Tensor, dim: int) -> int:
    """``value.shape[dim]`` of a tensor whose shape is still to be checked; 0 where it has no dimensions."""
    _check_tensor(name, value)
    return value.shape[dim] if value.dim() else 0


def check_image(name: str, value: Tensor) -> None:
    """``value`` must be a floating tensor (N, C, H, W) with at least one channel and pixel."""
    _check_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {value.dtype}")
    if value.dim() != 4 or 0 in value.shape[1:]:
        raise ValueError(f"{name} must be (N, C, H, W) with C, H, W >= 1, got {tuple(value.shape)}")


def check_like(x: Tensor, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """``value`` must have this shape, and the dtype and device of ``x``."""
    _check_tensor(name, value)
    if value.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of x ({x.dtype}), got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of x ({x.device}), got {value.device}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")


def use_native(backend: Backend, *tensors: Tensor) -> bool:
    """Whether the native kernel shall run; ``tensors`` (x first) have passed the checks above.

    Raises BackendError where ``backend="cpu"`` is asked for and cannot be had, ValueError for other names.
    """
    if backend == "reference":
        return False
    if backend not in (None, "cpu"):
        raise ValueError(f"backend must be None, 'reference' or 'cpu', got {backend!r}")
    obstacle = _obstacle(tensors)
    if backend == "cpu" and obstacle:
        raise BackendError(f"backend='cpu' is not possible here: {obstacle}")
    return obstacle is None


def _obstacle(tensors: tuple[Tensor, ...]) -> str | None:
    x = tensors[0]
    if x.device.type != "cpu":
        return f"x is on {x.device}"
    if x.dtype != torch.float32:
        return f"the native kernels take float32, x is {x.dtype}"
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "the native kernels have no gradients; use backend=None, or torch.no_grad()"
    if _native.lib is None:
        return f"the native library does not load: {_native.error}"
    return None
