"""The simulator itself: planted faults that it must find, instructions as the PTX manual has them."""

from __future__ import annotations

import re

import pytest

from tests.support import cudasim

SEEDS = range(6)  # 0: ascending order


def says(kernel: str, seed: int = 0, check: bool = True) -> str:
    cudasim.library().configure(seed, check)
    return cudasim.library().run_fault(kernel)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "kernel",
    [
        "neighbours",
        "warp barrier",
        "warp sums",
        "mma half",
        "mma half sums",
        "mma bf16",
        "mma tf32",
        "ldmatrix",
        "rounding",
    ],
)
def test_right_kernels(kernel, seed):
    assert says(kernel, seed) == ""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("removed barrier", "unwritten shared|since the last barrier"),
        ("removed warp barrier", "unwritten shared|since the last barrier"),
        ("write beyond shared memory", "write of 4 bytes at 256, outside the 256 bytes of shared memory"),
        ("write before shared memory", "write of 4 bytes at -4, outside the 256 bytes of shared memory"),
        ("unwritten shared memory", "read of unwritten shared memory at byte 20"),
        (
            "exit before a barrier",
            r"deadlock. 63 threads, the first .*__syncthreads at faults.cc:\d+; 1 have ended",
        ),
        ("two barriers", r"divergent barrier: .*__syncthreads at faults.cc:\d+, others wait in"),
        ("half a warp shuffles", r"deadlock. 32 threads, .*__shfl_xor_sync at faults.cc:\d+; 32 have ended"),
        ("conflicting writes", r"second write to shared memory at byte \d+, which thread \d+ has written"),
        (
            "overwrite what others read",
            r"write to shared memory at byte \d+, which thread \d+ has read|has written",
        ),
        ("write beyond global memory", "write of 4 bytes outside every buffer of global memory"),
        ("write to input", "write to in, which is read-only"),
        ("blocks collide", r"write to out at byte \d+, which block \d writes in the same launch"),
        ("misaligned read", "misaligned read of 8 bytes"),
        ("partial mask", "__shfl_sync with a mask that is not full"),
    ],
)
def test_planted_faults(kernel, message, seed):
    """Found in every order, and told with kernel, block and thread."""
    found = says(kernel, seed)
    assert re.search(message, found), found
    place = r"block \(\d, 0, 0\)" + ("" if "deadlock" in found else r", thread \(\d+, 0, 0\)")
    assert re.match(f"{kernel}, {place}: ", found), found


@pytest.mark.parametrize("kernel", ["exit before a barrier", "two barriers", "half a warp shuffles"])
def test_divergence_is_found_without_memory_checks(kernel):
    assert says(kernel, check=False)


def test_unknown_kernels():
    with pytest.raises(ValueError, match="unknown kernel: nothing"):
        says("nothing")
