"""The algebra that makes inference cheaper: reference weights -> folded weights, pure functions in float64.

Everything here is exact up to rounding (docs/architecture.md, "The algebra").  Names: P is RME's ``proj``;
expert e is ``A_e (B_e x * C_e k)``; R is the sum of the experts' ranks.  What comes out is what
csrc/seemore.h's ``sm_network`` takes, and any other engine can take.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seemore_fast.network import reference


def _pair(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer in float64 on the CPU; 1x1 kernels as matrices."""
    weight = layer.weight.detach().to("cpu", torch.float64)
    bias = layer.bias.detach().to("cpu", torch.float64)
    return (weight[:, :, 0, 0] if weight.ndim == 4 and weight.shape[2:] == (1, 1) else weight), bias


def norm_into_matrix(weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution [M, C] that takes LayerNorm's affine part in: W (gamma n + beta) + b.

    Not for a padded convolution: its padding must see 0, not beta.
    """
    return weight * gamma, bias + weight @ beta


def shuffle_rows(rows: Tensor) -> Tensor:
    """Rows of ``conv_1.2`` in the order that the channel shuffle in two groups gives its output."""
    return rows.reshape(2, rows.shape[0] // 2, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def expert_matrices(experts: nn.ModuleList) -> dict[str, Tensor]:
    """The experts side by side: B [R, C] and C [R, C] with biases, A [C, R] with a bias row each [E, C]."""
    b = [_pair(expert.conv_1) for expert in experts]
    c = [_pair(expert.conv_2) for expert in experts]
    a = [_pair(expert.conv_3) for expert in experts]
    return {
        "b": torch.cat([w for w, _ in b]),
        "b_bias": torch.cat([v for _, v in b]),
        "c": torch.cat([w for w, _ in c]),
        "c_bias": torch.cat([v for _, v in c]),
        "a": torch.cat([w for w, _ in a], dim=1),
        "a_bias": torch.stack([v for _, v in a]),
    }


def fold_ffn(norm: reference.LayerNorm2d, ffn: reference.GatedFFN) -> dict[str, Tensor]:
    """GatedFFN after its LayerNorm's statistics: the two halves of ``fn_1``, the gate, ``fn_2``."""
    weight, bias = norm_into_matrix(*_pair(ffn.fn_1[0]), *_pair(norm))
    (a, g), (a_bias, g_bias) = weight.chunk(2), bias.chunk(2)
    gate, gate_bias = _pair(ffn.gate)
    out, out_bias = _pair(ffn.fn_2[0])
    return {
        "a": a,
        "a_bias": a_bias,
        "g": g,
        "g_bias": g_bias,
        "gate": gate[:, 0],
        "gate_bias": gate_bias,
        "out": out,
        "out_bias": out_bias,
    }


def _stripes(layer: reference.StripedConv2d, name: str) -> dict[str, Tensor]:
    horizontal, horizontal_bias = _pair(layer.conv[0])
    vertical, vertical_bias = _pair(layer.conv[1])
    return {
        f"{name}_h": horizontal.flatten(1),
        f"{name}_h_bias": horizontal_bias,
        f"{name}_v": vertical.flatten(1),
        f"{name}_v_bias": vertical_bias,
    }


def fold_rme(norm: reference.LayerNorm2d, block: reference.RMEBlock) -> dict[str, Tensor]:
    """RME around its pooling barrier.

    With n = LayerNorm(x), t = GELU(conv n), and after the stripes x' = GELU(...), k = to_k t:
    before the barrier ``yp = x + proj x' + proj_bias``, ``b = expert_b x'``, ``c = expert_c k``, and at
    low resolution ``up = low_proj low_conv(agg k)`` (R channels instead of C: bilinear resizing
    commutes with 1x1 convolutions); after it, for each chosen expert e with probability w_e,
    ``y = yp + sum_e w_e (expert_out_e (b_e * (c_e + up_e)) + expert_out_bias_e)``.
    """
    gamma, beta = _pair(norm)
    conv, conv_bias = _pair(block.conv_1[0])
    split, split_bias = _pair(block.conv_1[2])
    if block.use_shuffle:
        split, split_bias = shuffle_rows(split), shuffle_rows(split_bias)
    (to_x, to_k), (to_x_bias, to_k_bias) = split.chunk(2), split_bias.chunk(2)
    proj, proj_bias = _pair(block.proj)
    experts = expert_matrices(block.moe_layer.experts)
    aggregate, aggregate_bias = _pair(block.agg_conv[0])
    low_conv, low_conv_bias = _pair(block.conv[0])
    low_mix, low_mix_bias = _pair(block.conv[1])
    return {
        "norm": gamma,
        "norm_bias": beta,
        "conv": conv,
        "conv_bias": conv_bias,
        "to_x": to_x,
        "to_x_bias": to_x_bias,
        "to_k": to_k,
        "to_k_bias": to_k_bias,
        **_stripes(block.conv_2[0], "stripe"),
        "proj": proj,
        "proj_bias": proj_bias,
        "expert_b": experts["b"],
        "expert_b_bias": experts["b_bias"],
        "expert_c": experts["c"],
        "expert_c_bias": experts["c_bias"],
        "expert_out": proj @ experts["a"],
        "expert_out_bias": experts["a_bias"] @ proj.T,
        "aggregate": aggregate[:, 0],
        "aggregate_bias": aggregate_bias,
        "low_conv": low_conv[:, 0],
        "low_conv_bias": low_conv_bias,
        "low_proj": experts["c"] @ low_mix,
        "low_proj_bias": experts["c"] @ low_mix_bias,
        "router": block.moe_layer.gate.body["2"].weight.detach().to("cpu", torch.float64),
    }


def fold_sme(norm: reference.LayerNorm2d, block: reference.StripedAttention) -> dict[str, Tensor]:
    """SME's striped attention after its LayerNorm's statistics."""
    weight, bias = norm_into_matrix(*_pair(block.to_qv[0]), *_pair(norm))
    (to_q, to_v), (to_q_bias, to_v_bias) = weight.chunk(2), bias.chunk(2)
    proj, proj_bias = _pair(block.proj)
    return {
        "to_q": to_q,
        "to_q_bias": to_q_bias,
        "to_v": to_v,
        "to_v_bias": to_v_bias,
        **_stripes(block.attn, "sme"),
        "sme_proj": proj,
        "sme_proj_bias": proj_bias,
    }


def fold_group(group: reference.ResidualGroup) -> dict[str, Any]:
    """One layer of the network: RME, its FFN, SME, its FFN."""
    rme, sme = group.local_block, group.global_block
    return {
        **fold_rme(rme.norm_1, rme.block),
        "rme_ffn": fold_ffn(rme.norm_2, rme.ffn),
        **fold_sme(sme.norm_1, sme.block),
        "sme_ffn": fold_ffn(sme.norm_2, sme.ffn),
    }


def fold_network(model: reference.SeemoRe) -> dict[str, Any]:
    """Everything a native engine needs: hyper-parameters and folded weights (nested dicts of float64)."""
    head, head_bias = _pair(model.conv_1)
    norm, norm_bias = _pair(model.norm)
    conv_2, conv_2_bias = _pair(model.conv_2)
    upsampler, upsampler_bias = _pair(model.upsampler[0])
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
        "head": head,
        "head_bias": head_bias,
        "groups": [fold_group(group) for group in model.body],
        "norm": norm,
        "norm_bias": norm_bias,
        "conv_2": conv_2,
        "conv_2_bias": conv_2_bias,
        "upsampler": upsampler,
        "upsampler_bias": upsampler_bias,
    }
