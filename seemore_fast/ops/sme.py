"""SME, the second block of a layer: striped attention and feed-forward, each behind LayerNorm and added."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_all, check_image, choose, size
from seemore_fast.ops._register import register
from seemore_fast.ops.gated_ffn import reference as gated_ffn
from seemore_fast.ops.gated_ffn import shapes as ffn_shapes
from seemore_fast.ops.layer_norm2d import reference as layer_norm2d
from seemore_fast.ops.striped_attention import reference as striped_attention
from seemore_fast.ops.striped_attention import shapes as attention_shapes


class SMEWeights(NamedTuple):
    """Norms: (C,); the others as in `striped_attention` and `gated_ffn`."""

    norm_1_weight: Tensor
    norm_1_bias: Tensor
    qv_weight: Tensor
    qv_bias: Tensor
    weight_h: Tensor
    bias_h: Tensor
    weight_v: Tensor
    bias_v: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    norm_2_weight: Tensor
    norm_2_bias: Tensor
    fn_1_weight: Tensor
    fn_1_bias: Tensor
    gate_weight: Tensor
    gate_bias: Tensor
    fn_2_weight: Tensor
    fn_2_bias: Tensor


def sme(x: Tensor, weights: SMEWeights, eps: float = 1e-6, *, backend: Backend = None) -> Tensor:
    """``y + ffn(LN y)`` with ``y = x + attention(LN x)``.  x: (N, C, H, W), floating -> (N, C, H, W).

    Raises ValueError (shape, device), TypeError (dtype) or BackendError; see :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    check_all(x, weights, shapes(x.shape[1], size("weight_h", weights.weight_h, -1)))
    chosen = choose(backend, "sme", x, *weights)
    if chosen == "reference":
        return reference(x, *weights, eps)[0]
    return _op(*cast(chosen, [x], weights), eps, chosen)[0]


def shapes(c: int, k: int) -> dict[str, tuple[int, ...]]:
    """Of the weights, by name, in order."""
    return {
        "norm_1_weight": (c,),
        "norm_1_bias": (c,),
        **attention_shapes(c, k),
        "norm_2_weight": (c,),
        "norm_2_bias": (c,),
        **ffn_shapes(c),
    }


def reference(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The formula in plain PyTorch: out and y."""
    *tensors, eps = rest
    w = SMEWeights(*tensors)
    (normal,) = layer_norm2d(x, w.norm_1_weight, w.norm_1_bias, eps)
    y = x + striped_attention(normal, *w[2:10])[0]
    (normal,) = layer_norm2d(y, w.norm_2_weight, w.norm_2_bias, eps)
    return y + gated_ffn(normal, *w[12:])[0], y


def _empty_saved(x: Tensor, *rest: Any) -> tuple[Tensor]:
    return (x.new_empty(x.shape),)


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    *tensors, eps = inputs
    return _cpu.forward("sme", tensors, _empty_saved(*inputs), kernel=tensors[5].shape[-1], eps=eps)


def _backward(grad: Tensor, y: Tensor, *inputs: Any) -> list[Tensor]:
    *tensors, eps, needs = inputs
    return _cpu.backward("sme", grad, tensors, needs, (y,), kernel=tensors[5].shape[-1], eps=eps)


_op = register(
    f"sme(Tensor x, {', '.join(f'Tensor {name}' for name in SMEWeights._fields)}, float eps)",
    reference=reference,
    saved=("y",),
    empty_saved=_empty_saved,
    forward=_forward,
    backward=_backward,
)
