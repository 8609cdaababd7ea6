"""What nvcc makes of the CUDA kernels: registers, spills and stack, as ptxas reports them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .test_build import PATHS, run

MOST_REGISTERS = 160
"""Of 65536: two blocks of 256 threads would have 128 each, one alone 255."""


def nvcc() -> str:
    found = shutil.which("nvcc", path=f"{PATHS}:/usr/local/cuda/bin")
    if not found:
        pytest.skip("nvcc is not installed: nothing compiles the kernels for a GPU")
    return found


MOST_REGISTERS_OF_OPS = 104

ENGINE = ("ends", "rme", "mix_ffn", "ffn", "sme", "wide")
OPS = ("ops/striped_conv2d", "ops/experts", "ops/router")


@pytest.mark.parametrize(
    ("kernel", "most"),
    [*((name, MOST_REGISTERS) for name in ENGINE), *((name, MOST_REGISTERS_OF_OPS) for name in OPS)],
)
def test_no_spills_and_few_registers(kernel, most, tmp_path):
    """For sm_90: the engine in float16, at the widths of T, B and L (5 and 6 tiles of 8 channels); the
    operators in all their types."""
    report = run(
        *(nvcc(), "-std=c++20", "-O3", "-Xptxas=-v", "-gencode=arch=compute_90,code=sm_90", "-Icsrc"),
        *("-DSM_PRECISION=Fp16", "-DSM_FEW_WIDTHS", "-c", Path("csrc/cuda") / f"{kernel}.cu"),
        *("-o", tmp_path / "kernel.o"),
    )
    found = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    assert found, report
    for stack, stores, loads, registers in found:
        assert (stack, stores, loads) == ("0", "0", "0"), report
        assert int(registers) <= most, report
