"""The cost model of the CUDA kernels: weighing, floors, and that nothing executes more than before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import gpu_cost_compile, gpu_cost_model
from benchmarks.gpu_cost_compile import Instruction
from benchmarks.gpu_cost_weigh import weigh
from tests.support import cuda_costs, cudasim


def test_weighing():
    """Unrolled code counts once per copy, hoisted and folded instructions as often as their block, blocks for
    rare cases never."""
    executed = {
        1: ("mov.u32", 8),
        2: ("ld.shared.f32", 80),
        3: ("fma.rn.f32", 80),
        4: ("bra", 80),
        9: ("ret", 8),
    }
    sass = [
        Instruction("MOV", "MOV R1, R2", 1, 0),
        Instruction("LDS", "LDS R3, [R1]", 2, 1),
        Instruction("FFMA", "FFMA R4, R3, R3, R4", 3, 1),
        Instruction("LDS", "LDS R3, [R1+0x4]", 2, 1),
        Instruction("FFMA", "FFMA R4, R3, R3, R4", 3, 1),
        Instruction("BRA", "@P0 BRA 0x10", 4, 1),
        Instruction("CALL.REL.NOINC", "CALL.REL.NOINC `($__internal_0_$__cuda_sm3x_div_slowpath)", 3, 2),
        Instruction("EXIT", "EXIT", 9, 3),
        Instruction("NOP", "NOP", 9, 3),
    ]
    assert weigh(sass, executed) == {"integer": 8, "shared": 80, "float": 80, "control": 40 + 8}


def test_floors():
    card = gpu_cost_model.CARDS["H100"]
    work = gpu_cost_model.Work(
        instructions=4e9,
        wavefronts=5e8,
        mma=1e8,
        half_sums=4e7,
        l2_bytes=8e9,
        dram_bytes=6.7e9,
        blocks=300,
        threads=256,
        registers=100,
        shared=70 << 10,
    )
    floors = gpu_cost_model.floors(work, card)
    assert floors.issue == pytest.approx(4e9 / (4 * 132 * 1.9e6))
    assert floors.lsu == pytest.approx(5e8 / (132 * 1.9e6))
    assert floors.tensor == pytest.approx(1e8 / (0.62 * 132 * 1.9e6))
    geforce = gpu_cost_model.CARDS["RTX4090"]
    assert gpu_cost_model.floors(work, geforce).tensor == pytest.approx(8e7 / (0.125 * 128 * 2.52e6))
    assert floors.dram == pytest.approx(2)
    assert floors.l2 == pytest.approx(8e9 / (24 * 132 * 1.9e6))
    assert replace(floors, l2=10).modelled == pytest.approx(10 / 0.85)
    assert floors.imbalance == pytest.approx(3 / (300 / 132))
    assert floors.modelled == pytest.approx(floors.issue / 0.65 * floors.imbalance)
    assert gpu_cost_model.resident(work, card) == 2  # by registers; 3 by shared memory
    assert gpu_cost_model.resident(replace(work, threads=512), card) == 1


def test_the_cache_holds_what_was_used_last():
    card = replace(gpu_cost_model.CARDS["H100"], l2_mb=50)

    def moved(*launches: str) -> list[float]:
        """In megabytes, of planes of 20: "a > b" reads a and writes b."""
        planes = []
        for launch in launches:
            read, written = (half.split() for half in launch.split(">"))
            planes.append(
                [gpu_cost_model.Plane(name, 20e6, i >= len(read)) for i, name in enumerate(read + written)]
            )
        return [bytes / 1e6 for bytes in gpu_cost_model.dram_bytes(planes, card)]

    assert moved("a > b", "b > a", "a > b") == [20, 0, 0], "both stay"
    assert moved("a > b", "b > c", "c > d") == [20, 0, 10], "10 of b, which nobody has read from memory, go"
    assert moved("a b c >", "a >", "b >") == [60, 10, 10], "half of a is gone, then half of b"
    (large,) = gpu_cost_model.dram_bytes([[gpu_cost_model.Plane("a", 70e6, written=True)]], card)
    assert large == 20e6, "a plane that does not fit goes as far as it must"


@pytest.mark.full
def test_compiled_kernels_execute_no_more_than_before():
    cudasim.library(only_compiled=True)
    version, before = cuda_costs.stored()
    try:
        here = gpu_cost_compile.nvcc_version()
        gpu_cost_compile.tool("nvdisasm")
    except FileNotFoundError as reason:
        pytest.skip(str(reason))
    if here != version:
        pytest.skip(f"the figures are of nvcc {version}; this is {here}, whose code differs")
    now = cuda_costs.count()
    assert set(now) == set(before)
    assert not cuda_costs.grown(before, now)
    assert not cuda_costs.grown(now, before), "smaller by now: tests/support/cuda_costs.py --update"
