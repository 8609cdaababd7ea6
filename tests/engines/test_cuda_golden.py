"""The golden networks on the CUDA engine in the simulator: every precision, in several orders of execution.

What a GPU alone can show (memory ordering, speed) is left to benchmarks on one.
"""

from __future__ import annotations

import pytest
import torch

from seemore_fast.network import reference
from tests.support import cudasim, golden
from tests.support.golden import run, twice_half

pytestmark = pytest.mark.usefixtures("compiler")

LIMIT = 1e-5
"""Largest relative L2 error of fp32 against float64."""

SIDES = {"b_x3": (17, 18), "l_x2": (13, 11)}
"""Of the pictures for deep networks, whose many layers take long: smaller than golden.crop's."""


@pytest.mark.parametrize(
    ("name", "seeds"),
    [*((name, (2,)) for name in golden.EVALUATION), pytest.param("t_x4", (3, 4, 5), marks=pytest.mark.full)],
    ids=str,
)
def test_any_order_gives_the_same_bits(name: str, seeds: tuple[int, ...]) -> None:
    """In the first of them every access to memory is checked."""
    case = golden.load(name)
    x = golden.crop(case.x, *SIDES.get(name, ()))
    want = run(case.fill(reference.SeemoRe(**case.config)).double(), x.double())
    engine = cudasim.Simulated(case.fill(reference.SeemoRe(**case.config)))
    first = engine(x, seed=1)
    assert golden.relative_l2(first, want) <= LIMIT
    for seed in seeds:
        assert torch.equal(engine(x, seed=seed, check=False), first), f"seed {seed}"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("tf32", None), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
@pytest.mark.parametrize(
    "name", ["t_x4", "t_x2_odd", *(pytest.param(name, marks=pytest.mark.full) for name in SIDES)]
)
def test_low_precision(name: str, precision: str, dtype: torch.dtype | None) -> None:
    """RMS error at most twice PyTorch's own (for TF32 that of float16, which has as many bits)."""
    case = golden.load(name)
    x = golden.crop(case.x, *SIDES.get(name, ()))
    oracle = case.fill(reference.SeemoRe(**case.config))
    want = run(oracle.double(), x.double())
    allowed = twice_half(oracle, x, want, dtype or torch.float16)
    engine = cudasim.Simulated(case.fill(reference.SeemoRe(**case.config)), precision)
    got = engine(x)
    assert golden.relative_l2(got, want) <= allowed
    assert torch.equal(engine(x, seed=2, check=False), got)
