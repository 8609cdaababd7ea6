"""Ten launches of the CUDA engine under ncu: time, issue utilisation, LSU wavefronts, bank conflicts, stalls.

python -m benchmarks.contact.profile "t-x4 960x540" --rows FILE     runs ncu on itself
python -m benchmarks.contact.profile "t-x4 960x540" --alone          what ncu looks at

They are those from the last layer's first kernel on: that layer, both of the tail, and the next call's first
three.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.contact import rows
from benchmarks.contact.launches import KERNELS
from benchmarks.contact.rows import Row
from seemore_fast.measure import bench
from seemore_fast.network import variants

LAUNCHES = 10
_LAYER = 5  # of its kernels

METRICS = {
    "ns": "gpu__time_duration.sum",
    "instructions": "smsp__inst_executed.sum",
    "issue_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "lsu_wavefronts": "l1tex__data_pipe_lsu_wavefronts.sum",
    "shared_wavefronts": "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "bank_conflicts": "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "dram_bytes": "dram__bytes.sum",
    "warps_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}
"""ncu's names."""

STALLS = (
    "long_scoreboard", "short_scoreboard", "barrier", "math_pipe_throttle", "mio_throttle", "lg_throttle",
    "wait", "not_selected", "no_instruction", "dispatch_stall", "branch_resolving", "membar",
)  # fmt: skip
"""Warps that wait per issued instruction, by what for."""

_STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"

_UNITS = {
    "nsecond": 1,
    "ns": 1,
    "usecond": 1e3,
    "us": 1e3,
    "msecond": 1e6,
    "ms": 1e6,
    "second": 1e9,
    "s": 1e9,
}
_UNITS |= {"byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}


def command(case: str) -> list[str]:
    """What ncu is asked: launches are counted among our kernels alone, from the second call's on."""
    layers = int(variants.config(case.split()[0])["num_layers"])
    call = 3 + _LAYER * layers
    skipped = call + 1 + _LAYER * (layers - 1)
    names = "|".join(dict.fromkeys(KERNELS))
    metrics = [*METRICS.values(), *map(_STALL.format, STALLS)]
    return [
        *("ncu", "--csv", "--page", "raw", "--clock-control", "none", "--metrics", ",".join(metrics)),
        *("--kernel-name", f"regex:^({names})[2-4]?(_tall|_broad)?$", "--launch-skip", str(skipped)),
        *("--launch-count", str(LAUNCHES)),
        *(sys.executable, "-m", "benchmarks.contact.profile", case, "--alone"),
    ]


def parse(text: str) -> list[Row]:
    """A row per launch from what ``ncu --csv --page raw`` prints among other lines.

    A metric that is not there is left out.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    table = csv.DictReader(lines)
    units: dict[str, str] = {}
    found = []
    for line in table:
        if not line.get("ID"):  # the second line has units
            units = line
            continue
        row: Row = {"kernel": line["Kernel Name"].split("(")[0]}
        row |= _numbers(line, units, METRICS.items())
        row["stalls"] = _numbers(line, units, ((name, _STALL.format(name)) for name in STALLS))
        found.append(row)
    return found


def _numbers(line: Row, units: Row, wanted: Iterable[tuple[str, str]]) -> Row:
    found = {}
    for name, metric in wanted:
        text = (line.get(metric) or "").replace(",", "")
        try:
            found[name] = float(text) * _UNITS.get(units.get(metric, ""), 1)
        except ValueError:
            continue
    return found


def why_nothing(text: str) -> str:
    """From ncu's output, in words."""
    if "ERR_NVGPUCTRPERM" in text:
        return (
            "ncu may not read the counters: the driver gives them to administrators alone (ERR_NVGPUCTRPERM)"
        )
    errors = [line for line in text.splitlines() if "==ERROR==" in line or "Error" in line]
    return f"ncu has profiled nothing: {errors[0].strip()}" if errors else "ncu has profiled nothing"


def alone(case: str) -> None:
    """Three calls in fp16."""
    variant, size = case.split()
    model = bench.network_for(variant, "cuda").cuda().half()
    x = bench.picture(model.config["in_chans"], bench.parse_size(size)).cuda().half()
    with torch.inference_mode():
        for _ in range(3):
            model(x)
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("--rows", type=Path, metavar="FILE")
    parser.add_argument("--alone", action="store_true")
    given = parser.parse_args()
    if given.alone:
        alone(given.case)
        return 0
    if shutil.which("ncu") is None:
        print("ncu is not installed")
        return 1
    log = given.rows.with_name("ncu.log")
    with log.open("wb") as file:
        environment = {**os.environ, "SEEMORE_SELF_CHECK": "0"}
        subprocess.run(command(given.case), env=environment, stdout=file, stderr=subprocess.STDOUT)
    text = log.read_text(errors="replace")
    found = parse(text)
    for row in found:
        rows.append(given.rows, {"case": given.case, **row})
    print(f"{len(found)} launches profiled" if found else why_nothing(text))
    return 0 if len(found) == LAUNCHES else 1


if __name__ == "__main__":
    sys.exit(main())
