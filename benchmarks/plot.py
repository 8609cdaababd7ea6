"""Draws docs/images/performance-*.svg, and the tables of docs/performance.md, from the JSON of a processor.

Called by benchmarks/performance.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot, ticker

DOCS = Path(__file__).resolve().parents[1] / "docs"
CURVE = "t-x4"

Measured = dict[str, Any]  # one case: model, size, results

COLOURS = {
    "seemore-fast fp32": "#c1272d",
    "seemore-fast bf16": "#f08a4b",
    "PyTorch": "#4d4d4d",
    "PyTorch NHWC": "#999999",
    "torch.compile": "#2d6a4f",
    "ONNX Runtime": "#1d6fa5",
    "OpenVINO f32": "#6a4c93",
    "OpenVINO bf16": "#b39bc8",
}


def draw(folder: Path) -> None:
    """Reads every JSON file of ``folder``; rewrites the images and what is between the page's markers.

    Where there are files of one kind only, networks or training steps, the other's part stays.
    """
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    steps = [file for file in files if "patch" in file["settings"]]
    if steps:
        _replace("trained", [_machine(steps), _steps_table(steps)])
    if networks := [file for file in files if file not in steps]:
        _draw_networks(networks)


def _draw_networks(files: list[dict[str, Any]]) -> None:
    cases = sorted((case for file in files for case in file["cases"]), key=lambda c: (c["gmacs"], c["model"]))
    curve = [case for case in cases if case["model"] == CURVE]
    pyplot.rcParams.update({"svg.hashsalt": "seemore-fast", "font.size": 10, "axes.spines.top": False})
    (DOCS / "images").mkdir(exist_ok=True)
    images = [
        _bars(
            cases, "floor", "share of the processor's fp32 peak", lambda r: _times(100, r["floor_share"]), "%"
        ),
        _bars(cases, "memory", "peak memory, bytes per input pixel", lambda r: r["bytes_per_pixel"], ""),
    ]
    sections = [_machine(files), *(_table(case) for case in cases if _of_table(case))]
    if len(curve) > 1:
        images.append(_time_by_size(curve))
        sections.append(_curve_table(curve))
    _replace("measured", sections + images)


def _replace(part: str, sections: list[str]) -> None:
    """Puts the sections between the page's markers of this part."""
    page, begin, end = DOCS / "performance.md", f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    text = page.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text("\n".join([f"{before}{begin}", *sections, f"{end}{after}"]))


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _pixels(case: Measured) -> int:
    return case["size"][0] * case["size"][1]


def _size(case: Measured) -> str:
    return f"{case['size'][0]}x{case['size'][1]}"


# ---- Plots -----------------------------------------------------------------------------------------------


def _time_by_size(curve: list[Measured]) -> str:
    figure, axes = pyplot.subplots(figsize=(7.5, 3.6))
    for name, colour in COLOURS.items():
        points = [(_pixels(c), _value(c, name, lambda r: r["median_ms"])) for c in curve]
        points = [(pixels, 1e3 * ms / pixels) for pixels, ms in points if ms is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
    axes.set(
        xscale="log", yscale="log", ylabel="microseconds per input pixel", title=f"{CURVE}, by input size"
    )
    axes.set_xticks([_pixels(case) for case in curve], [_size(case) for case in curve], rotation=20)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.25)
    return _save(figure, axes, "time")


def _bars(
    cases: list[Measured], image: str, title: str, value: Callable[[dict[str, Any]], float | None], unit: str
) -> str:
    """A group of bars for each case of the table, one for each contender that has a value."""
    cases = [case for case in cases if _of_table(case)]
    names = [name for name in COLOURS if any(_value(case, name, value) is not None for case in cases)]
    figure, axes = pyplot.subplots(figsize=(7.5, 3.6))
    width = 0.85 / max(1, len(names))
    for i, name in enumerate(names):
        found = [(at, v) for at, case in enumerate(cases) if (v := _value(case, name, value)) is not None]
        at, heights = zip(*found, strict=True)
        middle = i - (len(names) - 1) / 2
        axes.bar([a + middle * width for a in at], heights, width, color=COLOURS[name], label=name)
    axes.set(title=title)
    axes.set_xticks(range(len(cases)), [f"{case['model']}\n{_size(case)}" for case in cases])
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}{unit}")
    axes.grid(axis="y", alpha=0.25)
    return _save(figure, axes, image)


