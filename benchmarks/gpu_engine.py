"""What benchmarks/gpu.sh measures of inference: the CUDA engine beside everything else a GPU can run it with.

python benchmarks/gpu_engine.py times --rows FILE      our precisions and PyTorch's eager forms
python benchmarks/gpu_engine.py compiled --rows FILE   torch.compile as it is by default
python benchmarks/gpu_engine.py autotuned --rows FILE  Triton's operators and torch.compile, slow to start
python benchmarks/gpu_engine.py kernels --rows FILE    time of each kernel of the engine, by the profiler

Per case and contender: median ms of a call with the L2 cache flushed before it, with it warm, as replay of a
CUDA graph, and of calls back to back by the wall clock; memory at its peak; error against float64.  Ours
also as the share that the larger of two floors has of it: bytes between kernels over a copy's bandwidth,
operations over the rate of a bfloat16 matrix product, both measured in the same run.  A contender that errs
too much is timed all the same, and says so.  Rows are appended as they come: what a time limit cuts off does
not take the rest along.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.contact import rows
from seemore_fast import SeemoRe
from seemore_fast.measure import bench
from seemore_fast.network import flops, reference
from seemore_fast.network.accuracy import relative_l2

CASES = (
    "t-x4 320x180",
    "b-x4 320x180",
    "b-x4 960x540",
    "t-x4 960x540",
    "b-x2 640x360",
    "l-x4 960x540",
    "t-x2 1920x1080",
    "l-x4 320x180",
    "t-x2 640x360",
)
"""Those of DESIGN's section on the GPU engine, the most telling first."""

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Contender:
    """``kind``: ours, triton, eager (which waits for the router, as the official code does), free (which does
    not), compiled, autotuned; ``precision``: fp32, tf32, fp16 or bf16."""

    kind: str
    precision: str
    channels_last: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.precision}" + (" channels_last" if self.channels_last else "")


# Ours come last: after a fault in a kernel, nothing runs any more in the same process.
TIMED = (
    Contender("eager", "fp32"),
    Contender("eager", "tf32"),
    Contender("eager", "fp16", channels_last=True),
    Contender("free", "fp16", channels_last=True),
    *(Contender("ours", precision) for precision in ("fp16", "bf16", "tf32", "fp32")),
)
CONTENDERS = {
    "times": TIMED,
    "compiled": (Contender("compiled", "fp16"),),
    "autotuned": (Contender("autotuned", "fp16"), Contender("triton", "fp16"), Contender("triton", "fp32")),
}


@dataclass(frozen=True)
class Case:
    """A network, as `bench.network_for` makes it, and a picture."""

    name: str
    device: str
    plain: SeemoRe  # float32, backend "reference"
    x: Tensor  # [1, C, H, W] float32
    exact: Tensor  # [1, C, H * scale, W * scale] float64

    @classmethod
    def make(cls, name: str, device: str) -> Case:
        variant, size = name.split()
        plain = bench.network_for(variant, "reference").to(device)
        x = bench.picture(plain.config["in_chans"], bench.parse_size(size)).to(device)
        return cls(name, device, plain, x, _call(copy.deepcopy(plain).double(), x.double()))

    def error(self, out: Tensor) -> float:
        """Relative, L2; what is not finite makes it infinite."""
        return relative_l2(out, self.exact)

    def network(self, backend: str) -> SeemoRe:
        """The same weights on another backend."""
        model = copy.deepcopy(self.plain)
        model.backend = backend
        return model

    def call(self, contender: Contender) -> Callable[[], Tensor]:
        """What is measured: everything from the picture on the device to the larger one."""
        if contender.kind in ("ours", "triton"):
            backend = "triton" if contender.kind == "triton" else self.device
            dtype = DTYPES.get(contender.precision, torch.float32)
            return partial(_call, self.network(backend).to(dtype), self.x.to(dtype))
        model = self.network("reference")
        if contender.kind == "eager":
            for layer in model.modules():
                if isinstance(layer, reference.MoRE):
                    layer.forward = partial(_as_the_official_code, layer)
        form = torch.channels_last if contender.channels_last else torch.contiguous_format
        dtype = DTYPES.get(contender.precision, torch.float32)
        model, x = model.to(dtype, memory_format=form), self.x.to(dtype, memory_format=form)
        if contender.kind in ("compiled", "autotuned"):
            mode = "max-autotune" if contender.kind == "autotuned" else None
            model = torch.compile(model, mode=mode, fullgraph=True, dynamic=False)
        return partial(_call, model, x)


def _call(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)


