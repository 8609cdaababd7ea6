"""Which implementation runs: the backends' names, whether each is available, and the choice among them.

A model's own choice comes first, then `set_default`, then the environment variable SEEMORE_BACKEND, then
``auto``: the fastest that is available for the input's device.
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

from seemore_fast.backends import cuda_programs, native
from seemore_fast.errors import BackendError

NAMES = ("reference", "cpu", "cuda", "triton")
"""Every backend there is: plain PyTorch, the native CPU engine, the CUDA engine, Triton kernels."""

_default: str | None = None


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
    import torch

    devices = range(lib.cuda_devices())
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no GPU"
    obstacles = [cuda_programs.obstacle(lib.cuda_capability(device)) for device in devices]
    return None if None in obstacles else obstacles[0]


def _no_triton() -> str | None:
    """PyTorch calls AMD's GPUs cuda, too."""
    import torch

    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None if torch.cuda.is_available() else "PyTorch finds no CUDA or ROCm device"


def check(name: str) -> str:
    """``name``, if it is ``auto`` or an available backend; raises BackendError that says why not."""
    if name != "auto" and (reason := missing(name)) is not None:
        raise BackendError(f"backend {name!r} is not available: {reason}")
    return name


def set_default(name: str) -> None:
    """The backend of all models that have no choice of their own.  Raises BackendError as `check` does."""
    global _default
    _default = check(name)


def asked_for(requested: str) -> str:
    """The backend somebody named: the model's own, else the default, else the environment's; or ``auto``.

    Raises BackendError if the environment names one that is not available.
    """
    if requested != "auto":
        return requested
    return _default or check(os.environ.get("SEEMORE_BACKEND") or "auto")


def resolve(requested: str, device: str) -> str:
    """The backend for an input on ``device`` (a torch device type): one of `NAMES`.

    Raises BackendError if one is asked for, by whatever means, that is not available or not for this device.
    """
    name = asked_for(requested)
    if name == "auto":
        return device if device in ("cpu", "cuda") and missing(device) is None else "reference"
    home = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}.get(name, device)
    if device != home:
        raise BackendError(f"backend {name!r} computes on {home}, but the input is on {device}")
    return name
