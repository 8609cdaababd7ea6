#!/usr/bin/env python3
"""ARM64's micro-kernels by llvm-mca: cycles of their inner loops on a model of a core, as a part of its peak.

    python benchmarks/arm_model.py [--clang clang++-19] [--mca llvm-mca-19]

Modelled, not measured: every load hits the L1 cache.  Compiles csrc/cpu/engine/microbench.cc for ARM64 and
takes from each kernel the loops that are mostly multiply-adds.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ISAS = {"neon": [], "neonbf16": ["-march=armv8.2-a+bf16"]}
CORES = {"neoverse-v1": 4, "neoverse-v2": 4, "neoverse-n1": 2, "apple-m1": 4}
"""With their pipes for vector multiply-adds."""

ROUNDS = 200
FLAGS = ["-std=gnu++20", "-O3", "-DNDEBUG", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
MULTIPLY_ADD = re.compile(r"^\t(fmla|bfdot|bfmmla)\t", re.MULTILINE)


def assembly(clang: str, isa: str) -> str:
    command = [
        *(clang, "--target=aarch64-linux-gnu", *FLAGS, "-fno-exceptions", "-fno-rtti", f"-I{ROOT / 'csrc'}"),
        *(f"-DSM_ISA={isa}", *ISAS[isa], "-S", "-o", "-", str(ROOT / "csrc/cpu/engine/microbench.cc")),
    ]
    mangled = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return subprocess.run(["c++filt"], input=mangled, check=True, text=True, stdout=subprocess.PIPE).stdout


def loops(text: str) -> Iterator[tuple[str, str, int]]:
    """Innermost loops: (function, instructions, multiply-adds)."""
    function, label, body = "", "", ""
    for line in text.splitlines(keepends=True):
        if found := re.match(r"^([^\s./][^\n]*):\s*(//.*)?$", line):
            function = found[1]
        if found := re.match(r"^(\.LBB\w+):", line):
            label, body = found[1], ""
            continue
        if line.startswith("\t") and not line.startswith("\t."):
            body += line
        if label and re.match(rf"^\t(b\.\w+|cbn?z|tbn?z)\t.*{re.escape(label)}\b", line):
            count = len(MULTIPLY_ADD.findall(body))
            if count >= 8:
                yield function, body, count
            label = ""


def cycles(mca: str, core: str, body: str) -> float:
    command = [mca, "-mtriple=aarch64", f"-mcpu={core}", "-mattr=+bf16", f"-iterations={ROUNDS}"]
    said = subprocess.run(command, input=body, check=True, text=True, capture_output=True).stdout
    found = re.search(r"Total Cycles:\s+(\d+)", said)
    assert found, said
    return int(found[1]) / ROUNDS


def short(function: str) -> str:
    """Its name and template arguments, without namespaces and parameters."""
    name = re.sub(r"seemore::\w+::(engine::)?|\(anonymous namespace\)::", "", function)
    return name.partition("(seemore")[0].partition("(float")[0][:72]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clang", default="clang++-19")
    parser.add_argument("--mca", default="llvm-mca-19")
    options = parser.parse_args()
    print("| instruction set | loop | multiply-adds |", " | ".join(CORES), "|")
    print("|---" * (3 + len(CORES)) + "|")
    for isa in ISAS:
        for function, body, count in loops(assembly(options.clang, isa)):
            parts = [count / pipes / cycles(options.mca, core, body) for core, pipes in CORES.items()]
            print(f"| {isa} | `{short(function)}` | {count} |", " | ".join(f"{p:.0%}" for p in parts), "|")


if __name__ == "__main__":
    main()
