"""The CPU engine's kernels one by one: GFLOP/s, and the share of the processor's own peak.

pytest benchmarks/test_kernels.py --benchmark-enable --benchmark-columns=median,iqr,rounds

Rows of one chunk of the engine (64 columns) stay in the L1 cache, those of 320 in L2.  The extra column
``gops`` counts two operations for a multiply-add, one for an element of gelu and layer_norm; ``of_peak`` is
its share of multiply-adds in registers.  A 3x3 convolution may exceed 100%: Winograd's form computes less
than is counted.
"""

from __future__ import annotations

from functools import cache

import pytest

from seemore_fast.backends import choice, native
from seemore_fast.measure.peak import fma_peak

if (why := choice.missing("cpu")) is not None:
    pytest.skip(f"backend cpu: {why}", allow_module_level=True)

NAMES = [name for name in native.require().kernel_names() if name != "fma"]
REPEATS = 5000  # a call then takes long beside what it allocates


@cache
def peak() -> float:
    """GFLOP/s of one thread."""
    return fma_peak(1)


@pytest.mark.parametrize("width", [64, 320])
@pytest.mark.parametrize("channels", [36, 48])
@pytest.mark.parametrize("name", NAMES)
def test_kernel(name: str, channels: int, width: int, benchmark) -> None:
    run = native.require().run_kernel
    operations = benchmark(run, name, channels=channels, width=width, repeats=REPEATS, threads=1)
    assert operations >= REPEATS * channels * width
    if benchmark.enabled:
        gops = operations / benchmark.stats.stats.median / 1e9
        benchmark.extra_info.update(gops=round(gops, 1), of_peak=round(gops / peak(), 3))
