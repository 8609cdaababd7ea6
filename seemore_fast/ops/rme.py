"""RME, the first block of a layer: experts chosen by image, then feed-forward (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from seemore_fast.ops import _cpu
from seemore_fast.ops._common import Backend, cast, check_all, check_image, choose
from seemore_fast.ops._register import register
from seemore_fast.ops.calibrate import check_recursive
from seemore_fast.ops.calibrate import reference as calibrate
from seemore_fast.ops.calibrate import shapes as calibrate_shapes
from seemore_fast.ops.gated_ffn import reference as gated_ffn
from seemore_fast.ops.gated_ffn import shapes as ffn_shapes
from seemore_fast.ops.layer_norm2d import reference as layer_norm2d
from seemore_fast.ops.mix_experts import check_routing, empty_routing
from seemore_fast.ops.mix_experts import reference as mix_experts
from seemore_fast.ops.mix_experts import shapes as mix_shapes
from seemore_fast.ops.striped_conv2d import reference as striped_conv2d


class RMEWeights(NamedTuple):
    """Norms: (C,); conv: (C, C, 3, 3); split: (2C, C, 1, 1); stripes of 3; proj: (C, C, 1, 1); biases of
    their outputs; the others as in `calibrate`, `mix_experts` and `gated_ffn`."""

    norm_1_weight: Tensor
    norm_1_bias: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    split_weight: Tensor
    split_bias: Tensor
    weight_h: Tensor
    bias_h: Tensor
    weight_v: Tensor
    bias_v: Tensor
    agg_weight: Tensor
    agg_bias: Tensor
    conv_0_weight: Tensor
    conv_0_bias: Tensor
    conv_1_weight: Tensor
    conv_1_bias: Tensor
    router_weight: Tensor
    b_weight: Tensor
    b_bias: Tensor
    c_weight: Tensor
    c_bias: Tensor
    a_weight: Tensor
    a_bias: Tensor
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


def rme(
    x: Tensor,
    weights: RMEWeights,
    ranks: Sequence[int],
    topk: int,
    shuffle: bool,
    recursive: int,
    eps: float = 1e-6,
    *,
    backend: Backend = None,
) -> Tensor:
    """``y + ffn(LN y)`` with ``y = x + proj(mix_experts(GELU(stripes(a)), calibrate(k)))``.

    a and k are the halves of ``split(GELU(conv(LN x)))``, shuffled in two groups of channels if ``shuffle``.

    x: (N, C, H, W), floating, H and W at least ``4 ** recursive`` -> (N, C, H, W).  ranks, topk: as in
    `mix_experts`.

    Raises ValueError (shape, device, options), TypeError (dtype) or BackendError; see
    :mod:`seemore_fast.ops`.
    """
    check_image("x", x)
    check_routing(ranks, topk)
    check_all(x, weights, shapes(x.shape[1], ranks))
    check_recursive(x, recursive)
    options = (ranks, topk, shuffle, recursive, eps)
    chosen = choose(backend, "rme", x, *weights)
    if chosen == "reference":
        return reference(x, *weights, *options)[0]
    return _op(*cast(chosen, [x], weights), *options, chosen)[0]


def shapes(c: int, ranks: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Of the weights, by name, in order."""
    return {
        "norm_1_weight": (c,),
        "norm_1_bias": (c,),
        "conv_weight": (c, c, 3, 3),
        "conv_bias": (c,),
        "split_weight": (2 * c, c, 1, 1),
        "split_bias": (2 * c,),
        "weight_h": (c, 1, 1, 3),
        "bias_h": (c,),
        "weight_v": (c, 1, 3, 1),
        "bias_v": (c,),
        **calibrate_shapes(c),
        **mix_shapes(c, ranks),
        "proj_weight": (c, c, 1, 1),
        "proj_bias": (c,),
        "norm_2_weight": (c,),
        "norm_2_bias": (c,),
        **ffn_shapes(c),
    }


def reference(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """The formula in plain PyTorch: out, result of conv, y, and the router's weights and mean."""
    *tensors, ranks, topk, shuffle, recursive, eps = rest
    w = RMEWeights(*tensors)
    (normal,) = layer_norm2d(x, w.norm_1_weight, w.norm_1_bias, eps)
    conv = F.conv2d(normal, w.conv_weight.to(x.dtype), w.conv_bias.to(x.dtype), padding=1)
    u = F.conv2d(F.gelu(conv), w.split_weight.to(x.dtype), w.split_bias.to(x.dtype))
    if shuffle:
        u = u.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    a, k = u.chunk(2, dim=1)
    (a,) = striped_conv2d(a, *w[6:10], True)
    (k,) = calibrate(k, *w[10:16], recursive)
    mixed, weights, mean = mix_experts(a, k, *w[16:23], ranks, topk)
    y = x + F.conv2d(mixed, w.proj_weight.to(x.dtype), w.proj_bias.to(x.dtype))
    (normal,) = layer_norm2d(y, w.norm_2_weight, w.norm_2_bias, eps)
    return y + gated_ffn(normal, *w[27:])[0], conv, y, weights, mean


_TENSORS, _OPTIONS = 1 + len(RMEWeights._fields), ("ranks", "topk", "shuffle", "recursive", "eps")


def _empty_saved(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    router_weight = rest[RMEWeights._fields.index("router_weight")]
    return x.new_empty(x.shape), x.new_empty(x.shape), *empty_routing(x, router_weight)


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    tensors, options = inputs[:_TENSORS], dict(zip(_OPTIONS, inputs[_TENSORS:], strict=True))
    return _cpu.forward("rme", tensors, _empty_saved(*inputs), **options)


def _backward(
    grad: Tensor, conv: Tensor, y: Tensor, weights: Tensor, mean: Tensor, *inputs: Any
) -> list[Tensor]:
    *given, needs = inputs
    tensors, options = given[:_TENSORS], dict(zip(_OPTIONS, given[_TENSORS:], strict=True))
    return _cpu.backward("rme", grad, tensors, needs, (conv, y, weights, mean), **options)


_op = register(
    f"rme(Tensor x, {', '.join(f'Tensor {name}' for name in RMEWeights._fields)},"
    " int[] ranks, int topk, bool shuffle, int recursive, float eps)",
    reference=reference,
    saved=("conv", "y", "weights", "mean"),
    empty_saved=_empty_saved,
    forward=_forward,
    backward=_backward,
)
