"""What runs: the backends' names, whether and for which tensors each is there, and the choice among them.

A model's or call's own choice comes first, then `set_default`, then the environment variable
SEEMORE_BACKEND, then ``auto``: the fastest that can do it, plain PyTorch if none can.  A backend that was
named, by whatever means, and cannot be had is a BackendError that says why.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Container
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seemore_fast.backends import cuda_programs, native
from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.backends.tracing import constant
from seemore_fast.errors import BackendError

log = logging.getLogger(__name__)

Backend = str | None
"""What a call may ask for: ``auto`` or one of `NAMES`; None is ``auto``."""

NAMES = ("reference", "cpu", "cuda", "triton")
"""Every backend there is: plain PyTorch, native CPU code, CUDA C++, Triton kernels."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's kernels run on CPU tensors, for tests."""

FIRST_ON_GPU = {"striped_conv2d": "triton", "low_rank_experts": "triton", "mix_experts": "triton"}
"""What ``auto`` takes on a GPU for the operators that have both kinds of kernels; the other where it cannot.

Unmeasured: Triton until a GPU says otherwise.  ``pytest benchmarks/test_ops.py --benchmark-enable`` compares
them there.
"""

_HOMES = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": ("cuda", "cpu") if INTERPRETED else ("cuda",)}
"""The devices that a backend computes on.  PyTorch calls AMD's GPUs cuda, too."""

_GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DTYPES = {"cpu": (torch.float32,), "cuda": _GPU_DTYPES, "triton": _GPU_DTYPES}
"""What operators' kernels take; under autocast anything but float64, which is converted first."""

_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None

_default: str | None = None


@constant
def missing(name: str) -> str | None:
    """Why the backend is not available here; None if it is.  Raises BackendError for an unknown name."""
    if name not in NAMES:
        raise BackendError(f"unknown backend {name!r}; there are auto, {', '.join(NAMES)}")
    if name == "reference":
        return None
    if name == "triton":
        return _no_triton()
    if native.lib is None:
        return f"the native library does not load: {native.error}"
    try:
        if name == "cuda":
            return _no_cuda(native.lib)
        native.lib.isa()
    except BackendError as error:
        return str(error)
    return None


def _no_cuda(lib: ModuleType) -> str | None:
    """Raises BackendError where it is the driver that says why."""
    devices = range(lib.cuda_devices())
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU"
    obstacles = [cuda_programs.obstacle(lib.cuda_capability(device)) for device in devices]
    if None in obstacles or not obstacles:
        return None
    _say_once(f"the CUDA engine cannot run on this GPU: {obstacles[0]}")
    return obstacles[0]


@functools.cache
def _say_once(what: str) -> None:
    """Unlike a machine without a GPU, one whose GPU idles surprises, and so does one without the library."""
    log.warning("%s", what)


@constant
def _fastest(device: str) -> str:
    """The engine of such a device, if it is there; else plain PyTorch."""
    if device not in ("cpu", "cuda"):
        return "reference"
    reason = missing(device)
    if reason and native.lib is None:
        _say_once(f"plain PyTorch computes, which is slower: {reason}")
    return "reference" if reason else device


def _no_triton() -> str | None:
    if not _TRITON_INSTALLED:
        return "the package triton is not installed"
    there = INTERPRETED or torch.cuda.is_available()
    return None if there else "PyTorch finds no CUDA or ROCm device"


@constant
def _check_isa() -> None:
    """Raises BackendError where SEEMORE_ISA asks for an instruction set that does not work here."""
    if native.lib is not None and os.environ.get("SEEMORE_ISA"):
        native.lib.isa()


def check(name: str | None) -> str:
    """``name``, ``auto`` for None, if it is that or an available backend; else BackendError says why not."""
    name = name or "auto"
    if name != "auto" and (reason := missing(name)) is not None:
        raise BackendError(f"backend {name!r} is not available: {reason}")
    return name


def set_default(name: str) -> None:
    """The backend of models and calls that have no choice of their own.  Raises BackendError as `check`."""
    global _default
    _default = check(name)


def preferred(requested: str | None) -> str:
    """The backend somebody named: the model or call, else the default, else the environment; or ``auto``.

    Raises BackendError if the environment names one that is not available.
    """
    if requested and requested != "auto":
        return requested
    return _default or check(os.environ.get("SEEMORE_BACKEND"))


