"""How much a network computes and how fast this processor could: the "share of the arithmetic floor"."""

from __future__ import annotations

import math
import time
from typing import Any

from . import _native
from .reference import expert_ranks


def macs(config: dict[str, Any], height: int, width: int) -> int:
    """Multiply-adds of one (in_chans, height, width) image: those of the convolutions, as papers count them.

    ``config``: constructor arguments, all of them (`variants.config`, `reference.SeemoRe.config`).  Which
    experts the router takes is not known beforehand: the ``topk`` of the largest ranks are counted, an
    upper bound that is at most 2% of the network above the lower one.
    """
    c, k, recursive = config["embedding_dim"], config["global_kernel_size"], config["recursive"]
    pixels = height * width
    ranks = sorted(expert_ranks(config["num_experts"], config["lr_space"]))[-config["topk"] :]

    ffn = 3 * c * c + 9 * c
    rme = 9 * c * c + 2 * c * c + 2 * 3 * c + 3 * c * sum(ranks) + c * c
    sme = 2 * c * c + 2 * k * c + c * c
    group = pixels * (rme + sme + 2 * ffn)
    for level in range(1, recursive + 1):
        group += (height // 4**level) * (width // 4**level) * 16 * c
    group += (height // 4**recursive) * (width // 4**recursive) * (9 * c + c * c)

    colours = config["in_chans"]
    ends = pixels * 9 * (colours * c + c * c + c * colours * config["scale"] ** 2)
    return config["num_layers"] * group + ends


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
    run_kernel = _native.require().run_kernel
    start = time.perf_counter()
    operations = run_kernel("fma", channels=4, width=16, repeats=repeats, threads=threads)
    return operations, time.perf_counter() - start
