"""What the operators in CUDA C++ execute, forward and backward, counted on their compiled code.

python benchmarks/gpu_cost_ops.py                       each operator, fp32 and fp16
python benchmarks/gpu_cost_ops.py --case stripes11      one, launch by launch

All blocks run, on a batch of small patches; counts are per pixel of one image, over all its channels.  How
they are counted: gpu_cost.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.gpu_cost_compile import compile_all
from benchmarks.gpu_cost_run import Cost, cost_of
from benchmarks.gpu_cost_weigh import CLASSES
from seemore_fast.backends import native
from seemore_fast.ops import _cuda
from seemore_fast.ops._register import OPERATORS
from tests.support import cudasim

SHAPE = 3, 36, 64, 64
"""A batch as SeemoRe-T trains on it; each image is routed to another expert."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class OpCase:
    op: str
    options: dict[str, Any] = field(default_factory=dict)
    taps: int = 1


CASES = {
    "stripes3": OpCase("striped_conv2d", {"gelu": True}, 3),
    "stripes11": OpCase("striped_conv2d", {"gelu": False}, 11),
    "low_rank_experts": OpCase("low_rank_experts"),
    "mix_experts": OpCase("mix_experts", {"ranks": [2, 4, 8], "topk": 1}),
}
"""As the network has them."""


def inputs_of(case: OpCase, dtype: torch.dtype) -> list[Any]:
    """Image i is of colour i, and the router takes expert i for it; other values matter to nothing."""
    op = OPERATORS[case.op]
    ranks = case.options.get("ranks", [2, 4, 8])
    sizes = {"C": SHAPE[1], "k": case.taps, "R": sum(ranks), "E": len(ranks)}
    x = torch.zeros(SHAPE, dtype=dtype)
    for image in range(SHAPE[0]):
        x[image, image] = 1
    images = [x, *(torch.zeros(SHAPE, dtype=dtype) for _ in op.images[1:])]
    weights = [torch.zeros(leaf.shape(sizes)) for leaf in op.leaves]
    for leaf, weight in zip(op.leaves, weights, strict=True):
        if leaf.name == "router_weight":
            weight.fill_diagonal_(1)
    return [*images, *weights, *case.options.values()]


def count(case: OpCase, precision: str, architecture: int = 90) -> dict[str, list[Cost]]:
    """Launches, in their order, of ``forward`` and ``backward``.

    Raises FileNotFoundError where a tool is missing, RuntimeError for PTX that the simulator does not know.
    """
    lib = cudasim.library(only_compiled=True)
    op, dtype = OPERATORS[case.op], DTYPES[precision]
    inputs = inputs_of(case, dtype)
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    programs = [program[:2] for program in lib.cuda_op_programs(_cuda._PIXELS[dtype])]
    compiled = compile_all(programs, architecture)
    lib.unload_ptx()
    for one in compiled:
        lib.load_ptx(one.ptx, one.program)
    lib.configure(0, False)
    found: dict[str, list[Cost]] = {}

    def finish(name: str) -> None:
        pixels = SHAPE[0] * SHAPE[2] * SHAPE[3]
        found[name] = [cost_of(launch, compiled, pixels) for launch in lib.measured()]

    try:
        with (
            mock.patch.object(native, "lib", lib),
            mock.patch.multiple(_cuda, _stream=lambda device: 0, _load=lambda *_: None),
        ):
            lib.measure(1 << 30)
            _, *saved = _cuda.forward(op, inputs)
            finish("forward")
            lib.measure(1 << 30)
            _cuda.backward(op, torch.zeros(SHAPE, dtype=dtype), saved, inputs, [True] * len(tensors))
            finish("backward")
    finally:
        lib.measure(0)
        lib.unload_ptx()
    return found


def total(costs: list[Cost]) -> float:
    return sum(cost.instructions for cost in costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"], choices=[*DTYPES])
    args = parser.parse_args()
    columns = ("blocks", "regs", "shared", "wi/px", *CLASSES, "wf/px", "conflict", "lines", "sectors")
    print(f"{'':28}" + "".join(f"{name[:7]:>8}" for name in columns))
    for name in args.case:
        for precision in args.precision:
            for direction, costs in count(CASES[name], precision).items():
                print(f"{name} {precision} {direction}: {total(costs):.1f} wi/px")
                for cost in costs:
                    show(cost)


def show(cost: Cost) -> None:
    conflicts = cost.shared_wavefronts / cost.shared_ideal if cost.shared_ideal else 1
    print(
        f"  {cost.kernel:26}{cost.blocks:8}{cost.registers:8}{cost.shared:8}{cost.instructions:8.1f}", end=""
    )
    print("".join(f"{cost.classes[name]:8.1f}" for name in CLASSES), end="")
    print(f"{cost.shared_wavefronts:8.2f}{conflicts:8.2f}{cost.global_wavefronts:8.2f}{cost.sectors:8.2f}")


if __name__ == "__main__":
    main()
