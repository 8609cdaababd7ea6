"""What the CUDA kernels cost on GPUs that are not here: counted on their compiled code, times modelled.

python benchmarks/gpu_cost.py [--case "t-x4 320x180" --precision fp16 --card H100]

Compiles the kernels (nvcc, ptxas, nvdisasm), runs a sample of each launch's blocks in the simulator from
their PTX, and weighs the executed lines with the machine code. wi/px: warp instructions per pixel of the
input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_cost_run as run
from benchmarks.gpu_cost_weigh import CLASSES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", default=["t-x4 320x180"], help="as in: t-x4 320x180")
    parser.add_argument("--precision", nargs="+", default=["fp16"])
    parser.add_argument("--card", nargs="+", default=["H100"])
    parser.add_argument("--blocks", type=int, default=24, help="that are run of each launch")
    args = parser.parse_args()
    for precision in args.precision:
        for card in args.card:
            for case in args.case:
                show(case, precision, card, run.costs(case, precision, run.CARDS[card], args.blocks))


def show(case: str, precision: str, card: str, costs: list[run.Cost]) -> None:
    print(f"{case} {precision} {card}: per input pixel")
    columns = (
        "blocks",
        "regs",
        "shared",
        "wi",
        *CLASSES,
        "lds wf",
        "/ideal",
        "ldg wf",
        "/ideal",
        "sectors",
        "mma",
    )
    print(f"{'kernel':10}" + "".join(f"{name[:7]:>8}" for name in columns))
    for c in costs:
        exact = f"{c.kernel:10}{c.grid:8}{c.registers:8}{c.shared:8}"
        figures = (c.instructions, *(c.classes[name] for name in CLASSES))
        memory = (c.shared_wavefronts, c.shared_ratio, c.global_wavefronts, c.global_ratio, c.sectors, c.mma)
        print(exact + "".join(f"{x:8.1f}" for x in figures) + "".join(f"{x:8.2f}" for x in memory))
    group = sum(c.instructions for c in costs if c.kernel in run.GROUP)
    print(f"group: {group:.0f} wi/px")


if __name__ == "__main__":
    main()
