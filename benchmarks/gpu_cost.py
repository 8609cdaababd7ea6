"""What the CUDA kernels cost on GPUs that are not here: counted on their compiled code, times modelled.

python benchmarks/gpu_cost.py                                      the cases of docs/cuda-engine.md, fp16
python benchmarks/gpu_cost.py --case "t-x4 320x180" --card H100    one, kernel by kernel
python benchmarks/gpu_cost.py --json FILE                          the same, for programs
python benchmarks/gpu_cost.py --docs                               writes that page's tables, its plot, and
                                                                   contact/predicted.json

Compiles the kernels (nvcc, ptxas, nvdisasm), runs a sample of each launch's blocks in the simulator from
their PTX, and weighs the executed lines with the machine code. wi/px: warp instructions per pixel of the
input; wf: wavefronts of shared memory; times: floors, and modelled at 65 % of the issue rate.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import gpu_cost_docs
from benchmarks import gpu_cost_model as model
from benchmarks import gpu_cost_run as run
from benchmarks.gpu_cost_docs import Row
from benchmarks.gpu_cost_weigh import CLASSES

CASES = (
    "t-x4 320x180", "t-x4 640x360", "t-x4 960x540", "t-x2 1920x1080",
    "b-x4 320x180", "b-x4 960x540", "b-x2 640x360", "l-x4 960x540",
)  # fmt: skip

BUT_FP16 = ("t-x4 320x180", "t-x4 960x540", "b-x4 320x180")
"""Of other precisions that page has these, and all cards for T in fp16 alone."""


def documented() -> Iterator[tuple[str, str, Sequence[str]]]:
    """Of docs/cuda-engine.md: precision, case, cards."""
    for precision in ("fp16", "bf16", "fp32", "tf32"):
        for text in CASES if precision == "fp16" else BUT_FP16:
            all_cards = precision == "fp16" and text.startswith("t")
            yield precision, text, [*model.CARDS] if all_cards else ["H100", "H200"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", nargs="+", default=CASES, help="as in: 't-x4 320x180'")
    parser.add_argument("--precision", nargs="+", default=["fp16"], help="fp32, tf32, fp16, bf16")
    parser.add_argument("--card", nargs="+", default=[*model.CARDS], choices=[*model.CARDS])
    parser.add_argument("--blocks", type=int, default=24, help="that are run of each launch")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true")
    args = parser.parse_args()
    asked = [(precision, text, args.card) for precision in args.precision for text in args.case]
    cases, kernels = [], []
    for precision, text, cards in documented() if args.docs else asked:
        case = run.parse(text, precision)
        for name in cards:
            costs = run.costs_on(case, model.CARDS[name], args.blocks)
            memory = run.memory_of(case, model.CARDS[name], costs)
            rows = [kernel_row(name, case, *pair) for pair in zip(costs, memory, strict=True)]
            cases.append(case_row(name, case, costs, memory))
            kernels += rows
            show(cases[-1], rows)
            if args.json:
                args.json.write_text(json.dumps({"cases": cases, "kernels": kernels}, indent=1) + "\n")
    if args.docs:
        gpu_cost_docs.write(cases, kernels)


def case_row(card: str, case: run.Case, costs: list[run.Cost], memory: list[float]) -> Row:
    """The whole network: its first launch, its groups', its last two; ``memory``: bytes that each moves."""
    head, group, tail = costs[:1], costs[1:-2], costs[-2:]
    on = model.CARDS[card]
    floors, modelled = model.total(
        (case.layers if cost in group else 1, model.floors(cost.work(case.pixels, moved), on))
        for cost, moved in zip(costs, memory, strict=True)
    )
    pytorch = {
        f"{how}_modelled_ms": model.pytorch(how, case.pixels, case.channels, case.layers, on, case.element)
        for how in model.PLANES
    }
    return {
        "card": card,
        "variant": case.variant,
        "scale": case.scale,
        "size": case.size,
        "precision": case.precision,
        "group_wi_per_px": sum(c.instructions for c in group),
        "head_wi_per_px": sum(c.instructions for c in head),
        "tail_wi_per_px": sum(c.instructions for c in tail),
        "group_wavefronts_per_px": sum(c.shared_wavefronts for c in group),
        "issue_floor_ms": floors.issue,
        "lsu_floor_ms": floors.lsu,
        "tensor_floor_ms": floors.tensor,
        "dram_floor_ms": floors.dram,
        "l2_floor_ms": floors.l2,
        "modelled_ms": modelled,
        **pytorch,
    }


