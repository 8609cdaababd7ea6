"""Ops on the sizes of SeemoRe-T: the native kernels against PyTorch's composition.

pytest benchmarks/test_ops.py --benchmark-enable --benchmark-group-by=param:name,param:size
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seemore_fast import ops

C, RANKS = 36, [2, 4, 8]


def arguments(name: str, height: int, width: int) -> tuple[Any, ...]:
    randn, rank = torch.randn, sum(RANKS)
    x, k = randn(2, 1, C, height, width)
    down = (randn(rank, C), randn(rank))
    if name == "layer_norm2d":
        return x, randn(C), randn(C)
    if name == "striped_conv2d":
        return x, randn(C, 1, 1, 11), randn(C), randn(C, 1, 11, 1), randn(C)
    if name == "low_rank_experts":
        return x, k, *down, *down, randn(C, rank), randn(C)
    return x, k, randn(3, C), *down, *down, randn(C, rank), randn(3, C), RANKS, 1


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("size", [(180, 320), (360, 640)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", ["layer_norm2d", "low_rank_experts", "mix_experts", "striped_conv2d"])
def test_op(name: str, size: tuple[int, int], backend: str, benchmark) -> None:
    args = arguments(name, *size)
    with torch.no_grad():
        got = benchmark(getattr(ops, name), *args, backend=backend)
        want = getattr(ops, name)(*args, backend="reference")
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
