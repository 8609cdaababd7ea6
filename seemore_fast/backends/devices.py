"""Which device computes, how much memory it has free, and the way there and back."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from seemore_fast.errors import BackendError
from seemore_fast.system import machine

log = logging.getLogger(__name__)

_PIECE = 1 << 23  # bytes


def pick_device(choice: str | torch.device) -> torch.device:
    """``auto`` (cuda if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:N``, or another kind that this
    PyTorch computes on (``mps``, ``xpu``), checked; of those the log says that plain PyTorch computes there.

    Raises BackendError for another name, and for a device that is not there.
    """
    if str(choice) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(choice)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type == "meta":
        raise BackendError(f"device must be auto, cpu, cuda, cuda:N, mps, xpu ..., got {choice!r}")
    if device.type not in ("cpu", "cuda") and (device.index or 0) >= (count := _count(device.type)):
        raise BackendError(
            f"device {device}: PyTorch {torch.__version__} finds {count} of that kind; use cpu or auto"
        )
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise BackendError(f"device {device}: PyTorch {torch.__version__} finds no GPU; use cpu or auto")
        if (device.index or 0) >= torch.cuda.device_count():
            raise BackendError(f"device {device}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    if device.type not in ("cpu", "cuda"):
        log.warning("device %s: plain PyTorch computes there, for this package has no kernels for it", device)
    return device


def _count(kind: str) -> int:
    """How many devices of a kind other than the CPU's and CUDA's there are."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    try:
        module = torch.get_device_module(kind)
        return int(module.device_count()) if module.is_available() else 0
    except (RuntimeError, AttributeError):  # this PyTorch does not know how to compute there
        return 0


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """``x`` (in the CPU's memory) on ``device``; to a GPU by way of page-locked memory, in pieces.

    Pieces bound the memory that PyTorch locks and keeps, and one is filled while the last one is on its way.
    Returns before the last has arrived; the current stream knows when.
    """
    if device.type != "cuda":
        return x.to(device)
    there = torch.empty_like(x, device=device, memory_format=torch.contiguous_format)
    rows = max(_PIECE * len(x) // max(x.nbytes, 1), 1)
    for source, target in zip(x.split(rows), there.split(rows), strict=True):
        staged = torch.empty(source.shape, dtype=x.dtype, pin_memory=True)
        target.copy_(staged.copy_(source), non_blocking=True)
    return there


def to_host(x: Tensor) -> Tensor:
    """``x`` in the CPU's memory; from a GPU, in page-locked memory, which PyTorch keeps for the next one."""
    if x.device.type != "cuda":
        return x.cpu()
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return host


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on ``device``; the CPU's as `machine.free_memory` finds them.

    A device that does not tell, such as Apple's, whose memory is the machine's, counts as the CPU.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return max(min(left, machine.free_memory()), 0)
    return machine.free_memory()
