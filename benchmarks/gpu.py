"""What benchmarks/gpu.sh measures of the Triton kernels, as a table and rows of JSON.

python benchmarks/gpu.py environment --rows FILE    versions, GPU, commit
python benchmarks/gpu.py ops --rows FILE            each op, forward and with backward, against PyTorch's
composition
python benchmarks/gpu.py step --rows FILE           a training step against eager
python benchmarks/gpu.py train --rows FILE          the same against torch.compile, too, and larger networks

Times are medians; the L2 cache is flushed before each call of an op, whose error stands beside them.  Rows
are appended as they come.  Nothing but PyTorch and Triton is needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from seemore_fast.measure.peers import steps
from seemore_fast.network.accuracy import relative_l2

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.contact import rows
from benchmarks.contact.rows import Row
from tests.support.operators import CASES, Case, normal

ROOT = Path(__file__).parents[1]
SHAPE = (32, 48, 64, 64)
"""Of the ops' input: SeemoRe-B, a training batch."""


def environment() -> Iterator[Row]:
    try:
        command = ["git", "-C", ROOT, "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:  # no git
        commit = ""
    properties = torch.cuda.get_device_properties(0)
    yield {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "commit": commit.strip(),
    }


def ops() -> Iterator[Row]:
    for dtype in (torch.float32, torch.bfloat16):
        for case in CASES:
            row = {"op": str(case), "dtype": str(dtype)[6:]}
            try:
                yield row | op(case, dtype)
            except Exception as error:  # the others can still be measured
                yield row | {"failed": repr(error)[:200]}


def op(case: Case, dtype: torch.dtype) -> Row:
    """Milliseconds of forward and of forward and backward, and the worst relative error of a gradient."""
    inputs = case.inputs(SHAPE, dtype, torch.float32, normal)
    inputs = [value.cuda() if isinstance(value, Tensor) else value for value in inputs]
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    grad = torch.randn(SHAPE, device="cuda", dtype=dtype)
    plain = import_module(f"seemore_fast.ops.{case.name}").reference
    kernels = import_module(f"seemore_fast.kernels.{case.name}")

    def ours() -> list[Tensor]:
        _, *saved = kernels.forward(*inputs)
        return kernels.backward(grad, *saved, *inputs, [True] * len(tensors))

    def theirs() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = plain(*leaves, *inputs[len(leaves) :])[0]
        return list(torch.autograd.grad(out, leaves, grad, materialize_grads=True))

    error = max(relative_l2(a, b) for a, b in zip(ours(), theirs(), strict=True))
    with torch.no_grad():
        forward = {"ours": bench(lambda: kernels.forward(*inputs)), "eager": bench(lambda: plain(*inputs))}
    return {"forward": forward, "both": {"ours": bench(ours), "eager": bench(theirs)}, "error": error}


def step() -> Iterator[Row]:
    """What `train` measures of T, without torch.compile."""
    yield from train(("t-x4",), tuple(name for name in steps.CONTENDERS if name != "torch.compile"))


def train(
    variants: tuple[str, ...] = ("t-x4", "b-x4"), contenders: tuple[str, ...] = steps.CONTENDERS
) -> Iterator[Row]:
    """A training step of 32 patches of 64 x 64, as `seemore-fast bench --train` measures it."""
    for variant in variants:
        for dtype in ("fp32", "bf16"):
            row = {"model": variant, "dtype": dtype}
            try:
                for result in steps.run(variant, 32, 64, dtype, 10, "cuda", names=contenders).results:
                    yield row | asdict(result)
            except Exception as error:  # the others can still be measured
                yield row | {"failed": repr(error)[:200]}
            torch._dynamo.reset()


def bench(call: Callable[[], Any]) -> float:
    return triton.testing.do_bench(call, warmup=10, rep=50, return_mode="median")


def print_row(row: Row) -> None:
    print(
        "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["environment", "ops", "step", "train"])
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here")
    what = {"environment": environment, "ops": ops, "step": step, "train": train}
    for row in what[arguments.what]():
        rows.append(arguments.rows, row)
        print_row(row)


if __name__ == "__main__":
    main()
