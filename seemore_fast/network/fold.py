"""The algebra that makes inference cheaper: reference weights -> folded weights, pure functions in float64.

Everything here is exact up to rounding (docs/architecture.md, "The algebra").  Names: P is RME's ``proj``;
expert e is ``A_e (B_e x * C_e k)``; R is the sum of the experts' ranks.  What comes out is what
csrc/seemore.h's ``sm_network`` takes, and any other engine can take.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from seemore_fast.network import reference
from seemore_fast.network.parameters import (
    FFNWeights,
    Layer,
    MixtureWeights,
    Part,
    RMEWeights,
    SMEWeights,
    StripesWeights,
    convert,
)


def exact(part: Part) -> Part:
    """The weights in float64 on the CPU; 1x1 kernels as matrices."""

    def of(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to("cpu", torch.float64)
        return tensor[:, :, 0, 0] if tensor.shape[2:] == (1, 1) else tensor

    return convert(part, of)


def norm_into_matrix(layer: Layer, norm: Layer) -> Layer:
    """A 1x1 convolution [M, C] that takes LayerNorm's affine part in: W (gamma n + beta) + b.

    Not for a padded convolution: its padding must see 0, not beta.
    """
    return Layer(layer.weight * norm.weight, layer.bias + layer.weight @ norm.bias)


def shuffle_rows(rows: Tensor) -> Tensor:
    """Rows of ``conv_1.2`` in the order that the channel shuffle in two groups gives its output."""
    return rows.reshape(2, rows.shape[0] // 2, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def _halves(layer: Layer) -> tuple[Layer, Layer]:
    """A 1x1 convolution's two halves, by rows."""
    (first, second), (first_bias, second_bias) = layer.weight.chunk(2), layer.bias.chunk(2)
    return Layer(first, first_bias), Layer(second, second_bias)


def _filters(layer: Layer) -> Layer:
    """A depthwise convolution's kernels [C, k, k]."""
    return Layer(layer.weight[:, 0], layer.bias)


def _stripes(stripes: StripesWeights) -> tuple[Layer, Layer]:
    """Both as [C, k]."""
    horizontal = Layer(stripes.weight_h.flatten(1), stripes.bias_h)
    return horizontal, Layer(stripes.weight_v.flatten(1), stripes.bias_v)


def _named(**layers: Layer) -> dict[str, Tensor]:
    """Weights under their layer's name, biases as ``<name>_bias``."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        found |= {name: layer.weight, f"{name}_bias": layer.bias}
    return found


def fold_ffn(norm: Layer, ffn: FFNWeights) -> dict[str, Tensor]:
    """GatedFFN after its LayerNorm's statistics: the two halves of ``fn_1``, the gate, ``fn_2``."""
    a, g = _halves(norm_into_matrix(ffn.fn_1, norm))
    return _named(a=a, g=g, gate=_filters(ffn.gate), out=ffn.fn_2)


def fold_rme(w: RMEWeights, use_shuffle: bool) -> dict[str, Any]:
    """RME around its pooling barrier, and its FFN.

    With n = LayerNorm(x), t = GELU(conv n), and after the stripes x' = GELU(...), k = to_k t:
    before the barrier ``yp = x + proj x' + proj_bias``, ``b = expert_b x'``, ``c = expert_c k``, and at
    low resolution ``up = low_proj low_conv(agg k)`` (R channels instead of C: bilinear resizing
    commutes with 1x1 convolutions); after it, for each chosen expert e with probability w_e,
    ``y = yp + sum_e w_e (expert_out_e (b_e * (c_e + up_e)) + expert_out_bias_e)``.
    """
    to_x, to_k = _halves(convert(w.split, shuffle_rows) if use_shuffle else w.split)
    stripe_h, stripe_v = _stripes(w.stripes)
    return {
        **_named(
            norm=w.norm_1,
            conv=w.conv,
            to_x=to_x,
            to_k=to_k,
            stripe_h=stripe_h,
            stripe_v=stripe_v,
            proj=w.proj,
        ),
        **_fold_mixture(w.mixture, w.proj),
        **_named(
            aggregate=_filters(w.calibrate.agg),
            low_conv=_filters(w.calibrate.conv_0),
            low_proj=convert(w.calibrate.conv_1, lambda value: w.mixture.experts.c.weight @ value),
        ),
        "rme_ffn": fold_ffn(w.norm_2, w.ffn),
    }


def _fold_mixture(w: MixtureWeights, proj: Layer) -> dict[str, Tensor]:
    """The experts side by side, ``proj`` taken into what stands last in each."""
    b, c, a = w.experts
    out = Layer(proj.weight @ a.weight, a.bias @ proj.weight.T)
    return {**_named(expert_b=b, expert_c=c, expert_out=out), "router": w.router_weight}


def fold_sme(w: SMEWeights) -> dict[str, Any]:
    """SME's striped attention after its LayerNorm's statistics, and its FFN."""
    to_q, to_v = _halves(norm_into_matrix(w.attention.qv, w.norm_1))
    sme_h, sme_v = _stripes(w.attention.stripes)
    return {
        **_named(to_q=to_q, to_v=to_v, sme_h=sme_h, sme_v=sme_v, sme_proj=w.attention.proj),
        "sme_ffn": fold_ffn(w.norm_2, w.ffn),
    }


def fold_group(group: reference.ResidualGroup) -> dict[str, Any]:
    """One layer of the network: RME, its FFN, SME, its FFN."""
    use_shuffle = cast(reference.RMEBlock, group.local_block.block).use_shuffle
    return {
        **fold_rme(exact(RMEWeights.of(group.local_block)), use_shuffle),
        **fold_sme(exact(SMEWeights.of(group.global_block))),
    }


def fold_network(model: reference.SeemoRe) -> dict[str, Any]:
    """Everything a native engine needs: hyper-parameters and folded weights (nested dicts of float64)."""
    config = model.config
    return {
        "scale": config["scale"],
        "in_chans": config["in_chans"],
        "num_experts": config["num_experts"],
        "num_layers": config["num_layers"],
        "dim": config["embedding_dim"],
        "kernel": config["global_kernel_size"],
        "recursive": config["recursive"],
        "topk": config["topk"],
        "ranks": reference.expert_ranks(config["num_experts"], config["lr_space"]),
        "img_range": config["img_range"],
        "mean": model.mean.detach().to("cpu", torch.float64).flatten(),
        "groups": [fold_group(cast(reference.ResidualGroup, group)) for group in model.body],
        **_named(
            head=exact(Layer.of(model.conv_1)),
            norm=exact(Layer.of(model.norm)),
            conv_2=exact(Layer.of(model.conv_2)),
            upsampler=exact(Layer.of(model.upsampler[0])),
        ),
    }
