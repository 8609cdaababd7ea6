"""The CUDA sources without a GPU: what ptxas reports of the kernels, and that g++ takes the host side."""

from __future__ import annotations

import itertools
import re
import runpy
import shutil
from pathlib import Path

import pytest

from seemore_fast.backends import native
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.network import fold, reference
from seemore_fast.network.variants import config
from tests.support.building import PATHS, run, tool
from tests.support.repository import ROOT

CUDA = ROOT / "csrc/cuda"

AHEAD = runpy.run_path(str(CUDA / "compile.py"))
"""What a build compiles, and for which GPUs."""

CASES: list[tuple[str, str]] = AHEAD["programs"]()

REGISTERS_OF_TWO_BLOCKS = 65536 // (2 * 256)


def nvcc() -> str:
    found = shutil.which("nvcc", path=f"{PATHS}:/usr/local/cuda/bin")
    if not found:
        pytest.skip("nvcc is not installed: nothing compiles the kernels for a GPU")
    return found


@pytest.mark.full
@pytest.mark.parametrize(
    ("source", "options"), CASES, ids=[f"{s}{o.replace('-DSM_', '-')}" for s, o in CASES]
)
def test_no_spills(source: str, options: str, tmp_path: Path):
    """Of no program, for none of the GPUs that a build is for.

    Two blocks must fit a multiprocessor of sm_90 where it matters: 16 bit to 48 channels, and the operators.
    """
    architectures = [f"sm_{number}" for number in AHEAD["known"](nvcc(), AHEAD["ARCHITECTURES"])]
    report = run(
        *(
            nvcc(),
            "-std=c++20",
            "-O3",
            "-ftz=true",
            "-prec-div=false",
            "-Xptxas=-v",
            "-Icsrc",
            *options.split(),
            "--threads=2",
        ),
        *(f"-gencode=arch={arch.replace('sm', 'compute')},code={arch}" for arch in architectures),
        *("-fatbin", CUDA / f"{source}.cu", "-o", tmp_path / "kernels.fatbin"),
    )
    found = re.findall(
        r"entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    assert {architecture for _, architecture, *_ in found} == set(architectures), report
    for kernel, architecture, *memory, registers in found:
        assert memory == ["0", "0", "0"], (kernel, architecture, memory)
        if architecture == "sm_90" and "16" in options and "WIDTH=8" not in options:
            assert int(registers) <= REGISTERS_OF_TWO_BLOCKS, (kernel, registers)


def test_every_program_is_compiled_ahead():
    """The archive's table of programs against what the library asks for."""
    asked = {
        tuple(program[:2]) for pixels in range(3) for program in native.require().cuda_op_programs(pixels)
    }
    for variant, precision in itertools.product(("t-x4", "l-x2"), range(4)):
        arrays = float32_arrays(fold.fold_network(reference.SeemoRe(**config(variant))))
        asked |= {tuple(p[:2]) for p in native.require().cuda_network_programs(arrays, precision, -1, 90)}
    assert asked <= set(CASES)


HOST_SIDE = [*sorted(CUDA.rglob("*.cc")), *sorted((CUDA / "ops").glob("*.cu"))]


@pytest.mark.parametrize("source", HOST_SIDE, ids=[source.stem for source in HOST_SIDE])
def test_the_host_side_needs_no_cuda(source: Path):
    """No header of a toolkit is needed, nor device.cuh; of operators, what stands behind SM_HOST."""
    run(tool("g++"), "-std=c++20", "-fsyntax-only", "-DSM_HOST", "-Icsrc", "-x", "c++", source)
