"""What each launch leaves in the workspace and the output, beside what the simulator's leaves.

python -m benchmarks.contact.launches compare PRECISION [--rows FILE]      on a GPU
python -m benchmarks.contact.launches write                                here, after kernels have changed

A network of one layer runs up to its first launch, its second, and so on, from memory that holds NaN.  The
simulator's values travel as launches/PRECISION.npz, under the plan of an H100 or H200; so the first row above
its gate names the kernel, the part of the workspace and the place that went wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contact import rows
from benchmarks.contact.bare import Bare, network, picture
from benchmarks.contact.rows import Row
from seemore_fast.backends import native
from seemore_fast.engines import cuda_engine

FOLDER = Path(__file__).with_name("launches")

KERNELS = ("head_product", "rme", "coarse", "mix_ffn", "sme11", "ffn", "conv", "upsample")
"""In the order of their launches."""

SIZE = (17, 33)
PRETENDED = (132, 227 << 10)  # multiprocessors, and bytes of shared memory of a block

GATES = {"fp32": 1e-5, "tf32": 1e-3, "fp16": 1e-3, "bf16": 8e-3}
"""Relative L2 error of a part: a rounding that fell otherwise here and there, and what came of it."""

_FLOATS = ("low", "partial", "weight", "bias")
"""Parts in float32 whatever the precision; the others hold activations."""

Part = tuple[str, int, int]  # name, where it begins, bytes


class Stages:
    """The network after each launch: values of the output and of each part, float32; NaN: not written."""

    def __init__(self, lib: ModuleType, precision: str, device: str):
        self._bare = Bare(lib, network(1), precision, device)
        self._x = picture(*SIZE)
        self.parts: list[Part] = self._bare.native.parts(1, *SIZE)

    def after(self, launches: int) -> dict[str, Tensor]:
        """By name of the part, flat; "output" among them."""
        out, workspace = self._bare.run(self._x, launches, poison=True)
        found = {}
        for name, at, size in self.parts:
            dtype = torch.float32 if name in _FLOATS else self._bare.dtype
            found[name] = workspace[at : at + size].view(dtype).float()
        return {**found, "output": out.float().flatten()}


def record(lib: ModuleType, precision: str) -> dict[str, Any]:
    """What `compare` wants, from a simulator: parts as JSON, and what each launch has changed, float32."""
    stages = Stages(lib, precision, "cpu")
    arrays: dict[str, Any] = {"parts": json.dumps(stages.parts)}
    before: dict[str, Tensor] = {}
    for number in range(1, len(KERNELS) + 1):
        now = stages.after(number)
        for name, values in now.items():
            if not torch.equal(values.nan_to_num(7e7), before.get(name, torch.nan * values).nan_to_num(7e7)):
                arrays[f"{number} {name}"] = _shortened(values, _kept(name, precision))
        before = now
    return arrays


def _kept(name: str, precision: str) -> int:
    """Bits of the fraction that matter beside the gate; the others become zero, which files compress."""
    if precision == "fp32":
        return 20
    return 14 if name in _FLOATS or precision == "tf32" else {"fp16": 10, "bf16": 7}[precision]


def _shortened(values: Tensor, kept: int) -> np.ndarray[Any, Any]:
    bits = values.numpy().view(np.uint32).astype(np.uint64)
    half = np.uint64(1 << (22 - kept))
    rounded = np.where(np.isnan(values.numpy()), bits, (bits + half) & ~np.uint64(2 * int(half) - 1))
    return rounded.astype(np.uint32).view(np.float32)


def compare(stages: Stages, precision: str, known: dict[str, Any]) -> Iterator[Row]:
    """A row for each launch, of the part that it has written and that is furthest off.

    Also looked at is what earlier launches have written and this one must leave alone.  Parts of another
    size, where the GPU's plan is another, are named.
    """
    here = {name: size for name, _, size in stages.parts}
    there = {name: size for name, _, size in json.loads(str(known["parts"]))}
    other = sorted(name for name in there if here.get(name) != there[name])
    want: dict[str, Tensor] = {}
    for number, kernel in enumerate(KERNELS, 1):
        changed = {key.split(" ", 1)[1]: key for key in known if key.startswith(f"{number} ")}
        changed = {name: key for name, key in changed.items() if name not in other}
        want |= {name: torch.from_numpy(known[key]) for name, key in changed.items()}
        row: Row = {"launch": number, "kernel": kernel, "precision": precision, "gate": GATES[precision]}
        try:
            got = stages.after(number)
        except Exception as error:
            yield row | {"failed": rows.first_line(error), "passed": False}
            continue
        errors = {name: _error(got[name], values) for name, values in want.items()}
        wrong = [name for name in errors if errors[name] > GATES[precision]]
        worst = max(wrong or changed, key=lambda name: errors[name])
        row |= {"part": worst, "error": errors[worst], "passed": errors[worst] <= GATES[precision]}
        if not row["passed"]:
            row["where"] = _where(worst, got[worst], want[worst], GATES[precision])
        yield row | ({"other_size": other} if other else {})


def _error(got: Tensor, want: Tensor) -> float:
    """Relative, L2, of what the simulator has written; infinite where that is not finite here."""
    written = ~want.isnan()
    difference = (got - want)[written].double()
    error = float(difference.norm() / want[written].double().norm().clamp(min=1e-30))
    return error if np.isfinite(error) else float("inf")


def _where(name: str, got: Tensor, want: Tensor, gate: float) -> str:
    """How many values are off, and the first of them."""
    rms = want[~want.isnan()].square().mean().sqrt()
    wrong = ~((got - want).abs() <= 10 * gate * rms) & ~want.isnan()
    places = wrong.nonzero().flatten().tolist()
    if not places:
        return "a little everywhere"
    height, width = SIZE
    first, at = places[0], f"at {places[0]}"
    if want.numel() % (height * width) == 0 and name != "output":
        channels = want.numel() // (height * width)
        pixel = first // channels
        at = f"at row {pixel // width}, column {pixel % width}, channel {first % channels}"
    values = f"{float(got[first]):.6g} for {float(want[first]):.6g}"
    return f"{len(places)} of {want.numel()} values, the first {at}: {values}"


def load(precision: str) -> dict[str, Any]:
    with np.load(FOLDER / f"{precision}.npz") as file:
        return dict(file)


def tell(row: Row) -> str:
    said = f"{row['precision']} launch {row['launch']} {row['kernel']:12} "
    if "failed" in row:
        return f"{said} FAILED: {row['failed']}"
    said += f"{row['part']} off by {row['error']:.1e} ({row['gate']:.0e} let through)"
    return said if row["passed"] else f"{said} WRONG: {row['where']}"


def write() -> None:
    from tests.support import cudasim

    lib = cudasim.library()
    lib.pretend(*PRETENDED)
    lib.configure(1, True)
    FOLDER.mkdir(exist_ok=True)
    for precision in cuda_engine.PRECISIONS:
        np.savez_compressed(FOLDER / f"{precision}.npz", **record(lib, precision))
        print(precision, (FOLDER / f"{precision}.npz").stat().st_size >> 10, "KB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["compare", "write"])
    parser.add_argument("precision", nargs="?", choices=cuda_engine.PRECISIONS)
    parser.add_argument("--rows", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.what == "write":
        write()
        return 0
    torch.zeros(1).cuda()
    right = True
    for row in compare(
        Stages(native.require(), given.precision, "cuda"), given.precision, load(given.precision)
    ):
        if given.rows:
            rows.append(given.rows, row)
        print(tell(row), flush=True)
        right &= row["passed"]
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
