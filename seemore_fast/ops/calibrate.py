"""Calibration of RME's second half by its coarse context (paper section 3.2)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import CalibrateWeights, unflatten
from seemore_fast.ops._operator import Operator
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
    weights = (agg_weight, agg_bias, conv_0_weight, conv_0_bias, conv_1_weight, conv_1_bias)
    return _run([x], weights, recursive, backend=backend)[0]


def reference(x: Tensor, *rest: Any) -> tuple[Tensor]:
    """The formula in plain PyTorch."""
    *tensors, recursive = rest
    w, c, low = unflatten(CalibrateWeights, [weight.to(x.dtype) for weight in tensors]), x.shape[1], x
    for _ in range(recursive):
        low = F.gelu(F.conv2d(low, *w.agg, stride=4, groups=c))
    low = F.conv2d(F.conv2d(low, *w.conv_0, padding=1, groups=c), *w.conv_1)
    return (x + F.interpolate(low, size=x.shape[2:], mode="bilinear", align_corners=False),)


_run = register(Operator("calibrate", ("x",), CalibrateWeights, {"recursive": "int"}, reference))
