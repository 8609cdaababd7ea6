"""One low-rank expert, ``A ((B x + b) * (C k + c)) + a`` at each pixel (paper section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import ExpertsWeights, unflatten
from seemore_fast.ops._operator import Operator
from seemore_fast.ops._register import register


def low_rank_experts(
    x: Tensor,
    k: Tensor,
    b_weight: Tensor,
    b_bias: Tensor,
    c_weight: Tensor,
    c_bias: Tensor,
    a_weight: Tensor,
    a_bias: Tensor,
    *,
    backend: Backend = None,
) -> Tensor:
    """Projects x and k to rank R, multiplies them elementwise, and projects back.

    x, k: (N, C, H, W), floating; b_weight, c_weight: (R, C); b_bias, c_bias: (R,); a_weight: (C, R);
    a_bias: (C,).  Several experts whose ranks are concatenated give their sum
    (with ``a_bias`` the sum of theirs).  Returns (N, C, H, W).

    Raises ValueError (shape, device), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    weights = (b_weight, b_bias, c_weight, c_bias, a_weight, a_bias)
    return _run([x, k], weights, backend=backend)[0]


def reference(x: Tensor, k: Tensor, *weights: Tensor) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    b, c, a = unflatten(ExpertsWeights, [weight.to(x.dtype) for weight in weights])
    of_x = F.conv2d(x, b.weight[:, :, None, None], b.bias)
    of_k = F.conv2d(k, c.weight[:, :, None, None], c.bias)
    return (F.conv2d(of_x * of_k, a.weight[:, :, None, None], a.bias),)


_run = register(Operator("low_rank_experts", ("x", "k"), ExpertsWeights, {}, reference))
