"""How long a training step takes: ours against PyTorch and torch.compile, with memory and gradients' error.

A step is forward, mean absolute error, backward and Adam; its work counts as three forwards' multiply-adds.
Contenders take turns in one process; a contender whose gradients are above their gate gets no ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from seemore_fast.backends import choice
from seemore_fast.backends.precision import autocast
from seemore_fast.errors import SeemoreError
from seemore_fast.measure import bench
from seemore_fast.measure.peak import fma_peak
from seemore_fast.measure.peers import memory
from seemore_fast.measure.peers.contenders import OURS
from seemore_fast.network import flops

CONTENDERS = ("PyTorch", "torch.compile", OURS)

GATE_FP32 = 2e-4
"""Largest relative L2 error of all gradients together in float32."""


@dataclass(frozen=True)
class StepResult:
    """One contender's line: median milliseconds of a step and its parts, peak memory, error of the gradients.

    ``peak_bytes``: what one step adds, gradients included, to weights, optimizer and data; None where it
    cannot be measured.  ``gate``: the limit of ``rel_l2``, 2e-4 in fp32, else three times PyTorch's own
    error.  ``ratio``: this one's median by ours; None where either's check failed.  ``floor_share``: time
    the step's multiply-adds take at the processor's fp32 peak by the median; None for other dtypes.
    """

    name: str
    forward_ms: float
    backward_ms: float
    optimizer_ms: float
    median_ms: float
    min_ms: float
    max_ms: float
    peak_bytes: int | None
    rel_l2: float
    gate: float
    passed: bool
    ratio: float | None
    floor_share: float | None


@dataclass(frozen=True)
class Steps:
    """All contenders on one network; ``gmacs`` of a step, peak of the processor's fp32 multiply-adds."""

    model: str
    gmacs: float
    peak_gflops: float | None
    results: list[StepResult]

    @property
    def passed(self) -> bool:
        """Whether our gradients are within their gate; the others' errors are only told."""
        return all(result.passed for result in self.results if result.name == OURS)


def run(
    model: str,
    batch: int = 8,
    patch: int = 32,
    dtype: str = "fp32",
    runs: int = 5,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _: None,
    names: Sequence[str] = CONTENDERS,
) -> Steps:
    """Measures steps of ``model`` (as in `bench.run`) on ``batch`` LR patches of ``patch`` pixels squared.

    ``device``: cpu or cuda.  ``report`` is told what is being done.  ``names``: of CONTENDERS, PyTorch and
    ours among them.  Raises SeemoreError for bad arguments, BackendError for a dtype that the device does not
    have, CheckpointError for weights that do not load.
    """
    if min(batch, patch, runs) < 1:
        raise SeemoreError(f"batch, patch and runs must be at least 1, got {batch}, {patch}, {runs}")
    autocast(device, dtype)  # raises
    x, target = _data(model, batch, patch, device)
    report("gradients in float64")
    plain = bench.network_for(model, "reference").to(device).train().double()
    exact = _gradients(plain, x.double(), target.double(), "fp32")
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    errors: dict[str, float] = {}
    peaks: dict[str, int | None] = {}
    steps = {}
    for name in names:
        report(f"preparing {name}")
        network = _network(model, name, device)
        errors[name] = bench.error_of(_gradients(network, x, target, dtype), exact)[0]
        optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
        steps[name] = partial(_step, network, optimizer, x, target, dtype)
        report(f"memory of {name}")
        peaks[name] = _peak(name, model, batch, patch, dtype, device)
    report("timing")
    for turn in range(1 + runs):
        for name, step in steps.items():
            taken = step()
            if turn:
                times[name].append(taken)
    gate = GATE_FP32 if dtype == "fp32" else 3 * errors["PyTorch"]
    on_cpu = device == "cpu" and choice.missing("cpu") is None
    peak = fma_peak(torch.get_num_threads()) if on_cpu else None
    macs = 3 * len(x) * flops.macs(plain.config, patch, patch)
    floor_ms = 2 * macs / peak / 1e6 if peak and dtype == "fp32" else None
    return Steps(model, macs / 1e9, peak, _results(times, errors, peaks, gate, floor_ms))


