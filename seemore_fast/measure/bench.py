"""How long a network takes on each backend, and how far it is from the float64 reference.

Backends take turns in one process, so that a machine that slows down slows all of them; a backend whose error
is above its gate gets no speed-up.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seemore_fast.backends import choice
from seemore_fast.backends.precision import autocast
from seemore_fast.errors import BackendError, SeemoreError
from seemore_fast.model import SeemoRe, load
from seemore_fast.network import variants, weights
from seemore_fast.network.accuracy import relative_l2
from seemore_fast.network.weights import catalogue

GATE_FP32 = 1e-5
"""Largest relative L2 error of a whole network in float32; PyTorch itself has 1e-6 to 3e-6."""

_ON_GPU = {"cuda", "triton"}


@dataclass(frozen=True)
class Result:
    """One backend's line: milliseconds per call, error against float64, and the gate for ``rel_l2``.

    ``speedup`` is the reference's median by this one's; None if the check failed or no reference ran.
    """

    backend: str
    median_ms: float
    min_ms: float
    max_ms: float
    rel_l2: float
    max_abs: float
    gate: float
    passed: bool
    speedup: float | None


def run(
    model: str,
    size: tuple[int, int],
    dtype: str = "fp32",
    names: Sequence[str] = ("reference", "cpu"),
    runs: int = 10,
    warmup: int = 2,
) -> list[Result]:
    """Measures ``model`` on one (1, 3, H, W) float picture, ``size`` = (W, H), on the backends ``names``.

    ``model`` is a name of bundled weights, a weights file, or a variant (see `variants.names`), which gets
    random weights.  The gate of ``rel_l2`` is 1e-5 in fp32; in bf16 and fp16 it is twice PyTorch's own error
    (the reference network under autocast).

    Raises BackendError for a backend that is not available or a dtype it does not have, SeemoreError for
    other bad arguments, CheckpointError for weights that do not load.
    """
    device = _check(size, names, runs)
    precision = autocast(device, dtype)
    plain = network_for(model, "reference")
    x = picture(plain.config["in_chans"], size)
    exact = _output(plain.double(), x.double(), nullcontext())
    plain, x = plain.float().to(device), x.to(device)
    models = {name: plain if name == "reference" else network_for(model, name).to(device) for name in names}

    errors = {name: error_of(_output(network, x, precision), exact) for name, network in models.items()}
    gate = GATE_FP32 if dtype == "fp32" else 2 * error_of(_output(plain, x, precision), exact)[0]
    calls = {name: partial(_output, network, x, precision) for name, network in models.items()}
    return _results(_interleave(calls, runs, warmup, device), errors, gate)


def default_size(scale: int) -> tuple[int, int]:
    """Input (W, H) that gives 1280x720, or nearly: 640x360, 426x240, 320x180 for x2, x3, x4."""
    return 1280 // scale, 720 // scale


def parse_size(text: str) -> tuple[int, int]:
    """``"320x180"`` -> (320, 180), width first; raises SeemoreError for anything else."""
    found = re.fullmatch("([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if found is None:
        raise SeemoreError(f"size must be WIDTHxHEIGHT in pixels, such as 320x180, got {text[:40]!r}")
    return int(found[1]), int(found[2])


def as_json(settings: dict[str, Any], cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Settings, what was measured of each model and size, and the environment it holds for, as plain data."""
    from seemore_fast.measure.environment import environment

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "settings": settings,
        "cases": [_finite(case) for case in cases],
        "environment": environment(),
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(size: tuple[int, int], names: Sequence[str], runs: int) -> str:
    """The device to measure on; raises for what cannot be measured."""
    if min(size) < 1:
        raise SeemoreError(f"size must be at least 1x1, got {size[0]}x{size[1]}")
    if runs < 1:
        raise SeemoreError(f"runs must be at least 1, got {runs}")
    if not names or len(set(names)) < len(names):
        raise SeemoreError(f"backends must be one or more different names, got {','.join(names) or 'none'}")
    for name in names:
        if name not in choice.NAMES:
            raise BackendError(f"unknown backend {name!r}; there are {', '.join(choice.NAMES)}")
        if (why := choice.missing(name)) is not None:
            raise BackendError(f"backend {name!r} is not available: {why}")
    if "cpu" in names and _ON_GPU & set(names):
        raise BackendError("backends on the CPU and on a GPU cannot share a run: their reference differs")
    return "cuda" if _ON_GPU & set(names) else "cpu"


def network_for(model: str, backend: str) -> SeemoRe:
    """The network that ``model`` names, as `run` takes it; random weights are the same every time."""
    if model in weights.names():
        return load(model, backend=backend)
    try:
        config = variants.config(model)
    except SeemoreError:
        if Path(model).is_file() or model in catalogue.known():
            return load(model, backend=backend)
        known = ", ".join(dict.fromkeys([*weights.names(), *variants.names()]))
        raise SeemoreError(f"{model}: neither a weights file nor one of {known}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SeemoRe(**config, backend=backend).eval()


def picture(channels: int, size: tuple[int, int]) -> Tensor:
    """Soft shapes with a little grain, [1, C, H, W] in [0, 1]: white noise would route like no photograph."""
    width, height = size
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, -(-height // 8), -(-width // 8), generator=generator)
    soft = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return (soft + 0.03 * torch.randn(soft.shape, generator=generator)).clamp(0, 1)


def _output(model: nn.Module, x: Tensor, precision: AbstractContextManager[object]) -> Tensor:
    with torch.inference_mode(), precision:
        return model(x)


def error_of(out: Tensor, exact: Tensor) -> tuple[float, float]:
    """Relative L2 and largest absolute error against float64.

    Output that is not finite gives infinity, which passes no gate.
    """
    return relative_l2(out, exact), (out.double().cpu() - exact).abs().max().item()


def _interleave(
    calls: Mapping[str, Callable[[], object]], runs: int, warmup: int, device: str
) -> dict[str, list[float]]:
    """Milliseconds of ``runs`` calls each, in turn, after ``warmup`` rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + runs):
        for name, call in calls.items():
            _wait_for(device)
            start = time.perf_counter_ns()
            call()
            _wait_for(device)
            if turn >= warmup:
                times[name].append((time.perf_counter_ns() - start) / 1e6)
    return times


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _results(
    times: dict[str, list[float]], errors: dict[str, tuple[float, float]], gate: float
) -> list[Result]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    results = []
    for name, values in times.items():
        rel_l2, max_abs = errors[name]
        passed = rel_l2 <= gate
        speedup = medians["reference"] / medians[name] if passed and "reference" in medians else None
        results.append(
            Result(name, medians[name], min(values), max(values), rel_l2, max_abs, gate, passed, speedup)
        )
    return results
