"""Striped convolution: depthwise 1xk, then depthwise kx1, then GELU if asked (paper section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seemore_fast import _native
from seemore_fast.ops._common import Backend, check_image, check_like, register, size, use_native


def striped_conv2d(
    x: Tensor,
    weight_h: Tensor,
    bias_h: Tensor,
    weight_v: Tensor,
    bias_v: Tensor,
    gelu: bool = False,
    *,
    backend: Backend = None,
) -> Tensor:
    """Depthwise 1xk along the rows, then kx1 along the columns, each zero padded by k // 2.

    x: (N, C, H, W), floating; weight_h: (C, 1, 1, k) and weight_v: (C, 1, k, 1) with k odd; bias_h and
    bias_v: (C,); all of one dtype and device.  ``gelu`` applies GELU (erf form) to the result.
    Returns (N, C, H, W), contiguous from the native kernel.

    Raises ValueError (shape, device), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    c, k = x.shape[1], size("weight_h", weight_h, -1)
    check_like(x, "weight_h", weight_h, (c, 1, 1, k))
    if k % 2 == 0:
        raise ValueError(f"weight_h must have shape (C, 1, 1, k) with k odd, got {tuple(weight_h.shape)}")
    check_like(x, "bias_h", bias_h, (c,))
    check_like(x, "weight_v", weight_v, (c, 1, k, 1))
    check_like(x, "bias_v", bias_v, (c,))
    if use_native(backend, x, weight_h, bias_h, weight_v, bias_v):
        return _op(x, weight_h, bias_h, weight_v, bias_v, gelu)
    return reference(x, weight_h, bias_h, weight_v, bias_v, gelu)


def reference(
    x: Tensor, weight_h: Tensor, bias_h: Tensor, weight_v: Tensor, bias_v: Tensor, gelu: bool
) -> Tensor:
    """The formula in plain PyTorch."""
    c, pad = x.shape[1], weight_h.shape[-1] // 2
    out = F.conv2d(x, weight_h, bias_h, padding=(0, pad), groups=c)
    out = F.conv2d(out, weight_v, bias_v, padding=(pad, 0), groups=c)
    return F.gelu(out) if gelu else out


def _cpu(x: Tensor, weight_h: Tensor, bias_h: Tensor, weight_v: Tensor, bias_v: Tensor, gelu: bool) -> Tensor:
    x, weight_h, bias_h = x.contiguous(), weight_h.contiguous(), bias_h.contiguous()
    weight_v, bias_v = weight_v.contiguous(), bias_v.contiguous()
    out = x.new_empty(x.shape)
    _native.require().striped_conv2d(
        x.data_ptr(),
        weight_h.data_ptr(),
        bias_h.data_ptr(),
        weight_v.data_ptr(),
        bias_v.data_ptr(),
        out.data_ptr(),
        x.shape,
        weight_h.shape[-1],
        gelu,
        torch.get_num_threads(),
    )
    return out


def _fake(
    x: Tensor, weight_h: Tensor, bias_h: Tensor, weight_v: Tensor, bias_v: Tensor, gelu: bool
) -> Tensor:
    return x.new_empty(x.shape)


_op = register(
    "striped_conv2d(Tensor x, Tensor weight_h, Tensor bias_h, Tensor weight_v, Tensor bias_v, bool gelu)"
    " -> Tensor",
    _cpu,
    _fake,
)
