"""One low-rank expert, ``A ((B x + b) * (C k + c)) + a`` at each pixel (paper section 3.2)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_image, check_like, choose, size
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
    check_image("x", x)
    check_like(x, "k", k, x.shape)
    channels, rank = x.shape[1], size("b_weight", b_weight, 0)
    if rank < 1:
        raise ValueError(f"b_weight must have shape (R, C) with R >= 1, got {tuple(b_weight.shape)}")
    check_like(x, "b_weight", b_weight, (rank, channels))
    check_like(x, "b_bias", b_bias, (rank,))
    check_like(x, "c_weight", c_weight, (rank, channels))
    check_like(x, "c_bias", c_bias, (rank,))
    check_like(x, "a_weight", a_weight, (channels, rank))
    check_like(x, "a_bias", a_bias, (channels,))
    weights = (b_weight, b_bias, c_weight, c_bias, a_weight, a_bias)
    chosen = choose(backend, "low_rank_experts", x, k, *weights)
    if chosen == "reference":
        return reference(x, k, *weights)[0]
    return _op(*cast(chosen, [x, k], weights), chosen)[0]


def reference(
    x: Tensor,
    k: Tensor,
    b_weight: Tensor,
    b_bias: Tensor,
    c_weight: Tensor,
    c_bias: Tensor,
    a_weight: Tensor,
    a_bias: Tensor,
) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    weights = (b_weight, b_bias, c_weight, c_bias, a_weight, a_bias)
    b_weight, b_bias, c_weight, c_bias, a_weight, a_bias = (t.to(x.dtype) for t in weights)
    b = F.conv2d(x, b_weight[:, :, None, None], b_bias)
    c = F.conv2d(k, c_weight[:, :, None, None], c_bias)
    return (F.conv2d(b * c, a_weight[:, :, None, None], a_bias),)


def _forward(*tensors: Tensor) -> tuple[Tensor, ...]:
    return _cpu.forward("low_rank_experts", tensors, rank=tensors[2].shape[0])


def _backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, needs = inputs
    return _cpu.backward("low_rank_experts", grad, tensors, needs, rank=tensors[2].shape[0])


_op = register(
    "low_rank_experts(Tensor x, Tensor k, Tensor b_weight, Tensor b_bias, Tensor c_weight, Tensor c_bias,"
    " Tensor a_weight, Tensor a_bias)",
    reference=reference,
    forward=_forward,
    backward=_backward,
)
