"""Ours against what people run today: time, error, memory and share of the arithmetic floor, on one CPU.

All contenders take turns in one process, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import copy
import importlib.metadata
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seemore_fast.backends import choice
from seemore_fast.errors import SeemoreError
from seemore_fast.export import onnx_graph
from seemore_fast.measure import bench
from seemore_fast.measure.peak import fma_peak
from seemore_fast.measure.peers import contenders, memory
from seemore_fast.measure.peers.contenders import Call, Case, Contender
from seemore_fast.model import SeemoRe
from seemore_fast.network import flops
from seemore_fast.system.folders import without_paths

_TURN_SECONDS = 0.05
"""Calls shorter than this are repeated within their turn: the first finds the caches full of others' data."""

_REST_SECONDS = 0.01
"""Between turns, for the threads of the one before to stop spinning."""


@dataclass(frozen=True)
class PeerResult:
    """One contender's line; where ``error`` says why there is nothing to show, all figures are None.

    ``gate``: the limit of ``rel_l2``, 1e-5 in fp32, in bf16 twice PyTorch's own error under autocast.
    ``ratio``: this one's median by ours of the same dtype; None where either's check failed.
    ``bytes_per_pixel``: peak additional memory of one call by input pixel, ``memory_error`` why it is None.
    ``floor_share``: time the network's multiply-adds take at the processor's fp32 peak by the median.
    """

    name: str
    dtype: str
    error: str | None = None
    median_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    rel_l2: float | None = None
    max_abs: float | None = None
    gate: float | None = None
    passed: bool | None = None
    ratio: float | None = None
    bytes_per_pixel: float | None = None
    memory_error: str | None = None
    floor_share: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All contenders on one network and size (W, H); ``gmacs`` of the network, peak of fp32 multiply-adds."""

    model: str
    size: tuple[int, int]
    gmacs: float
    peak_gflops: float | None
    results: list[PeerResult]

    @property
    def passed(self) -> bool:
        """Whether ours, as far as it is available, is within its gates; the others' errors are only told."""
        return all(r.passed for r in self.results if r.name.startswith(contenders.OURS) and r.error is None)


