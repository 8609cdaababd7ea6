"""Calibration of RME's second half by its coarse context (paper section 3.2)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_all, check_image, choose
from seemore_fast.ops._register import register


def calibrate(
    x: Tensor,
    agg_weight: Tensor,
    agg_bias: Tensor,
    conv_0_weight: Tensor,
    conv_0_bias: Tensor,
    conv_1_weight: Tensor,
    conv_1_bias: Tensor,
    recursive: int,
    *,
    backend: Backend = None,
) -> Tensor:
    """``x + resize(conv_1(conv_0(agg(... agg(x)))))``: agg, ``recursive`` times, is GELU of a depthwise 4x4
    convolution of stride 4 without padding; conv_0 is a depthwise 3x3, conv_1 a 1x1; resizing is bilinear.

    x: (N, C, H, W), floating, H and W at least ``4 ** recursive``; agg_weight: (C, 1, 4, 4); conv_0_weight:
    (C, 1, 3, 3); conv_1_weight: (C, C, 1, 1); biases: (C,); recursive >= 0.  Returns (N, C, H, W).

    Raises ValueError (shape, device, recursive), TypeError (dtype) or BackendError; see
    :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    weights = (agg_weight, agg_bias, conv_0_weight, conv_0_bias, conv_1_weight, conv_1_bias)
    check_all(x, weights, shapes(x.shape[1]))
    check_recursive(x, recursive)
    chosen = choose(backend, "calibrate", x, *weights)
    if chosen == "reference":
        return reference(x, *weights, recursive)[0]
    return _op(*cast(chosen, [x], weights), recursive, chosen)[0]


def check_recursive(x: Tensor, recursive: int) -> None:
    """Raises ValueError for a negative ``recursive``, or sides that it leaves nothing of."""
    if recursive < 0:
        raise ValueError(f"recursive must be at least 0, got {recursive!r}")
    if min(x.shape[2:]) < 4**recursive:
        raise ValueError(f"x must have sides of at least 4^{recursive}, got {tuple(x.shape)}")


def shapes(c: int) -> dict[str, tuple[int, ...]]:
    """Of the weights, by name, in order."""
    return {
        "agg_weight": (c, 1, 4, 4),
        "agg_bias": (c,),
        "conv_0_weight": (c, 1, 3, 3),
        "conv_0_bias": (c,),
        "conv_1_weight": (c, c, 1, 1),
        "conv_1_bias": (c,),
    }


def reference(
    x: Tensor,
    agg_weight: Tensor,
    agg_bias: Tensor,
    conv_0_weight: Tensor,
    conv_0_bias: Tensor,
    conv_1_weight: Tensor,
    conv_1_bias: Tensor,
    recursive: int,
) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    c, low, dtype = x.shape[1], x, x.dtype
    for _ in range(recursive):
        low = F.gelu(F.conv2d(low, agg_weight.to(dtype), agg_bias.to(dtype), stride=4, groups=c))
    low = F.conv2d(low, conv_0_weight.to(dtype), conv_0_bias.to(dtype), padding=1, groups=c)
    low = F.conv2d(low, conv_1_weight.to(dtype), conv_1_bias.to(dtype))
    return (x + F.interpolate(low, size=x.shape[2:], mode="bilinear", align_corners=False),)


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, recursive = inputs
    return _cpu.forward("calibrate", tensors, recursive=recursive)


def _backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, recursive, needs = inputs
    return _cpu.backward("calibrate", grad, tensors, needs, recursive=recursive)


_op = register(
    "calibrate(Tensor x, Tensor agg_weight, Tensor agg_bias, Tensor conv_0_weight, Tensor conv_0_bias,"
    " Tensor conv_1_weight, Tensor conv_1_bias, int recursive)",
    reference=reference,
    forward=_forward,
    backward=_backward,
)
