"""What the operators share: checks of their arguments and the choice of the backend."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seemore_fast.backends import native
from seemore_fast.errors import BackendError
from seemore_fast.ops import _cuda

Backend = Literal["reference", "cpu", "cuda", "triton"] | None

FIRST_ON_GPU = {"striped_conv2d": "triton", "low_rank_experts": "triton", "mix_experts": "triton"}
"""What None takes on a GPU, of the operators that have both kinds of kernels; the other kind where it cannot.

Unmeasured: Triton until a GPU says otherwise.  ``pytest benchmarks/test_ops.py --benchmark-enable`` compares
them there.
"""


def _modules_of(package: str) -> frozenset[str]:
    """Found without importing any: Triton takes a second."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else []
    return frozenset(module.name for module in pkgutil.iter_modules(folders))


_TRITON = importlib.util.find_spec("triton") is not None
_TRITON_KERNELS = _modules_of("seemore_fast.kernels")
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels run on CPU tensors, for tests
_CUDA_DEVICE = "cuda"  # of tensors that the CUDA kernels take: "cpu" where tests run them in cudasim
_HALF = (torch.float16, torch.bfloat16)


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
    """``value`` must have this shape, and the device and dtype of ``x``; weights may stay in float32.

    Weights are what has a ``shape`` other than that of ``x``.  Under autocast dtypes may differ as with
    PyTorch's own layers, for `cast` makes them agree; but for float64, which autocast leaves alone.
    """
    _check_tensor(name, value)
    is_weight = x.dtype in _HALF and shape != x.shape
    casts = autocast_dtype(x) is not None and value.dtype in (torch.float32, *_HALF)
    if value.dtype != x.dtype and not casts and not (is_weight and value.dtype == torch.float32):
        also = " or float32" if is_weight else ""
        raise TypeError(f"{name} must have the dtype of x ({x.dtype}){also}, got {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of x ({x.device}), got {value.device}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")


def check_all(x: Tensor, weights: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """`check_like` for ``weights``, in the order of ``shapes``."""
    for (name, shape), value in zip(shapes.items(), weights, strict=True):
        check_like(x, name, value, shape)


def choose(backend: Backend, name: str, *tensors: Tensor) -> str:
    """The backend that shall run the operator ``name``; ``tensors`` (x first) have passed the checks above.

    Raises BackendError where one is asked for that cannot be had, ValueError for other names.
    """
    if backend is None:
        on_gpu = sorted(("cuda", "triton"), key=lambda kind: kind != FIRST_ON_GPU.get(name, "triton"))
        kinds = on_gpu if tensors[0].device.type == "cuda" else ["cpu"]
        return next((kind for kind in kinds if obstacle(kind, name, tensors) is None), "reference")
    if backend not in ("reference", "cpu", "cuda", "triton"):
        raise ValueError(f"backend must be None, 'reference', 'cpu', 'cuda' or 'triton', got {backend!r}")
    if why := obstacle(backend, name, tensors):
        raise BackendError(f"backend={backend!r} is not possible here: {why}")
    return backend


def obstacle(backend: str, name: str, tensors: tuple[Tensor, ...]) -> str | None:
    """Why the backend cannot run the operator on these tensors; None if it can."""
    if backend == "reference":
        return None
    x = tensors[0]
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "torch.func and forward-mode differentiation need the formula, backend='reference'"
    if backend == "cpu":
        if x.device.type != "cpu":
            return f"x is on {x.device}"
        if not all(t.dtype == torch.float32 or autocast_dtype(t) is not None for t in tensors):
            return f"the native kernels take float32, x is {x.dtype}"
        return None if native.lib is not None else f"the native library does not load: {native.error}"
    if backend == "cuda":
        if x.device.type != _CUDA_DEVICE:
            return f"x is on {x.device}"
        return _cuda.obstacle(name, tensors)
    if not _TRITON:
        return "triton is not installed"
    if x.device.type != "cuda" and not _INTERPRETED:
        return f"x is on {x.device}; Triton's kernels run on CUDA, or anywhere under TRITON_INTERPRET=1"
    if x.dtype == torch.float64:
        return "the Triton kernels take float32, float16 and bfloat16, x is torch.float64"
    return None if name in _TRITON_KERNELS else f"there is no Triton kernel of {name}"


def cast(backend: str, images: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Both, and under autocast in the dtypes that the backend's kernels take then.

    Those of GPUs compute in autocast's own, and convert weights themselves; the CPU's in float32, where they
    are faster than PyTorch in bfloat16.
    """
    dtype = autocast_dtype(images[0])
    if dtype is None:
        return [*images, *weights]
    if backend == "cpu":
        return [tensor.float() for tensor in (*images, *weights)]
    return [*(image.to(dtype) for image in images), *weights]


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of the autocast that ``x`` is under; None if under none, or if it is float64, which stays."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
