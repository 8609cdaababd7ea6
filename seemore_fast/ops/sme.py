"""SME, the second block of a layer: striped attention and feed-forward, each behind LayerNorm and added."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from seemore_fast.backends.choice import Backend
from seemore_fast.network.parameters import SMEWeights, flatten, unflatten
from seemore_fast.ops._operator import Operator
from seemore_fast.ops._register import register
from seemore_fast.ops.gated_ffn import reference as gated_ffn
from seemore_fast.ops.layer_norm2d import reference as layer_norm2d
from seemore_fast.ops.striped_attention import reference as striped_attention


def sme(x: Tensor, weights: SMEWeights, eps: float = 1e-6, *, backend: Backend = None) -> Tensor:
    """``y + ffn(LN y)`` with ``y = x + attention(LN x)``.  x: (N, C, H, W), floating -> (N, C, H, W).

    weights: norms (C,); the others as in `striped_attention` and `gated_ffn`.

    Raises ValueError (shape, device, eps), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    return _run([x], flatten(weights), eps, backend=backend)[0]


def reference(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: out and y."""
    *tensors, eps = rest
    w = unflatten(SMEWeights, tensors)
    (normal,) = layer_norm2d(x, *w.norm_1, eps)
    y = x + striped_attention(normal, *flatten(w.attention))[0]
    (normal,) = layer_norm2d(y, *w.norm_2, eps)
    return y + gated_ffn(normal, *flatten(w.ffn))[0], y


_run = register(Operator("sme", ("x",), SMEWeights, {"eps": "float"}, reference, saved={"y": "N C H W"}))
