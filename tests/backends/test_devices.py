"""Devices by name, their free memory, and pictures on their way to a GPU."""

from __future__ import annotations

import pytest
import torch

from seemore_fast.backends import devices
from seemore_fast.errors import BackendError
from seemore_fast.system import machine


def test_the_cpu_has_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 5)
    assert devices.free_memory(torch.device("cpu")) == 5


@pytest.mark.parametrize("permuted", [False, True])
def test_pieces_of_a_picture_all_reach_the_gpu(monkeypatch, permuted):
    """With memory that is neither a GPU's nor page-locked, so that it runs anywhere."""
    empty, empty_like, locked = torch.empty, torch.empty_like, []

    def staging(shape, dtype, pin_memory):
        assert pin_memory
        locked.append(empty(shape, dtype=dtype))
        return locked[-1]

    monkeypatch.setattr(torch, "empty", staging)
    monkeypatch.setattr(torch, "empty_like", lambda x, device, memory_format: empty_like(x).contiguous())
    monkeypatch.setattr(devices, "_PIECE", 1000)
    x = torch.arange(37 * 50 * 3, dtype=torch.int32).view(37, 50, 3)
    x = x.permute(2, 1, 0) if permuted else x
    assert torch.equal(devices.to_device(x, torch.device("cuda")), x)
    assert len(locked) > 2
    assert sum(len(piece) for piece in locked) == len(x)


def test_other_kinds_of_devices_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("mps", "xpu", "hpu"):
        with pytest.raises(BackendError, match=f"device {kind}: PyTorch .* finds 0 of that kind"):
            devices.pick_device(kind)
    for name in ("meta", "nonsense"):
        with pytest.raises(BackendError, match=f"must be auto, cpu, cuda, .* got '{name}'"):
            devices.pick_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    assert devices.pick_device("mps") == torch.device("mps")
    assert devices.pick_device("xpu:1") == torch.device("xpu", 1)
    with pytest.raises(BackendError, match=r"device xpu:2: PyTorch .* finds 2"):
        devices.pick_device("xpu:2")
