"""Runs a sample of a network's blocks from their PTX, and counts what its launches execute."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from benchmarks.gpu_cost_compile import Compiled, compile_all
from benchmarks.gpu_cost_model import Card, Plane, Work, dram_bytes
from benchmarks.gpu_cost_weigh import CLASSES, weigh
from seemore_fast.engines import cuda_engine
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.network import fold, reference
from tests.support import cudasim

EXPERTS: dict[str, Any] = {"num_experts": 3, "lr_space": "exp", "topk": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "T": {**EXPERTS, "num_layers": 6, "embedding_dim": 36, "use_shuffle": True, "recursive": 2},
    "B": {**EXPERTS, "num_layers": 8, "embedding_dim": 48, "use_shuffle": True, "recursive": 2},
    "L": {**EXPERTS, "num_layers": 16, "embedding_dim": 48, "use_shuffle": False, "recursive": 1},
}

ON_CHIP = ("ld.shared", "st.shared", "ldmatrix", "stmatrix", "cp.async")
OFF_CHIP = ("ld.global", "st.global")
"""By what an access costs the LSU: wavefronts, or lines. What is copied to shared memory past registers is
written there once, and has lines of its own nowhere."""
_RANKS = 16  # in memory, of `exp`


@dataclass(frozen=True)
class Case:
    variant: str
    scale: int
    width: int  # of the input
    height: int
    precision: str

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def element(self) -> int:
        return 2 if self.precision in ("fp16", "bf16") else 4

    @property
    def layers(self) -> int:
        return int(VARIANTS[self.variant]["num_layers"])

    @property
    def channels(self) -> int:
        return int(VARIANTS[self.variant]["embedding_dim"])


@dataclass(frozen=True)
class Cost:
    """Of one launch; counts are per pixel of the input."""

    kernel: str
    blocks: int
    threads: int  # of a block
    registers: int
    shared: int
    classes: dict[str, float]
    shared_wavefronts: float
    shared_ideal: float  # without bank conflicts
    global_wavefronts: float  # lines of 128 bytes
    sectors: float
    mma: float  # m16n8k16, or as much of other shapes
    half_sums: float  # of these with sums of float16
    stream_bytes: float  # that cross the L2 cache, as often as blocks ask for them

    @property
    def instructions(self) -> float:
        return sum(self.classes.values())

    def work(self, pixels: int, dram: float = 0) -> Work:
        """Of a picture; ``dram``: bytes of memory that its launch moves."""
        return Work(
            instructions=self.instructions * pixels,
            wavefronts=(self.shared_wavefronts + self.global_wavefronts) * pixels,
            mma=self.mma * pixels,
            half_sums=self.half_sums * pixels,
            l2_bytes=self.stream_bytes * pixels,
            dram_bytes=dram,
            blocks=self.blocks,
            threads=self.threads,
            registers=self.registers,
            shared=self.shared,
        )


@functools.cache
def costs(case: Case, architecture: int, multiprocessors: int, shared_kib: int, blocks: int) -> list[Cost]:
    """Of the launches of a network with one group: head, the group's, conv and upsample.

    About ``blocks`` of each run.

    Raises FileNotFoundError where a tool is missing, RuntimeError for PTX that the simulator does not know.
    """
    network = reference.SeemoRe(scale=case.scale, **{**VARIANTS[case.variant], "num_layers": 1})
    lib = cudasim.library(only_compiled=True)
    lib.pretend(multiprocessors, (shared_kib - 1) << 10)
    try:
        arrays = float32_arrays(fold.fold_network(network))
        programs = lib.cuda_network_programs(arrays, cuda_engine.PRECISIONS.index(case.precision), 0, 0)
        compiled = compile_all([program[:2] for program in programs], architecture)
        lib.unload_ptx()
        for one in compiled:
            lib.load_ptx(one.ptx, one.program)
        lib.configure(0, False)
        lib.measure(blocks)
        _launch(lib, case, network)
        return [cost_of(launch, compiled, case.pixels) for launch in lib.measured()]
    finally:
        lib.measure(0)
        lib.unload_ptx()


def costs_on(case: Case, card: Card, blocks: int) -> list[Cost]:
    return costs(case, card.architecture, card.multiprocessors, card.shared_kib, blocks)


def _launch(lib: ModuleType, case: Case, network: reference.SeemoRe) -> None:
    """Weights and pixels do not matter to what it executes."""
    native, weights = cuda_engine.pack(lib, network, case.precision, torch.device("cpu"))
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(case.precision, torch.float32)
    x = torch.zeros(1, 3, case.height, case.width, dtype=dtype)
    out = torch.zeros(1, 3, case.height * case.scale, case.width * case.scale, dtype=dtype)
    workspace = cuda_engine.aligned(native.workspace(1, case.height, case.width), x.device)
    cuda_engine.launch(native, x, out, workspace, stream=0)
    del weights  # which the kernels have read


def _planes(kernel: str, case: Case, first: bool) -> list[Plane]:
    """What a launch reads, then what it writes; the ``first`` group's input is what the tail adds."""
    stream, ranks = (case.channels + 7) // 8 * 8, _RANKS
    elements = {"in": 3, "skip": stream, "even": stream, "odd": stream, "b": ranks, "c": ranks}
    elements["out"] = 3 * case.scale**2
    uses = {
        "head": "in > skip",
        "rme": f"{'skip' if first else 'even'} > odd b c",
        "mix_ffn": "odd b c > even",
        "sme": "even > odd",
        "ffn": "odd > even",
        "conv": "even skip > odd",
        "upsample": "odd > out",
    }.get(re.sub(r"^(head|upsample|sme).*", r"\1", kernel), ">")
    read, written = (half.split() for half in uses.split(">"))
    size = case.pixels * case.element
    return [
        *(Plane(name, elements[name] * size) for name in read),
        *(Plane(name, elements[name] * size, written=True) for name in written),
    ]


