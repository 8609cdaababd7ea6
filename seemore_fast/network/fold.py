"""The algebra that makes inference cheaper: reference weights -> folded weights, pure functions in float64.

Everything here is exact up to rounding (docs/architecture.md, "The algebra").  Names: P is RME's ``proj``;
expert e is ``A_e (B_e x * C_e k)``; R is the sum of the experts' ranks.  What comes out are named tuples like
the structs of csrc/seemore.h, which has their shapes: what native engines take, tensor after tensor.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from seemore_fast.network import reference
from seemore_fast.network.parameters import (
    FFNWeights,
    Layer,
    Part,
    RMEWeights,
    SMEWeights,
    StripesWeights,
    convert,
)


class FoldedStripes(NamedTuple):
    h: Layer
    v: Layer


class FoldedCalibrate(NamedTuple):
    """Of the context at low resolution, ``proj conv(agg k)``, projected to the experts' ranks."""

    aggregate: Layer
    conv: Layer
    proj: Layer


class FoldedMixture(NamedTuple):
    """Of the experts side by side; ``out`` has RME's projection inside, and a row of its bias for each."""

    router: Tensor
    b: Layer
    c: Layer
    out: Layer


class FoldedFFN(NamedTuple):
    """Of GatedFFN: the two halves of ``fn_1``, the gate, ``fn_2``."""

    a: Layer
    g: Layer
    gate: Layer
    out: Layer


class FoldedRME(NamedTuple):
    norm: Layer
    conv: Layer
    to_x: Layer
    to_k: Layer
    stripes: FoldedStripes
    calibrate: FoldedCalibrate
    mixture: FoldedMixture
    proj: Layer
    ffn: FoldedFFN


class FoldedSME(NamedTuple):
    to_q: Layer
    to_v: Layer
    stripes: FoldedStripes
    proj: Layer
    ffn: FoldedFFN


class FoldedGroup(NamedTuple):
    """A layer of the network."""

    rme: FoldedRME
    sme: FoldedSME


class FoldedEnds(NamedTuple):
    """What stands before the groups and after them."""

    mean: Tensor
    head: Layer
    norm: Layer
    conv_2: Layer
    upsampler: Layer


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


def _stripes(stripes: StripesWeights) -> FoldedStripes:
    """Both as [C, k]."""
    horizontal = Layer(stripes.weight_h.flatten(1), stripes.bias_h)
    return FoldedStripes(horizontal, Layer(stripes.weight_v.flatten(1), stripes.bias_v))


def fold_ffn(norm: Layer, ffn: FFNWeights) -> FoldedFFN:
    """GatedFFN after its LayerNorm's statistics."""
    a, g = _halves(norm_into_matrix(ffn.fn_1, norm))
    return FoldedFFN(a, g, _filters(ffn.gate), ffn.fn_2)


def fold_rme(w: RMEWeights, use_shuffle: bool) -> FoldedRME:
    """RME around its pooling barrier, and its FFN.

    With n = LayerNorm(x), t = GELU(conv n), and after the stripes x' = GELU(...), k = to_k t:
    before the barrier ``yp = x + proj x' + proj_bias``, ``b = mixture.b x'``, ``c = mixture.c k``, and at
    low resolution ``up = calibrate.proj calibrate.conv(agg k)`` (R channels instead of C: bilinear resizing
    commutes with 1x1 convolutions); after it, for each chosen expert e with probability w_e,
    ``y = yp + sum_e w_e (out_e (b_e * (c_e + up_e)) + out_bias_e)``.
    """
    to_x, to_k = _halves(convert(w.split, shuffle_rows) if use_shuffle else w.split)
    b, c, a = w.mixture.experts
    return FoldedRME(
        norm=w.norm_1,
        conv=w.conv,
        to_x=to_x,
        to_k=to_k,
        stripes=_stripes(w.stripes),
        calibrate=FoldedCalibrate(
            aggregate=_filters(w.calibrate.agg),
            conv=_filters(w.calibrate.conv_0),
            proj=convert(w.calibrate.conv_1, lambda value: c.weight @ value),
        ),
        mixture=FoldedMixture(
            router=w.mixture.router_weight,
            b=b,
            c=c,
            out=Layer(w.proj.weight @ a.weight, a.bias @ w.proj.weight.T),
        ),
        proj=w.proj,
        ffn=fold_ffn(w.norm_2, w.ffn),
    )


def fold_sme(w: SMEWeights) -> FoldedSME:
    """SME's striped attention after its LayerNorm's statistics, and its FFN."""
    to_q, to_v = _halves(norm_into_matrix(w.attention.qv, w.norm_1))
    return FoldedSME(
        to_q=to_q,
        to_v=to_v,
        stripes=_stripes(w.attention.stripes),
        proj=w.attention.proj,
        ffn=fold_ffn(w.norm_2, w.ffn),
    )


def fold_group(group: reference.ResidualGroup) -> FoldedGroup:
    """RME, its FFN, SME, its FFN."""
    use_shuffle = cast(reference.RMEBlock, group.local_block.block).use_shuffle
    return FoldedGroup(
        fold_rme(exact(RMEWeights.of(group.local_block)), use_shuffle),
        fold_sme(exact(SMEWeights.of(group.global_block))),
    )


def fold_network(model: reference.SeemoRe) -> dict[str, Any]:
    """What a native engine needs: hyper-parameters, ``ends``, and ``groups``, a list; weights in float64."""
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
        "ends": FoldedEnds(
            mean=model.mean.detach().to("cpu", torch.float64).flatten(),
            head=exact(Layer.of(model.conv_1)),
            norm=exact(Layer.of(model.norm)),
            conv_2=exact(Layer.of(model.conv_2)),
            upsampler=exact(Layer.of(model.upsampler[0])),
        ),
        "groups": [fold_group(cast(reference.ResidualGroup, group)) for group in model.body],
    }
