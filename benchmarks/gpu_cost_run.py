"""Runs a sample of a network's blocks from their PTX and counts; per launch and pixel of the input."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import torch

from benchmarks.gpu_cost_compile import Compiled, compile_all
from benchmarks.gpu_cost_weigh import weigh
from seemore_fast.engines import cuda_engine
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.network import fold, reference
from tests.support import cudasim

GROUP = ("rme", "mix_ffn", "sme11", "sme", "ffn")


@dataclass(frozen=True)
class Card:
    architecture: int
    multiprocessors: int
    shared_kib: int  # that a block may ask for


CARDS = {
    "H100": Card(90, 132, 227),
    "H200": Card(90, 132, 227),
    "RTX4090": Card(89, 128, 99),
    "RTX5090": Card(120, 170, 99),
    "A100": Card(80, 108, 163),
}


@dataclass(frozen=True)
class Cost:
    """Of one launch; counts are per pixel of the input."""

    kernel: str
    grid: int
    registers: int
    shared: int
    instructions: float
    classes: Counter[str]
    shared_wavefronts: float
    shared_ratio: float  # to as many without bank conflicts
    global_wavefronts: float
    global_ratio: float
    sectors: float
    mma: float


SMALL = {"num_experts": 3, "num_layers": 1, "lr_space": "exp", "topk": 1}
VARIANTS = {
    "t": {**SMALL, "embedding_dim": 36, "use_shuffle": True, "recursive": 2},
    "b": {**SMALL, "embedding_dim": 48, "use_shuffle": True, "recursive": 2},
    "l": {**SMALL, "embedding_dim": 48, "use_shuffle": False, "recursive": 1},
}
"""With one group: all groups cost the same."""


def costs(case: str, precision: str, card: Card, blocks: int) -> list[Cost]:
    """Of the launches of a network with one group: head, the group's, the ends'. ``case``: t-x4 320x180."""
    found = re.fullmatch(r"([tbl])-x(\d) (\d+)x(\d+)", case)
    if not found:
        raise ValueError(f"case: {case!r} is not like 't-x4 320x180'")
    variant, scale, width, height = found.groups()
    network = reference.SeemoRe(scale=int(scale), **VARIANTS[variant])
    arrays = float32_arrays(fold.fold_network(network))
    lib = cudasim.library()
    lib.pretend(card.multiprocessors, card.shared_kib << 10)
    programs = lib.cuda_network_programs(arrays, cuda_engine.PRECISIONS.index(precision), 0, 0)
    compiled = compile_all([program[:2] for program in programs], card.architecture)
    lib.unload_ptx()
    for one in compiled:
        lib.load_ptx(one.ptx, one.program)
    lib.configure(0, False)
    lib.measure(blocks)
    native, weights = cuda_engine.pack(lib, network, precision, torch.device("cpu"))
    h, w = int(height), int(width)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    x = torch.zeros(1, 3, h, w, dtype=dtype)
    out = torch.zeros(1, 3, h * int(scale), w * int(scale), dtype=dtype)
    workspace = cuda_engine.aligned(native.workspace(1, h, w), x.device)
    cuda_engine.launch(native, x, out, workspace, stream=0)
    del weights
    launches = [_cost(launch, compiled, h * w) for launch in lib.measured()]
    lib.measure(0)
    lib.unload_ptx()
    return launches


def _cost(launch: dict, compiled: list[Compiled], pixels: int) -> Cost:
    (one,) = (c for c in compiled if launch["kernel"].startswith(f"{c.program} "))
    grid = launch["grid"][0] * launch["grid"][1]
    per_pixel = grid / launch["blocks"] / pixels
    executed = {line: (opcode, issued) for line, opcode, issued, *_ in launch["lines"]}
    classes = weigh(one.sass[launch["mangled"]], executed)
    for name in classes:
        classes[name] *= per_pixel

    def total(what: int, *kinds: str) -> float:
        return sum(line[what] for line in launch["lines"] if line[1].startswith(kinds)) * per_pixel

    name = launch["mangled"]
    on_chip = ("ld.shared", "st.shared", "ldmatrix", "stmatrix")
    off_chip = ("ld.global", "st.global")
    return Cost(
        kernel=name,
        grid=grid,
        registers=one.registers[launch["mangled"]],
        shared=launch["shared"],
        instructions=sum(classes.values()),
        classes=classes,
        shared_wavefronts=total(4, *on_chip),
        shared_ratio=total(4, *on_chip) / (total(5, *on_chip) or 1),
        global_wavefronts=total(4, *off_chip),
        global_ratio=total(4, *off_chip) / (total(5, *off_chip) or 1),
        sectors=total(6, *off_chip),
        mma=total(2, "mma"),
    )
