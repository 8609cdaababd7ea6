"""Each operator, forward, backward and both: PyTorch's composition, torch.compile of it, and ours (on a GPU
in Triton and, where there are such kernels, in CUDA C++).

pytest benchmarks/test_ops.py --benchmark-enable --benchmark-group-by=param:case,param:part

On the CPU, and on a GPU where there is one; float32, SeemoRe-T's width, 8 patches of 32x32.  Before each call
a buffer larger than any cache is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seemore_fast.backends import choice
from seemore_fast.backends.choice import FIRST_ON_GPU

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.operators import CASES, Case, normal

SHAPE = (8, 36, 32, 32)
GATE = 1e-3
"""Of each gradient's relative L2 error against the composition's: faster and wrong is no result."""

_DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def operator(case: Case, path: str, device: str) -> Callable[..., Tensor]:
    formula = import_module(f"seemore_fast.ops.{case.name}").reference
    if path == "PyTorch":
        return lambda *inputs: formula(*inputs)[0]
    if path == "torch.compile":
        return torch.compile(lambda *inputs: formula(*inputs)[0], dynamic=False)
    backend = "cuda" if path == "CUDA C++" else "cpu" if device == "cpu" else "triton"
    if backend == "cuda" and (device == "cpu" or case.name not in FIRST_ON_GPU):
        pytest.skip(f"CUDA C++ has no kernels of {case.name} on {device}")
    if (why := choice.missing(backend)) is not None:
        pytest.skip(f"{backend}: {why}")
    packet = getattr(torch.ops.seemore_fast, case.name)

    def ours(*inputs: Any) -> Tensor:
        out = packet(*inputs, backend)
        return out if isinstance(out, Tensor) else out[0]  # some keep something for their backward

    return ours


def calls(call: Callable[..., Tensor], inputs: list[Any], grad: Tensor) -> dict[str, tuple[Any, Any]]:
    """Per part: what happens before the clock starts and gives arguments, and what is timed."""
    leaves = [value for value in inputs if isinstance(value, Tensor)]
    flush = torch.empty(2**28, dtype=torch.uint8, device=grad.device)

    def wait() -> None:
        if grad.is_cuda:
            torch.cuda.synchronize()

    def cold(arguments: tuple[Any, ...] = ()) -> tuple[tuple[Any, ...], dict[str, Any]]:
        flush.zero_()
        wait()
        return arguments, {}

    def forward() -> Tensor:
        with torch.no_grad():
            out = call(*inputs)
        wait()
        return out

    def backward(out: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(out, leaves, grad, materialize_grads=True)
        wait()
        return found

    return {
        "forward": (cold, forward),
        "backward": (lambda: cold((call(*inputs),)), backward),
        "both": (cold, lambda: backward(call(*inputs))),
    }


@pytest.mark.parametrize("path", ["PyTorch", "torch.compile", "seemore-fast", "CUDA C++"])
@pytest.mark.parametrize("part", ["forward", "backward", "both"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("device", _DEVICES)
def test_op(device: str, case: Case, part: str, path: str, benchmark: Any) -> None:
    torch.manual_seed(0)
    inputs = [
        value.to(device).requires_grad_() if isinstance(value, Tensor) else value
        for value in case.inputs(SHAPE, torch.float32, torch.float32, normal)
    ]
    grad = torch.randn(SHAPE, device=device)
    wanted = calls(operator(case, "PyTorch", device), inputs, grad)["both"][1]()
    parts = calls(operator(case, path, device), inputs, grad)
    for got, want in zip(parts["both"][1](), wanted, strict=True):
        assert (got - want).norm() <= GATE * want.norm().clamp_min(1e-12)
    setup, call = parts[part]
    benchmark.pedantic(call, setup=setup, rounds=15, warmup_rounds=2)
