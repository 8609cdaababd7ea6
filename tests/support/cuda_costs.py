"""What the compiled CUDA kernels execute, against what is stored in cuda_costs.json.

python tests/support/cuda_costs.py              compares; non-zero exit where something has grown
python tests/support/cuda_costs.py --update     stores
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import gpu_cost_compile, gpu_cost_model, gpu_cost_ops, gpu_cost_run

STORED = Path(__file__).with_suffix(".json")
CASES = [("t-x4 320x180", "fp16"), ("t-x2 1920x1080", "fp16"), ("b-x4 320x180", "fp16")]
BLOCKS = 24
SLACK = 1.001
"""For sums in another order; registers must not grow at all."""

Figures = dict[str, tuple[float, float, int]]


def stored() -> tuple[str, Figures]:
    """The version of nvcc, and by case and kernel: warp instructions and wavefronts of shared memory per
    pixel, registers."""
    found = json.loads(STORED.read_text())
    return found["nvcc"], {
        name: (wi, wf, registers) for name, (wi, wf, registers) in found["figures"].items()
    }


def count() -> Figures:
    """Today's, of an H100. Raises FileNotFoundError where a tool is missing."""
    found: Figures = {}

    def add(name: str, cost: gpu_cost_run.Cost) -> None:
        figures = round(cost.instructions, 3), round(cost.shared_wavefronts, 3), cost.registers
        before = found.get(name, figures)
        found[name] = max(before[0], figures[0]), max(before[1], figures[1]), max(before[2], figures[2])

    for text, precision in CASES:
        case = gpu_cost_run.parse(text, precision)
        for cost in gpu_cost_run.costs_on(case, gpu_cost_model.CARDS["H100"], BLOCKS):
            add(f"{text} {precision} {cost.kernel}", cost)
    for operator, operator_case in gpu_cost_ops.CASES.items():
        for precision in ("fp32", "fp16"):
            for direction, costs in gpu_cost_ops.count(operator_case, precision).items():
                for cost in costs:
                    add(f"{operator} {precision} {direction} {cost.kernel}", cost)
    return found


def grown(before: Figures, now: Figures) -> list[str]:
    """A line for each figure that is larger than before, or of which nothing is stored."""
    lines = []
    for name, figures in now.items():
        if name not in before:
            lines.append(f"{name}: not stored")
            continue
        for what, old, new in zip(
            ("wi/px", "wavefronts/px", "registers"), before[name], figures, strict=True
        ):
            if new > old * (1 if what == "registers" else SLACK):
                lines.append(f"{name}: {what} {old} -> {new}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true")
    now = count()
    if parser.parse_args().update:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(figures)}" for name, figures in now.items())
        version = json.dumps(gpu_cost_compile.nvcc_version())
        STORED.write_text(f'{{"nvcc": {version}, "figures": {{\n{lines}\n}}}}\n')
        return 0
    worse = grown(stored()[1], now)
    print("\n".join(worse))
    return bool(worse)


if __name__ == "__main__":
    sys.exit(main())