def _as_the_official_code(layer: reference.MoRE, x: Tensor, k: Tensor) -> Tensor:
    """Asks the GPU which experts were chosen, and waits for the answer."""
    top, chosen = layer.gate(x).topk(layer.topk, dim=1)
    for weight, expert in zip(top[0], chosen[0].tolist(), strict=True):
        x = x + weight * layer.experts[expert](x, k)
    return x


# ---- Measuring -------------------------------------------------------------------------------------------


class Machine:
    """A device, how to time on it, and its two ceilings."""

    def __init__(self, device: str):
        self.device = device
        self._flushed = torch.empty((256 if device == "cuda" else 1) << 20, dtype=torch.uint8, device=device)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def times(self, call: Callable[[], Any], seconds: float, flush: bool) -> list[float]:
        """Milliseconds of single calls, for about ``seconds``."""
        found: list[float] = []
        end = time.perf_counter() + seconds
        while len(found) < 5 or (time.perf_counter() < end and len(found) < 300):
            found += self._some(call, flush)
        return found

    def _some(self, call: Callable[[], Any], flush: bool) -> list[float]:
        if self.device != "cuda":
            start = time.perf_counter()
            call()
            return [1e3 * (time.perf_counter() - start)]
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(5)]
        for begin, end in events:
            if flush:
                self._flushed.zero_()
            begin.record()
            call()
            end.record()
        self.wait()
        return [begin.elapsed_time(end) for begin, end in events]

    def back_to_back(self, call: Callable[[], Any], ms: float) -> float:
        """Milliseconds of a call by the wall clock, many in a row; ``ms``: about how long one takes."""
        count = max(3, min(300, int(150 / ms)))
        self.wait()
        start = time.perf_counter()
        for _ in range(count):
            call()
        self.wait()
        return 1e3 * (time.perf_counter() - start) / count

    def replayed(self, call: Callable[[], Any], seconds: float) -> dict[str, Any]:
        """Median milliseconds of a CUDA graph of the call, L2 warm, or why there is none."""
        if self.device != "cuda":
            return {}
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError as reason:
            return {"graph_failed": rows.first_line(reason)}
        return {"graph_ms": statistics.median(self.times(graph.replay, seconds, flush=False))}

    def peak(self, call: Callable[[], Any]) -> float | None:
        """MB that a call adds at its peak, the result included."""
        if self.device != "cuda":
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def ceilings(self) -> dict[str, float]:
        """Bytes/s of a copy, read and written; operations/s of a bfloat16 product of random matrices."""
        small = self.device != "cuda"
        source = torch.randn((1 << 20) if small else (1 << 29), device=self.device)
        target = torch.empty_like(source)
        copy = statistics.median(self.times(lambda: target.copy_(source), 0.2, flush=False))
        n = 256 if small else 8192
        a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        product = statistics.median(self.times(lambda: a @ b, 0.2, flush=False))
        return {"bytes_per_s": 2e3 * source.nbytes / copy, "flop_per_s": 2e3 * n**3 / product}


def floors(case: Case, precision: str, ceilings: dict[str, float]) -> dict[str, float]:
    """Milliseconds that the bytes between the engine's kernels, and the network's arithmetic, take at least.

    A layer's kernels read and write the stream 8 times and the experts' b and c, of all ranks, 4 times.
    """
    config = case.plain.config
    (_, colours, h, w), element = case.x.shape, 2 if precision in DTYPES else 4
    width = next(width for width in (40, 48, 64) if width >= config["embedding_dim"])
    ranks = sum(reference.expert_ranks(config["num_experts"], config["lr_space"]))
    streams = config["num_layers"] * (8 * width + 4 * ranks) + 6 * width
    bytes_moved = h * w * element * (streams + colours * (1 + config["scale"] ** 2))
    operations = 2 * flops.macs(config, h, w)
    return {
        "memory_floor_ms": 1e3 * bytes_moved / ceilings["bytes_per_s"],
        "matrix_floor_ms": 1e3 * operations / ceilings["flop_per_s"],
    }


def measure(
    machine: Machine,
    case: Case,
    contender: Contender,
    gate: float,
    ceilings: dict[str, float],
    seconds: float,
) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.name, "contender": str(contender)}
    allow_tf32(contender.precision == "tf32")
    start = time.perf_counter()
    call = case.call(contender)
    row["error"] = case.error(call())
    row |= {"first_call_s": time.perf_counter() - start, "gate": gate, "passed": row["error"] <= gate}
    for _ in range(2):
        call()
    row["cold_ms"] = statistics.median(machine.times(call, seconds, flush=True))
    row["warm_ms"] = statistics.median(machine.times(call, seconds, flush=False))
    row["wall_ms"] = machine.back_to_back(call, row["warm_ms"])
    if contender.kind in ("ours", "free"):  # the others wait for the GPU, or have graphs of their own
        row |= machine.replayed(call, seconds)
    row["peak_mb"] = machine.peak(call)
    if contender.kind == "ours":
        row |= floors(case, contender.precision, ceilings)
        row["share_of_floor"] = max(row["memory_floor_ms"], row["matrix_floor_ms"]) / row["cold_ms"]
    return row


