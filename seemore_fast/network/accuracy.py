"""How far a result is from the exact one: the one relative error that checks, benchmarks and tests use."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_l2(found: Tensor, exact: Tensor) -> float:
    """``|found - exact| / |exact|`` in float64; infinite for shapes that differ and for what is not finite.

    ``exact`` counts as at least the smallest float64, so that zeros are right only as zeros.
    """
    if found.shape != exact.shape:
        return float("inf")
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    error = (found - exact).norm() / exact.norm().clamp_min(torch.finfo(torch.float64).tiny)
    return float(error.nan_to_num(nan=float("inf"), posinf=float("inf")))
