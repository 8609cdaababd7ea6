"""The CUDA sources without a GPU: what ptxas reports of the kernels, and that g++ takes the host side."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.building import PATHS, ROOT, run, tool

CUDA = ROOT / "csrc/cuda"
ENGINE = sorted(CUDA.glob("engine/*.cu"))
OPS = sorted(CUDA.glob("ops/*.cu"))

ARCHITECTURES = ("sm_80", "sm_90")
"""Of those that a build is for by default. In every build ptxas warns of spills."""

CASES = [
    *((source, "Fp16") for source in ENGINE),
    *((source, "Fp32") for source in ENGINE),
    *((source, "all") for source in OPS),
]

REGISTERS_OF_TWO_BLOCKS = 65536 // (2 * 256)


def nvcc() -> str:
    found = shutil.which("nvcc", path=f"{PATHS}:/usr/local/cuda/bin")
    if not found:
        pytest.skip("nvcc is not installed: nothing compiles the kernels for a GPU")
    return found


@pytest.mark.parametrize(("source", "precision"), CASES, ids=[f"{s.stem}-{p}" for s, p in CASES])
def test_no_spills(source: Path, precision: str, tmp_path: Path):
    """At every width. Two blocks must fit a multiprocessor of sm_90 where it matters: float16 to 48 channels
    (T, B, L), and the operators, whose files have all types."""
    report = run(
        *(nvcc(), "-std=c++20", "-O3", "-Xptxas=-v", "-Icsrc", f"-DSM_PRECISION={precision}", "--threads=2"),
        *(f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in ARCHITECTURES),
        *("-fatbin", source, "-o", tmp_path / "kernels.fatbin"),
    )
    found = re.findall(
        r"entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    assert {architecture for _, architecture, *_ in found} == set(ARCHITECTURES), report
    for kernel, architecture, *memory, registers in found:
        assert memory == ["0", "0", "0"], (kernel, architecture, memory)
        if architecture == "sm_90" and precision in ("Fp16", "all") and "Li8E" not in kernel:
            assert int(registers) <= REGISTERS_OF_TWO_BLOCKS, (kernel, registers)


HOST_SIDE = sorted(CUDA.rglob("*.cc"))


@pytest.mark.parametrize("source", HOST_SIDE, ids=[source.stem for source in HOST_SIDE])
def test_the_host_side_needs_no_cuda(source: Path):
    """SEEMORE_CUDA=on leaves these files to the C++ compiler, which sees neither device.cuh nor CUDA."""
    run(tool("g++"), "-std=c++20", "-fsyntax-only", "-Icsrc", source)