def call_of(name: str, model: str, batch: int, patch: int, dtype: str) -> Callable[[], object]:
    """For `memory.peak_bytes`: forward and backward on the CPU; what compiles has compiled."""
    network, data = _network(model, name, "cpu"), _data(model, batch, patch, "cpu")
    if name == "torch.compile":
        _gradients(network, *data, dtype)
    return partial(_gradients, network, *data, dtype)


def _network(model: str, name: str, device: str) -> nn.Module:
    network = bench.network_for(model, "auto" if name == OURS else "reference").to(device).train()
    if name == "torch.compile":
        return cast(nn.Module, torch.compile(network, fullgraph=True, dynamic=False))
    return network


def _data(model: str, batch: int, patch: int, device: str) -> tuple[Tensor, Tensor]:
    """Patches (N, C, patch, patch) of one picture, and random ones of the output's size."""
    config = bench.network_for(model, "reference").config
    tall = bench.picture(config["in_chans"], (patch, batch * patch))
    x = tall.unflatten(2, (batch, patch))[0].movedim(1, 0).contiguous()
    large = patch * config["scale"]
    target = torch.rand(x.shape[0], x.shape[1], large, large, generator=torch.Generator().manual_seed(1))
    return x.to(device), target.to(device)


def _loss(network: nn.Module, x: Tensor, target: Tensor, dtype: str) -> Tensor:
    with autocast(x.device.type, dtype):
        return (network(x) - target).abs().mean()


def _gradients(network: nn.Module, x: Tensor, target: Tensor, dtype: str) -> Tensor:
    """All parameters' gradients, one vector in float64 on the CPU."""
    found = torch.autograd.grad(_loss(network, x, target, dtype), list(network.parameters()))
    return torch.cat([gradient.double().cpu().flatten() for gradient in found])


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor, dtype: str
) -> tuple[float, float, float]:
    """Milliseconds of forward, backward and optimizer."""
    marks = [_now(x)]
    loss = _loss(network, x, target, dtype)
    marks.append(_now(x))
    loss.backward()
    marks.append(_now(x))
    optimizer.step()
    optimizer.zero_grad()
    marks.append(_now(x))
    forward, backward, update = ((b - a) / 1e6 for a, b in pairwise(marks))
    return forward, backward, update


def _now(x: Tensor) -> int:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter_ns()


def _peak(name: str, model: str, batch: int, patch: int, dtype: str, device: str) -> int | None:
    if device == "cuda":
        network, data = _network(model, name, device), _data(model, batch, patch, device)
        for _ in range(2):  # the first compiles and tunes
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            _gradients(network, *data, dtype)
        return torch.cuda.max_memory_allocated() - before
    try:
        return memory.peak_bytes(__name__, [name, model, batch, patch, dtype])
    except (RuntimeError, OSError):
        return None


def _results(
    times: dict[str, list[tuple[float, float, float]]],
    errors: dict[str, float],
    peaks: dict[str, int | None],
    gate: float,
    floor_ms: float | None,
) -> list[StepResult]:
    passed = {name: error <= gate for name, error in errors.items()}
    wholes = {name: [sum(step) for step in steps] for name, steps in times.items()}
    medians = {name: statistics.median(whole) for name, whole in wholes.items()}
    results = []
    for name, steps in times.items():
        forward, backward, optimizer = (statistics.median(part) for part in zip(*steps, strict=True))
        result = StepResult(
            name,
            forward,
            backward,
            optimizer,
            median_ms=medians[name],
            min_ms=min(wholes[name]),
            max_ms=max(wholes[name]),
            peak_bytes=peaks[name],
            rel_l2=errors[name],
            gate=gate,
            passed=passed[name],
            ratio=medians[name] / medians[OURS] if passed[name] and passed[OURS] else None,
            floor_share=None if floor_ms is None else floor_ms / medians[name],
        )
        results.append(result)
    return results