def allow_tf32(allowed: bool) -> None:
    """In PyTorch, whose switch for matrix products the CUDA engine follows, too."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def gates(case: Case) -> dict[str, float]:
    """Largest error by precision: twice PyTorch's own in the same format; TF32 has the bits of float16."""
    found = {"fp32": bench.GATE_FP32}
    for name, dtype in DTYPES.items():
        model = case.network("reference").to(dtype)
        found[name] = 2 * case.error(_call(model, case.x.to(dtype)))
    return {**found, "tf32": found["fp16"]}


# ---- What is measured ------------------------------------------------------------------------------------


def times(
    device: str, cases: list[str], seconds: float, until: float, contenders: tuple[Contender, ...]
) -> Iterator[dict[str, Any]]:
    machine = Machine(device)
    ceilings = machine.ceilings()
    yield {"case": "ceilings", **ceilings}
    for name in cases:
        if time.perf_counter() > until:
            yield {"case": name, "skipped": "no time was left"}
            continue
        try:
            case = Case.make(name, device)
            limits = gates(case)
        except Exception as error:
            yield {"case": name, "failed": rows.first_line(error)}
            continue
        for contender in contenders:
            if time.perf_counter() > until:
                yield {"case": name, "contender": str(contender), "skipped": "no time was left"}
                continue
            try:
                yield measure(machine, case, contender, limits[contender.precision], ceilings, seconds)
            except Exception as error:  # the others can still be measured
                yield {"case": name, "contender": str(contender), "failed": rows.first_line(error)}
            torch._dynamo.reset()
            if device == "cuda":
                torch.cuda.empty_cache()
        del case


def kernels(cases: list[str], until: float) -> Iterator[dict[str, Any]]:
    """Milliseconds of each kernel of a forward in fp16, all layers together."""
    from torch.profiler import ProfilerActivity, profile

    calls = 10
    for name in cases:
        if time.perf_counter() > until:
            yield {"case": name, "skipped": "no time was left"}
            continue
        call = Case.make(name, "cuda").call(Contender("ours", "fp16"))
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(calls):
                call()
            torch.cuda.synchronize()
        found = {e.key: e.self_device_time_total / 1e3 / calls for e in profiler.key_averages()}
        by_time = sorted(found.items(), key=lambda item: -item[1])
        yield {"case": name, "kernels_ms": {key[:90]: ms for key, ms in by_time if ms > 0}}


# ---- Command line ----------------------------------------------------------------------------------------


def print_row(row: dict[str, Any]) -> None:
    if "kernels_ms" in row:
        print(row["case"])
        for name, ms in row["kernels_ms"].items():
            print(f"  {ms:8.4f} ms  {name}")
        return
    numbers = (
        "error",
        "cold_ms",
        "warm_ms",
        "graph_ms",
        "wall_ms",
        "peak_mb",
        "share_of_floor",
        "first_call_s",
    )
    told = [f"{key} {row[key]:.3g}" for key in numbers if row.get(key) is not None]
    told += [f"{key}: {row[key]}" for key in ("skipped", "failed") if key in row]
    if row.get("passed") is False:
        told.append(f"NOT WITHIN {row['gate']:.3g}")
    if row["case"] == "ceilings":
        told = [f"copy {row['bytes_per_s'] / 1e12:.2f} TB/s, product {row['flop_per_s'] / 1e12:.0f} TFLOP/s"]
    print(f"{row['case']:15} {row.get('contender', ''):26} {'  '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=[*CONTENDERS, "kernels"])
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try the script out"
    )
    parser.add_argument("--case", action="append", metavar="'VARIANT WxH'", help="instead of all")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each median (default: 0.1)")
    parser.add_argument("--limit", type=float, default=1e9, help="start nothing after so many seconds")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here")
    until = time.perf_counter() + given.limit
    cases = given.case or list(CASES)
    if given.what == "kernels":
        found = kernels(cases, until)
    else:
        contenders = CONTENDERS[given.what]
        if given.device == "cpu":
            contenders = tuple(c for c in contenders if c.kind in ("ours", "eager") and c.precision == "fp32")
        found = times(given.device, cases, given.seconds, until, contenders)
    for row in found:
        rows.append(given.rows, row)
        print_row(row)


if __name__ == "__main__":
    main()