def versions() -> dict[str, str]:
    """Of the other runtimes that are installed."""
    found = {}
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def run(
    model: str,
    size: tuple[int, int],
    runs: int = 7,
    report: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Compares everything in `contenders.ALL` on one (1, C, H, W) picture; ``size`` = (W, H).

    ``model`` as in `bench.run`.  ``report`` is told what is being done.  A contender that is missing, or
    fails, is listed with the reason.

    Raises SeemoreError for bad arguments, CheckpointError for weights that do not load.
    """
    if runs < 1:
        raise SeemoreError(f"runs must be at least 1, got {runs}")
    network = bench.network_for(model, "reference")
    least = network.min_size
    if min(size) < least:
        raise SeemoreError(f"size must be at least {least}x{least} for {model}, got {size[0]}x{size[1]}")
    x = bench.picture(network.config["in_chans"], size)
    with tempfile.TemporaryDirectory() as folder:
        return _compare(model, size, network, x, Path(folder) / "network.onnx", runs, report)


def _compare(
    model: str,
    size: tuple[int, int],
    network: SeemoRe,
    x: Tensor,
    onnx: Path,
    runs: int,
    report: Callable[[str], None],
) -> Comparison:
    report("float64 reference")
    exact, gates = _oracle(network, x)
    report("ONNX export")
    problems = {c.name: why for c in contenders.ALL if (why := c.missing()) is not None}
    case = Case(network, x, onnx if _exported(network, onnx, problems) else None)

    calls: dict[str, Call] = {}
    errors: dict[str, tuple[float, float]] = {}
    bytes_of: dict[str, float | str] = {}
    for contender in contenders.ALL:
        if contender.name in problems:
            continue
        report(f"preparing {contender.name}")
        try:
            call = contender.prepare(case)
            errors[contender.name] = bench.error_of(call(), exact)
        except Exception as problem:  # whatever another's software raises is a line of the table
            problems[contender.name] = _one_line(problem)
            continue
        calls[contender.name] = call
        report(f"memory of {contender.name}")
        bytes_of[contender.name] = _bytes_per_pixel(contender.name, model, size, case.onnx)

    report("timing")
    times = _turns(calls, runs)
    peak = fma_peak(torch.get_num_threads()) if choice.missing("cpu") is None else None
    macs = flops.macs(network.config, size[1], size[0])
    floor_ms = 2 * macs / peak / 1e6 if peak else None
    results = _results(contenders.ALL, times, errors, gates, bytes_of, problems, floor_ms)
    return Comparison(model, size, macs / 1e9, peak, results)


def _oracle(network: SeemoRe, x: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The output in float64, and each dtype's gate."""
    plain = copy.deepcopy(network)
    with torch.inference_mode():
        exact = plain.double()(x.double())
        plain.float()
        with torch.autocast("cpu", torch.bfloat16):
            own = bench.error_of(plain(x), exact)[0]
    return exact, {"fp32": bench.GATE_FP32, "bf16": 2 * own}


def _exported(network: SeemoRe, path: Path, problems: dict[str, str]) -> bool:
    """Whether the ONNX file was made; notes the problem for those who need it."""
    if onnx_graph.missing() is not None:
        return False
    try:
        onnx_graph.export_onnx(network, path)
    except Exception as problem:
        for name in ("ONNX Runtime", "OpenVINO f32", "OpenVINO bf16"):
            problems.setdefault(name, _one_line(problem))
        return False
    return True


def _bytes_per_pixel(name: str, model: str, size: tuple[int, int], onnx: Path | None) -> float | str:
    try:
        arguments = [name, model, size, str(onnx) if onnx else None]
        return memory.peak_bytes(contenders.__name__, arguments) / (size[0] * size[1])
    except (RuntimeError, OSError) as problem:
        return _one_line(problem)


def _one_line(problem: Exception) -> str:
    text = str(problem).strip() or type(problem).__name__
    return without_paths(text.splitlines()[0][:200]) or ""


def _turns(calls: dict[str, Call], runs: int) -> dict[str, list[float]]:
    """Milliseconds, one figure for each turn: the median of its calls."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            time.sleep(_REST_SECONDS)
            turn: list[float] = []
            begin = time.perf_counter()
            while not turn or time.perf_counter() - begin < _TURN_SECONDS:
                start = time.perf_counter_ns()
                call()
                turn.append((time.perf_counter_ns() - start) / 1e6)
            times[name].append(statistics.median(turn))
    return times


def _results(
    everyone: Sequence[Contender],
    times: dict[str, list[float]],
    errors: dict[str, tuple[float, float]],
    gates: dict[str, float],
    bytes_of: dict[str, float | str],
    problems: dict[str, str],
    floor_ms: float | None,
) -> list[PeerResult]:
    passed = {c.name: errors[c.name][0] <= gates[c.dtype] for c in everyone if c.name in times}
    medians = {name: statistics.median(values) for name, values in times.items()}
    results = []
    for c in everyone:
        if c.name not in times:
            results.append(PeerResult(c.name, c.dtype, error=problems[c.name]))
            continue
        ours = f"{contenders.OURS} {c.dtype}"
        comparable = passed[c.name] and passed.get(ours, False)
        used = bytes_of[c.name]
        results.append(
            PeerResult(
                name=c.name,
                dtype=c.dtype,
                median_ms=medians[c.name],
                min_ms=min(times[c.name]),
                max_ms=max(times[c.name]),
                rel_l2=errors[c.name][0],
                max_abs=errors[c.name][1],
                gate=gates[c.dtype],
                passed=passed[c.name],
                ratio=medians[c.name] / medians[ours] if comparable else None,
                bytes_per_pixel=None if isinstance(used, str) else used,
                memory_error=used if isinstance(used, str) else None,
                floor_share=floor_ms / medians[c.name] if floor_ms and c.dtype == "fp32" else None,
            )
        )
    return results
