"""Which device computes."""

from __future__ import annotations

import torch

from .errors import BackendError


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
