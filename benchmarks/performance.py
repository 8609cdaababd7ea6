"""Everything that docs/performance.md shows, in one command: measurements, table and plots.

python benchmarks/performance.py                      measures every case, then draws; an hour on two cores
python benchmarks/performance.py t-x4-320x180         measures these cases again, then draws
python benchmarks/performance.py train-t-x4-8x32x32   a training step on 8 patches of 32x32
python benchmarks/performance.py --draw               draws from what benchmarks/results holds

Needs pip install 'seemore-fast[bench]'.  Each case is a process of its own, and a JSON file under
benchmarks/results/<processor and instruction set>/.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import plot

from seemore_fast.measure.environment import environment

RESULTS = Path(__file__).parent / "results"

RUNS = {
    **{f"{model}-320x180": 7 for model in ("t-x4", "b-x4", "l-x4")},
    **{f"{model}-640x360": 5 for model in ("t-x2", "b-x2")},
    **{"t-x4-64x64": 10, "t-x4-128x128": 10, "t-x4-640x360": 5, "t-x4-1280x720": 3, "t-x4-1920x1080": 3},
}
"""Timed runs of each case, <model>-<input size>: the table's, then those of the curve over sizes."""

STEPS = {f"train-{model}-x4-8x{side}x{side}": runs for model in "tb" for side, runs in ((32, 10), (64, 5))}
"""Timed training steps of each case, train-<model>-<patches>."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = RUNS | STEPS
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"from {', '.join(known)}; default: all")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if unknown := [case for case in arguments.cases if case not in known]:
        parser.error(f"unknown case {unknown[0]}; there are {', '.join(known)}")

    here = environment()
    processor = re.sub(r"[^a-z0-9]+", "-", here["cpu"].lower()).strip("-")
    folder = RESULTS / f"{processor}-{here['native']['isa']}"
    if not arguments.draw:
        folder.mkdir(parents=True, exist_ok=True)
        for case in arguments.cases or known:
            measure(case, folder)
    plot.draw(folder)


def measure(case: str, folder: Path) -> None:
    model, size = case.removeprefix("train-").rsplit("-", 1)
    if case in STEPS:
        batch, side, _ = size.split("x")
        options = ["--train", "--batch", batch, "--patch", side, "--runs", str(STEPS[case])]
    else:
        options = ["--peers", "--size", size, "--runs", str(RUNS[case])]
    command = [sys.executable, "-m", "seemore_fast.cli", "bench", "--model", model, *options]
    done = subprocess.run([*command, "--json", str(folder / f"{case}.json")], check=False)
    # 1: ours is above its gate.  The page shows that; anything else left no file.
    if done.returncode not in (0, 1):
        sys.exit(f"{case}: the benchmark ended with {done.returncode}")


if __name__ == "__main__":
    main()