def memory_of(case: Case, card: Card, costs: list[Cost]) -> list[float]:
    """Bytes of memory that each of the launches moves, one of a group's as their average over all groups."""
    kernels = [cost.kernel for cost in costs]
    group = kernels[1:-2]
    order = [kernels[0], *group * case.layers, *kernels[-2:]]
    found = dram_bytes([_planes(k, case, i <= len(group)) for i, k in enumerate(order)], card)
    middle, steps = found[1:-2], len(group)
    return [found[0], *(sum(middle[i::steps]) / case.layers for i in range(steps)), *found[-2:]]


def cost_of(launch: dict[str, Any], compiled: list[Compiled], pixels: int) -> Cost:
    """Of one launch, for each of ``pixels``."""
    (one,) = (c for c in compiled if launch["kernel"].startswith(f"{c.program} "))
    blocks = math.prod(launch["grid"])
    per_pixel = 1 / pixels
    executed = {line: (opcode, issued) for line, opcode, issued, *_ in launch["lines"]}
    classes = weigh(one.sass[launch["mangled"]], executed)
    classes = {name: classes.get(name, 0) * per_pixel for name in CLASSES}

    def total(what: int, *kinds: str) -> float:
        return sum(float(line[what]) for line in launch["lines"] if line[1].startswith(kinds)) * per_pixel

    name = launch["mangled"]
    # k8 of 16 bits is half as much; that of tf32 takes as long as k16 of 16 bits.
    k8, k16 = (f"mma.sync.aligned.m16n8{depth}.row.col." for depth in ("k8", "k16"))
    short = [k8 + kinds for kinds in ("f16.f16", "f32.f16", "f32.bf16")]
    half_sums = total(2, k16 + "f16") + total(2, k8 + "f16") / 2
    sectors = total(6, *OFF_CHIP, "cp.async")
    return Cost(
        kernel=name,
        blocks=blocks,
        threads=launch["threads"],
        registers=one.registers[launch["mangled"]],
        shared=launch["shared"],
        classes=classes,
        shared_wavefronts=total(4, *ON_CHIP),
        shared_ideal=total(5, *ON_CHIP),
        global_wavefronts=total(4, *OFF_CHIP),
        sectors=sectors,
        mma=total(2, "mma") - total(2, *short) / 2,
        half_sums=half_sums,
        stream_bytes=32 * (sectors - total(6, "ld.global.nc")),  # but for weights, which the first cache has
    )


def parse(text: str, precision: str) -> Case:
    """``text``: as in t-x4 320x180. Raises ValueError for anything else."""
    found = re.fullmatch(r"([tbl])-x([1-4]) (\d+)x(\d+)", text)
    if not found:
        raise ValueError(f"case: {text!r} is not like 't-x4 320x180'")
    return Case(found[1].upper(), int(found[2]), int(found[3]), int(found[4]), precision)
