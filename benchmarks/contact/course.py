"""What a GPU machine is asked, the cheapest questions first: see docs/first-contact.md.

python -m benchmarks.contact.course first|depth [FOLDER]        default: benchmarks/results/<gpu>

Run by benchmarks/gpu.sh.  FOLDER gets report.txt, steps.jsonl, and results.tar.gz with all logs and rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from benchmarks.contact import report
from benchmarks.contact.steps import REPORT, Course, Step

ROOT = Path(__file__).resolve().parents[2]

SECONDS = 540
"""Of either course, in all."""

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")

CASES = ("t-x4 320x180", "t-x4 960x540", "b-x4 320x180", "b-x4 960x540", "b-x2 640x360")
"""That the first contact times; torch.compile the first two."""

MORE_CASES = ("l-x4 960x540", "t-x2 1920x1080", "l-x4 320x180", "t-x2 640x360")

PROFILED = "t-x4 960x540"

BLOCKING = "CUDA_LAUNCH_BLOCKING=1"  # an error is told where it happens
NO_CHECK = "SEEMORE_SELF_CHECK=0"


def first(work: Path) -> list[Step]:
    """Is it right, and is it fast?"""
    bare = ["env", BLOCKING, *_python("-m")]
    smoke = [
        Step(
            f"smoke-{layers}",
            20,
            {f"smoke-{layers}-{p}": [*bare, "benchmarks.contact.smoke", str(layers), p] for p in PRECISIONS},
        )
        for layers in (0, 1)
    ]
    compare = [*bare, "benchmarks.contact.launches", "compare"]
    launches = {f"launches-{p}": [*compare, p, "--rows", str(work / "launches.jsonl")] for p in PRECISIONS}
    sanitizer = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--error-exitcode", "9"]
    checks = {
        tool: [
            *(*sanitizer, "--report-api-errors", "no", "--tool", tool),
            *_python("-m", "benchmarks.contact.smoke", "1", *PRECISIONS),
        ]
        for tool in TOOLS
    }
    profile = _python("-m", "benchmarks.contact.profile", PROFILED, "--rows", str(work / "profile.jsonl"))
    return [
        *_begin(work),
        *smoke,
        Step("launches", 25, launches),
        Step("parity", 55, _parity()),
        Step("sanitizers", 60, checks),
        *(_timed(work, "times", case, 20) for case in CASES),
        *(_timed(work, "compiled", case, 32) for case in CASES[:2]),
        Step("triton", 40, {"triton": _measure(work, "gpu.py", "ops")}),
        Step("training", 30, {"training": _measure(work, "gpu.py", "step")}),
        Step("profile", 45, {"profile": profile}),
    ]


def depth(work: Path) -> list[Step]:
    """All sizes, many repeats, and what takes long to compile."""
    on_gpu = "tests/cuda/test_on_a_gpu.py"
    kernels = ["tests/kernels", "--ignore", "tests/kernels/test_aot.py", "-k", "bitwise"]
    repeats = {
        "repeats": _tests(60, on_gpu, "-k", "bitwise"),
        "others": _tests(60, on_gpu, "-k", "not bitwise"),
        "operators": _tests(60, "tests/cuda/test_operators.py"),
        "triton-repeats": _tests(60, *kernels),
    }
    cases = [word for case in (*CASES, *MORE_CASES) for word in ("--case", case)]
    return [
        *_begin(work),
        Step("repeats", 65, repeats),
        Step("times", 105, {"times": _measure(work, "gpu_engine.py", "times", "--limit", "85", *cases)}),
        Step("per-kernel", 25, {"kernels": _measure(work, "gpu_engine.py", "kernels", "--limit", "15")}),
        Step("autotuned", 135, {"autotuned": _measure(work, "gpu_engine.py", "autotuned", "--limit", "100")}),
        Step("train", 130, {"train": _measure(work, "gpu.py", "train")}),
    ]


COURSES = {"first": first, "depth": depth}


def _begin(work: Path) -> list[Step]:
    return [
        Step("environment", 15, {"environment": _measure(work, "gpu.py", "environment")}),
        Step("build", 60, {"build": ["bash", "benchmarks/contact/build.sh"]}, ends=True),
    ]


def _python(*arguments: str) -> list[str]:
    return ["env", "PYTHONFAULTHANDLER=1", "python3", *arguments]


def _measure(work: Path, script: str, what: str, *options: str) -> list[str]:
    """Its rows go to a file of that name."""
    return _python(f"benchmarks/{script}", what, "--rows", str(work / f"{what}.jsonl"), *options)


def _timed(work: Path, what: str, case: str, seconds: float) -> Step:
    """A case in a process of its own: after a fault in a kernel nothing runs any more in the same one."""
    name = f"{what}-{case.replace(' ', '-')}"
    return Step(name, seconds, {name: _measure(work, "gpu_engine.py", what, "--case", case)})


def _tests(seconds: float, *arguments: str) -> list[str]:
    """pytest that names each test before it begins, and says where one hangs."""
    limit = ["--timeout", "30"] if importlib.util.find_spec("pytest_timeout") else []
    options = [
        "-v",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        *limit,
        "-o",
        f"faulthandler_timeout={seconds / 3:.0f}",
    ]
    return ["env", NO_CHECK, *_python("-m", "pytest", *options, *arguments)]


def _parity() -> dict[str, list[str]]:
    """By precision where a file has them."""
    on_gpu = "tests/cuda/test_on_a_gpu.py"
    each = {f"parity-{p}": _tests(45, on_gpu, "-k", f"{p} and not bitwise") for p in PRECISIONS}
    others = " or ".join(PRECISIONS)
    return {
        **each,
        "parity-streams": _tests(45, on_gpu, "-k", f"not ({others})"),
        "parity-engine": _tests(45, "tests/engines/test_cuda_engine.py"),
        "parity-graphs": _tests(45, "tests/engines/test_cuda_graphs.py"),
    }


def gpu_name() -> str:
    """As in nvidia-h200.  Raises SystemExit where there is no GPU."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as reason:
        sys.exit(f"no GPU: {reason}")
    return done.stdout.splitlines()[0].strip().lower().replace(" ", "-")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("course", choices=COURSES)
    parser.add_argument("folder", nargs="?", type=Path)
    given = parser.parse_args()
    gpu = gpu_name()
    out = (given.folder or ROOT / "benchmarks/results" / gpu).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="contact-") as folder:
        work = Path(folder)
        course = Course(work, out, SECONDS, report.make)
        signal.signal(signal.SIGTERM, _interrupt)
        well = False
        try:
            well = course.run(COURSES[given.course](work))
        except KeyboardInterrupt:
            print("interrupted: what there is is kept")
        course.keep()
    print((out / REPORT).read_text())
    return 0 if well else 1


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