def _value(case: Measured, name: str, value: Callable[[dict[str, Any]], float | None]) -> float | None:
    found = [result for result in case["results"] if result["name"] == name]
    return value(found[0]) if found else None


def _save(figure: Any, axes: Any, image: str) -> str:
    """Writes the image; returns what shows it in the page."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    figure.tight_layout()
    # No date: the same figures give the same file.
    figure.savefig(DOCS / "images" / f"performance-{image}.svg", metadata={"Date": None})
    pyplot.close(figure)
    return f"![{axes.get_title()}](images/performance-{image}.svg)\n"


# ---- The page --------------------------------------------------------------------------------------------


def _of_table(case: Measured) -> bool:
    """Whether the output is 1280x720: the sizes that papers give times for."""
    return (
        case["size"][0] * int(case["model"][-1]) == 1280 and case["size"][1] * int(case["model"][-1]) == 720
    )


def _machine(files: list[dict[str, Any]]) -> str:
    newest = max(files, key=lambda file: file["date"])
    found, others = newest["environment"], newest["settings"].get("peers", {})
    versions = {name: found["versions"][name] for name in ("python", "torch")} | others
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    days = sorted({file["date"][:10] for file in files})
    return (
        f"{found['cpu']}, {newest['settings']['threads']} threads, ISA {found['native']['isa']}.\n"
        f"Versions: {software}. Measured on {', '.join(days)}.\n"
    )


def _curve_table(curve: list[Measured]) -> str:
    sizes = " | ".join(_size(case) for case in curve)
    lines = [f"### {CURVE} by input size, ms", "", f"| | {sizes} |", "|---" * (len(curve) + 1) + "|"]
    for name in COLOURS:
        cells = [_number(_value(case, name, lambda r: r["median_ms"])) for case in curve]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _table(case: Measured) -> str:
    lines = [
        f"### {case['model']}, input {_size(case)}",
        "",
        f"{case['gmacs']:.1f} GMAC; fp32 peak in this run {case['peak_gflops'] or float('nan'):.0f} GFLOP/s.",
        "",
        "| | median ms | min..max | ours faster by | of peak | bytes per pixel | rel L2 | max error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in case["results"]:
        if r["error"] is not None:
            lines.append(f"| {r['name']} | {r['error']} | | | | | | |")
            continue
        cells = [
            _number(r["median_ms"]),
            f"{_number(r['min_ms'])}..{_number(r['max_ms'])}",
            "" if r["ratio"] is None or r["name"].startswith("seemore-fast") else f"{r['ratio']:.2f}",
            "" if r["floor_share"] is None else f"{r['floor_share']:.0%}",
            "" if r["bytes_per_pixel"] is None else f"{r['bytes_per_pixel']:.0f}",
            ("" if r["passed"] else "**above its gate** ") + f"{r['rel_l2'] or float('nan'):.1e}",
            f"{r['max_abs'] or float('nan'):.1e}",
        ]
        lines.append(f"| {r['name']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _steps_table(files: list[dict[str, Any]]) -> str:
    found = [(case, file["settings"]) for file in files for case in file["cases"]]
    lines = [
        "| | | median ms | forward, backward | ours faster by | of peak | MB | rel L2 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, settings in sorted(found, key=lambda pair: pair[0]["gmacs"]):
        patches = f"{settings['batch']} x {settings['patch']}x{settings['patch']}"
        what = f"{case['model']}, {patches}: {case['gmacs']:.0f} GMAC, peak {case['peak_gflops']:.0f} GFLOP/s"
        for r in reversed(case["results"]):
            ours = r["name"].startswith("seemore-fast")
            cells = [
                what if ours else "",
                r["name"],
                _number(r["median_ms"]),
                f"{_number(r['forward_ms'])}, {_number(r['backward_ms'])}",
                "" if r["ratio"] is None or ours else f"{r['ratio']:.2f}",
                "" if r["floor_share"] is None else f"{r['floor_share']:.0%}",
                "" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 1e6:.0f}",
                ("" if r["passed"] else "**above its gate** ") + f"{r['rel_l2']:.1e}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _number(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"