def device_of(x: Tensor) -> str:
    """Where ``x`` is, as a torch device type.  Tests put a simulator in its place."""
    return x.device.type


def check_device(name: str, device: str) -> None:
    """Raises BackendError where the backend does not compute on such a device (a torch device type)."""
    if device not in _HOMES.get(name, (device,)):
        raise BackendError(
            f"backend {name!r} computes on {' or '.join(_HOMES[name])}, but the input is on {device}"
        )


def resolve(requested: str | None, device: str) -> str:
    """The backend that serves inference on such a device (a torch device type): one of `NAMES`.

    Raises BackendError if one is asked for that is not available or not for this device.
    """
    name = preferred(requested)
    check_device(name, device)
    if name != "auto":
        return name
    return _fastest(device)


def transformed() -> bool:
    """Whether torch.func's transforms or forward-mode differentiation, which no_grad does not turn off, are
    on: only PyTorch's own operators know what to do."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def obstacle(name: str, *tensors: Tensor) -> str | None:
    """Why the kernels of the backend's operators do not take these tensors; None if they do.

    The backend must be there and compute on their device.
    """
    if name == "reference":
        return None
    if transformed():
        return "torch.func and forward-mode differentiation need plain PyTorch, backend 'reference'"
    for tensor in tensors:
        if tensor.dtype not in _DTYPES[name] and autocast_dtype(tensor) is None:
            takes = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES[name])
            return f"its kernels take {takes}, not {str(tensor.dtype).removeprefix('torch.')}"
    return None


def choose(requested: str | None, op: str, x: Tensor, why_not: Callable[[str], str | None]) -> str:
    """The backend that runs an operator for input ``x``: what is asked for, else the first that can.

    ``why_not``: what hinders a backend that is there.  Raises BackendError where one is asked for that is not
    available, not for this device, or hindered.
    """
    name, device = check(preferred(requested)), device_of(x)
    if name == "auto":
        _check_isa()
        ready = (n for n in _order(op, device) if missing(n) is None and why_not(n) is None)
        return next(ready, "reference")
    check_device(name, device)
    if (reason := why_not(name)) is not None:
        raise BackendError(f"backend {name!r} cannot do this: {reason}")
    return name


def _order(op: str, device: str) -> tuple[str, ...]:
    if device != "cuda":
        return ("cpu",) if device == "cpu" else ()
    return ("cuda", "triton") if FIRST_ON_GPU.get(op) == "cuda" else ("triton", "cuda")


class Way(NamedTuple):
    """How a network runs: by an ``engine``, all in one call; module by module, its blocks as ``operators`` of
    a backend; or ``plain``, PyTorch's modules."""

    kind: Literal["engine", "operators", "plain"]
    backend: str


def choose_way(
    requested: str,
    x: Tensor,
    weight: Tensor,
    needs_grad: Callable[[], bool],
    refused: Container[tuple[str, torch.device]] = (),
) -> Way:
    """The way of a network for input ``x``; ``weight`` is one of its parameters, ``needs_grad`` tells whether
    any gradient is to be recorded.

    Engines serve without gradients; operators with them, and where Triton is named.  What neither takes
    (float64, torch.func's transforms, export) is plain PyTorch's under any name.  ``refused``: engines that
    are not to serve ``auto`` on a device.

    Raises BackendError if a backend is asked for that is not available or not for this device.
    """
    plain = Way("plain", "reference")
    name, device = preferred(requested), device_of(x)
    check_device(name, device)
    if name == "reference" or 0 in x.shape or weight.device != x.device:
        return plain
    if torch.float64 in (x.dtype, weight.dtype) or transformed():
        return plain
    if not _recorded(x) and not needs_grad():
        engine = resolve(name, device)
        if engine in ("cpu", "cuda") and (name != "auto" or (engine, x.device) not in refused):
            return Way("engine", engine)
    if not torch.is_grad_enabled() and name != "triton":
        return plain
    backend = "triton" if device == "cuda" or name == "triton" else "cpu"
    if device in _HOMES[backend] and missing(backend) is None and obstacle(backend, x, weight) is None:
        return Way("operators", backend)
    return plain


def _recorded(x: Tensor) -> bool:
    """Whether export, a tracer or a subclass of tensors watches: they must see PyTorch's operators."""
    if torch.compiler.is_exporting() or type(x) is not Tensor:
        return True
    return torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
