"""Which device computes, how much memory it has free, and the way there and back."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from seemore_fast.errors import BackendError

_PIECE = 1 << 23  # bytes


def pick_device(choice: str | torch.device) -> torch.device:
    """``auto`` (the GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``, checked.

    Raises BackendError for another name, and for a GPU that is not there.
    """
    if str(choice) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(choice)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise BackendError(f"device must be auto, cpu, cuda or cuda:N, got {choice!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise BackendError(f"device {device}: PyTorch {torch.__version__} finds no GPU; use cpu or auto")
        if (device.index or 0) >= torch.cuda.device_count():
            raise BackendError(f"device {device}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return device


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


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that this process may still take on ``device``.

    On the CPU the least of what the machine has available, what the control groups (containers) around the
    process have left, and what its own limits (``ulimit -v``, ``-d``) leave.  ``root`` is where /proc and
    /sys are.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return max(min([_available(root), *_left_in_groups(root), *_left_by_limits(root)]), 0)


def _available(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return 1 << 62


def _left_in_groups(root: Path) -> Iterator[int]:
    """For the process's control group and each one around it, of version 1 or 2: limit minus use."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        limit, use = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        # Inside a container the path may be that of the host: the group's files are then at the base.
        inner = base / path.lstrip("/")
        for folder in {inner, *inner.parents, base}:
            if not folder.is_relative_to(base):
                continue
            try:
                left = int((folder / f"memory.{limit}").read_text()) - int(
                    (folder / f"memory.{use}").read_text()
                )
                yield left + _droppable(folder)
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue


def _droppable(folder: Path) -> int:
    """File pages that the kernel drops when memory gets short, though they count as used."""
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _left_by_limits(root: Path) -> Iterator[int]:
    sizes = {}
    for line in (root / "proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmSize", "VmData"):
            sizes[name] = 1024 * int(value.split()[0])
    for name, limit in [("VmSize", resource.RLIMIT_AS), ("VmData", resource.RLIMIT_DATA)]:
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and name in sizes:
            yield soft - sizes[name]