def kernel_row(card: str, case: run.Case, cost: run.Cost, moved: float) -> Row:
    work, on = cost.work(case.pixels, moved), model.CARDS[card]
    together, floors = model.resident(work, on), model.floors(work, on)
    return {
        "card": card,
        "variant": case.variant,
        "scale": case.scale,
        "size": case.size,
        "precision": case.precision,
        "kernel": cost.kernel,
        "blocks": cost.blocks,
        "threads": cost.threads,
        "blocks_per_multiprocessor": together,
        "waves": cost.blocks / (together * on.multiprocessors),
        "registers": cost.registers,
        "shared_bytes": cost.shared,
        "wi_per_px": cost.instructions,
        "classes": {name: cost.classes[name] for name in CLASSES},
        "shared_wavefronts_per_px": cost.shared_wavefronts,
        "bank_conflicts": cost.shared_wavefronts / cost.shared_ideal if cost.shared_ideal else 1.0,
        "global_lines_per_px": cost.global_wavefronts,
        "sectors_per_px": cost.sectors,
        "mma_per_px": cost.mma,
        "issue_floor_ms": floors.issue,
        "lsu_floor_ms": floors.lsu,
        "tensor_floor_ms": floors.tensor,
        "dram_floor_ms": floors.dram,
        "l2_floor_ms": floors.l2,
        "modelled_ms": floors.modelled,
    }


def show(case: Row, kernels: list[Row]) -> None:
    print(
        f"\n{case['variant']} x{case['scale']} {case['size']} {case['precision']} on {case['card']}, modelled"
    )
    counts = ("wf/px", "conflict", "lines", "sectors", "mma", "ms")
    columns = ("blocks", "/sm", "waves", "regs", "shared", "wi/px", *CLASSES, *counts)
    print(f"{'':9}" + "".join(f"{name[:7]:>8}" for name in columns))
    for k in kernels:
        whole = (k["blocks"], k["blocks_per_multiprocessor"])
        print(f"{k['kernel']:9}" + "".join(f"{x:8}" for x in whole) + f"{k['waves']:8.2f}", end="")
        print(f"{k['registers']:8}{k['shared_bytes']:8}{k['wi_per_px']:8.1f}", end="")
        print("".join(f"{k['classes'][name]:8.1f}" for name in CLASSES), end="")
        print(f"{k['shared_wavefronts_per_px']:8.1f}{k['bank_conflicts']:8.2f}", end="")
        print(f"{k['global_lines_per_px']:8.1f}{k['sectors_per_px']:8.1f}{k['mma_per_px']:8.2f}", end="")
        print(f"{k['modelled_ms']:8.3f}")
    print(
        "group {group_wi_per_px:.0f} wi/px, {group_wavefronts_per_px:.0f} wf/px; head {head_wi_per_px:.0f}, "
        "tail {tail_wi_per_px:.0f} wi/px; floors: issue {issue_floor_ms:.3f} ms, LSU {lsu_floor_ms:.3f}, "
        "tensor {tensor_floor_ms:.3f}, DRAM {dram_floor_ms:.3f}, L2 {l2_floor_ms:.3f}; "
        "modelled {modelled_ms:.3f} ms, eager {eager_modelled_ms:.2f}, "
        "torch.compile {compile_modelled_ms:.2f}".format(**case),
        flush=True,
    )


if __name__ == "__main__":
    main()
