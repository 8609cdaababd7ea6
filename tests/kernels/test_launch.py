"""Launches that are kept: a stub of CUDA's driver gets from them what it gets from Triton."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from benchmarks import launch_cost
from tests.support.building import tool
from tests.support.repository import ROOT

pytest.importorskip("triton", reason="the package triton is not installed")

LAUNCHES = """
import sys
import torch
from benchmarks import launch_cost

launch_cost.take_the_stub(prepared=False)
from seemore_fast.kernels import _configs, layer_norm2d

memory = torch.empty(1 << 16)
out = memory[1 << 15 :]
cases = [
    *((start, 8, 16) for start in (0, 0, 64)),  # elements before x; its height and width
    *((0, 16, 16), (0, 8, 17)),
    *((start, 8, 16) for start in (1, 3, 64)),  # not at multiples of 16 bytes, but the last
]
torch.Tensor.new_empty = lambda x, *args, **options: out[: x.numel()].view(x.shape)

for prepared in (False, True, True):
    _configs._prepares = lambda x: prepared
    for start, height, width in cases:
        x = memory[start : start + 8 * height * width].view(1, 8, height, width)
        layer_norm2d.normalise(x, memory[20000:20008], memory[21008:21016], 1e-6)
print(len(_configs._prepared))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stub is a library for Linux")
def test_the_driver_gets_what_triton_would_give(tmp_path):
    """Grid, block, shared memory and parameters, by address, shape and alignment; a third time from what is
    kept."""
    tool("gcc")
    environment = {**os.environ, **launch_cost.environment(tmp_path), "FAKE_PARAMS": "7"}
    log = tmp_path / "log"
    log.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHES, log],
        env=environment,
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    calls = [line for line in log.read_text().splitlines() if line.startswith("cuLaunchKernelEx ")]
    assert len(calls) == 3 * 8
    by_triton, first, kept = (calls[8 * i : 8 * i + 8] for i in range(3))
    assert first == kept == by_triton
    assert len(set(by_triton)) == 6, "places and shapes that differ reach the driver"
    assert int(done.stdout) == 3, "shapes; none for what is not aligned"


def test_hooks_of_a_profiler_take_tritons_way(monkeypatch):
    """Who listens to Triton's launches hears of all."""
    from seemore_fast.kernels import _configs

    class OnGpu:
        is_cuda = True

    assert _configs._prepares(OnGpu()) == _configs._KNOWN_LAUNCHER
    monkeypatch.setattr("triton.knobs.runtime.launch_enter_hook.calls", [print])
    assert not _configs._prepares(OnGpu())
    assert not _configs._prepares(torch.empty(1))
