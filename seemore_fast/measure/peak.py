"""How fast this processor could compute: multiply-adds in registers, the arithmetic floor's yardstick."""

from __future__ import annotations

import math
import time

from seemore_fast.backends import native


def fma_peak(threads: int, seconds: float = 0.5) -> float:
    """GFLOP/s of float32 multiply-adds (two operations each) in registers, on ``threads`` threads at once.

    The best of 20 windows within about ``seconds``: a processor shared with others shows its own speed in
    some.  Raises BackendError where the native library does not load.
    """
    windows, repeats = 20, 10
    while (elapsed := _time_fma(threads, repeats)[1]) < seconds / windows:
        repeats = math.ceil(repeats * min(10.0, 1.1 * seconds / windows / elapsed))
    measured = [_time_fma(threads, repeats) for _ in range(windows)]
    return max(operations / elapsed for operations, elapsed in measured) / 1e9


def _time_fma(threads: int, repeats: int) -> tuple[float, float]:
    """Operations and seconds."""
    run_kernel = native.require().run_kernel
    start = time.perf_counter()
    operations = run_kernel("fma", channels=4, width=16, repeats=repeats, threads=threads)
    return operations, time.perf_counter() - start
