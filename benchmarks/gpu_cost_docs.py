"""docs/cuda-engine.md's tables of counted work and modelled times, the plot beside them, and the predictions
that benchmarks/contact/report.py puts beside what a GPU measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.contact.report import PREDICTED
from benchmarks.gpu_cost_weigh import CLASSES

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, IMAGE = DOCS / "cuda-engine.md", DOCS / "images/gpu-cost.svg"
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"

Row = dict[str, Any]


def write(cases: list[Row], kernels: list[Row]) -> None:
    """Rows of gpu_cost.py: all cards' cases; the kernels of the first card alone, but for predictions.

    Raises ModuleNotFoundError without matplotlib.
    """
    card = kernels[0]["card"]
    first = _first_of_each([row for row in kernels if row["card"] == card])
    text = PAGE.read_text()
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{_times(cases)}\n\n{_counts(first)}\n{END}{tail}")
    _plot(first)
    PREDICTED.write_text(_predictions(cases, kernels))


def _first_of_each(kernels: list[Row]) -> list[Row]:
    """Of each variant and precision the kernels of its first case."""
    found: dict[tuple[str, ...], Row] = {}
    for row in kernels:
        found.setdefault((row["variant"], row["precision"], row["kernel"]), row)
    return list(found.values())


def _times(cases: list[Row]) -> str:
    cards = list(dict.fromkeys(row["card"] for row in cases))
    lines = [
        "| modelled ms | precision | "
        + " | ".join(cards)
        + f" | floors on {cards[0]}: issue, LSU, tensor, DRAM, L2 "
        f"| eager, torch.compile on {cards[0]} |",
        "|---" * (len(cards) + 4) + "|",
    ]
    found: dict[str, dict[str, Row]] = {}
    for row in cases:
        name = f"{row['variant']} x{row['scale']} {row['size']} | {row['precision']}"
        found.setdefault(name, {})[row["card"]] = row
    for name, by_card in found.items():
        times = " | ".join(f"{by_card[card]['modelled_ms']:.2f}" if card in by_card else "" for card in cards)
        row = by_card[cards[0]]
        names = ("issue", "lsu", "tensor", "dram", "l2")
        floors = ", ".join(f"{row[f'{name}_floor_ms']:.2f}" for name in names)
        pytorch = f"{row['eager_modelled_ms']:.2f}, {row['compile_modelled_ms']:.2f}"
        lines.append(f"| {name} | {times} | {floors} | {pytorch} |")
    return "\n".join(lines)


def _counts(kernels: list[Row]) -> str:
    lines = [
        f"| {kernels[0]['card']}, per input pixel | wi | wavefronts (of which conflicts) | lines | `mma` "
        "| registers | blocks per SM | waves |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in kernels:
        name = f"{row['variant']} {row['size']} {row['precision']} `{row['kernel']}`"
        wavefronts = row["shared_wavefronts_per_px"]
        conflicts = wavefronts * (1 - 1 / row["bank_conflicts"])
        lines.append(
            f"| {name} | {row['wi_per_px']:.0f} | {wavefronts:.1f} ({conflicts:.1f}) "
            f"| {row['global_lines_per_px']:.1f} | {row['mma_per_px']:.1f} | {row['registers']} "
            f"| {row['blocks_per_multiprocessor']} | {row['waves']:.2f} |"
        )
    return "\n".join(lines)


def _predictions(cases: list[Row], kernels: list[Row]) -> str:
    """In fp16, a line to a row, four digits to a figure; without the classes of instructions."""

    def lines(rows: list[Row]) -> str:
        short = [
            {k: float(f"{x:.4g}") if isinstance(x, float) else x for k, x in row.items() if k != "classes"}
            for row in rows
            if row["precision"] == "fp16"
        ]
        return ",\n".join(f"  {json.dumps(row)}" for row in short)

    return f'{{\n "cases": [\n{lines(cases)}\n ],\n "kernels": [\n{lines(kernels)}\n ]\n}}\n'


def _plot(kernels: list[Row]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "gpu-cost"
    names = [f"{row['variant']} {row['precision']} {row['kernel']}" for row in kernels]
    figure, axes = pyplot.subplots(figsize=(9, 0.3 * len(names) + 1.4), layout="constrained")
    left = [0.0] * len(names)
    for i, kind in enumerate(CLASSES):
        widths = [row["classes"][kind] for row in kernels]
        axes.barh(names, widths, left=left, label=kind, color=pyplot.cm.tab10(i))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(f"warp instructions per input pixel, counted on code compiled for {kernels[0]['card']}")
    axes.legend(fontsize="small")
    figure.savefig(IMAGE, metadata={"Date": None})
