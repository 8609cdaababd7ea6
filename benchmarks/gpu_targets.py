"""Which of the CUDA engine's targets for an H200 are met, by what benchmarks/gpu.sh has measured.

A target whose figures are not all there is "unmeasured"; an error above its gate meets none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contact import rows

MOST_MS = {
    "t-x4 320x180": 0.24,
    "t-x4 960x540": 1.6,
    "b-x4 320x180": 0.38,
    "b-x4 960x540": 2.7,
    "b-x2 640x360": 1.2,
    "l-x4 960x540": 5.3,
}
"""The upper ends of what was modelled for float16, L2 cold."""

LARGE = ("t-x4 960x540", "b-x4 960x540", "l-x4 960x540", "t-x2 1920x1080")

OURS, EAGER, COMPILED = "ours fp16", "eager fp32", "autotuned fp16"
EAGER_16 = "eager fp16 channels_last"


class Measured:
    """Rows of both files that are within their gates; a figure that is not there is a KeyError."""

    def __init__(self, folder: Path):
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        for name in ("times", "autotuned"):
            for row in rows.read(folder / f"{name}.jsonl"):
                if row.get("contender") and row.get("passed"):
                    self._rows[row["case"], row["contender"]] = row

    def get(self, case: str, contender: str, key: str) -> float:
        return self._rows[case, contender][key]

    def speedup(self, over: str) -> float:
        """Geometric mean over the cases in which both have a time."""
        both = [case for case, contender in self._rows if contender == over]
        ratios = [
            self.get(case, over, "cold_ms") / self.get(case, OURS, "cold_ms")
            for case in both
            if all("cold_ms" in self._rows.get((case, name), {}) for name in (over, OURS))
        ]
        if not ratios:
            raise KeyError(over)
        return math.exp(sum(map(math.log, ratios)) / len(ratios))


def targets(found: Measured) -> list[dict[str, Any]]:
    """What is wanted, what was found (None: not measured), and whether that is met."""
    found_rows: list[dict[str, Any]] = []

    def add(what: str, wanted: str, met: Callable[[float], bool], figure: Callable[[], float]) -> None:
        try:
            value = figure()
        except KeyError:
            found_rows.append({"target": what, "wanted": wanted, "found": None, "met": None})
        else:
            found_rows.append({"target": what, "wanted": wanted, "found": value, "met": met(value)})

    for case, most in MOST_MS.items():
        add(
            f"{case}, ms",
            f"<= {most}",
            lambda ms, most=most: ms <= most,
            lambda case=case: found.get(case, OURS, "cold_ms"),
        )
    add("speed-up over eager fp32", ">= 8", lambda ratio: ratio >= 8, lambda: found.speedup(EAGER))
    add("speed-up over autotuned fp16", ">= 3", lambda ratio: ratio >= 3, lambda: found.speedup(COMPILED))
    for case in LARGE:
        add(
            f"{case}, share of floor",
            ">= 0.6",
            lambda share: share >= 0.6,
            lambda case=case: found.get(case, OURS, "share_of_floor"),
        )
        add(
            f"{case}, memory by eager fp16's",
            "<= 0.25",
            lambda ratio: ratio <= 0.25,
            lambda case=case: found.get(case, OURS, "peak_mb") / found.get(case, EAGER_16, "peak_mb"),
        )
    add(
        "t-x2 1920x1080, images/s",
        ">= 200",
        lambda rate: rate >= 200,
        lambda: 1e3 / found.get("t-x2 1920x1080", OURS, "wall_ms"),
    )
    return found_rows


def lines(folder: Path) -> Iterator[str]:
    """One for each target; none where nothing was measured."""
    found = targets(Measured(folder))
    for row in found if any(row["met"] is not None for row in found) else ():
        value = "unmeasured" if row["found"] is None else f"{row['found']:.3g}"
        verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
        yield f"{row['target']:42} wanted {row['wanted']:8} found {value:12} {verdict}"
