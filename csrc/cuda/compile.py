"""Compiles the CUDA kernels ahead of time: a fatbin of each program, in one archive that the package reads.

Run by CMakeLists.txt; needs nvcc 12.0 or newer, and Python alone.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # csrc

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
PRECISIONS = ("Fp32", "Tf32", "Fp16", "Bf16")
WIDTHS = (5, 6, 8)  # kWidths of engine/params.h
TYPES = ("Float32", "Float16", "BFloat16")

FLAGS = (
    "-std=c++20",
    "-O3",
    "-ftz=true",
    "-prec-div=false",
    "-Xptxas=--warn-on-spills,--warn-on-local-memory-usage",
)


def programs() -> list[tuple[str, str]]:
    """Source and options of each, as engine/kernels.cc and ops/ops.cc name them."""
    found = []
    for path in sorted((ROOT / "cuda").rglob("*.cu")):
        source = path.relative_to(ROOT / "cuda").with_suffix("").as_posix()
        text = path.read_text()
        if "SM_TYPE" in text:
            found += [(source, f"-DSM_TYPE={name}") for name in TYPES]
        elif "SM_WIDTH" in text:
            found += [(source, f"-DSM_PRECISION={p} -DSM_WIDTH={w}") for p in PRECISIONS for w in WIDTHS]
        else:
            found += [(source, f"-DSM_PRECISION={p}") for p in PRECISIONS]
    return found


def known(nvcc: str, wanted: list[int]) -> list[int]:
    """The architectures that this nvcc compiles for; a message names the others."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout
    there = {int(number) for number in re.findall(r"compute_(\d+)\b", listed)}
    if missing := [str(number) for number in wanted if number not in there]:
        print(f"CUDA: {nvcc} is too old for {', '.join(missing)}: left to NVRTC", flush=True)
    return [number for number in wanted if number in there]


def compile_one(nvcc: str, program: tuple[str, str], architectures: list[int], folder: Path) -> Path:
    source, options = program
    out = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', ' '.join(program))}.fatbin"
    codes = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in architectures]
    codes.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    command = [nvcc, *FLAGS, f"-I{ROOT}", *options.split(), *codes, "-fatbin"]
    command += [f"{ROOT}/cuda/{source}.cu", "-o", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.stdout:
        print(done.stdout, end="", flush=True)
    if done.returncode:
        raise RuntimeError(f"nvcc failed on {source}.cu {options}")
    return out


def build(nvcc: str, wanted: list[int], output: Path) -> None:
    if not (architectures := known(nvcc, wanted)):
        raise RuntimeError(f"{nvcc} knows none of the architectures {wanted}")
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        folder, all_programs = Path(name), programs()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            paths = list(threads.map(lambda p: compile_one(nvcc, p, architectures, folder), all_programs))
        archive = folder / "kernels.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for program, path in zip(all_programs, paths, strict=True):
                packed.write(path, " ".join(program))
            packed.comment = f"{' '.join(map(str, architectures))} +{architectures[-1]}".encode()
        os.replace(archive, output)
    print(
        f"CUDA: {len(all_programs)} programs for {architectures}, {output.stat().st_size >> 10} KB",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--architectures", default=" ".join(map(str, ARCHITECTURES)), help="80 90 ..")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--may-fail", action="store_true", help="say so, and go on without the archive")
    given = parser.parse_args()
    try:
        build(given.nvcc, sorted(map(int, re.findall(r"\d+", given.architectures))), given.output)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as reason:
        if not given.may_fail:
            print(f"error: {reason}", file=sys.stderr)
            return 1
        print(f"CUDA: no kernels ahead of time, for {reason}: NVRTC compiles them at first use", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
