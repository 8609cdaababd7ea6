"""The network for training: its blocks as the fused operators of `seemore_fast.ops`, the rest PyTorch's.

Parameters stay where the modules keep them: freezing, sharing, optimizers, DDP and checkpoints work as with
any module.  Gradients of experts that no image chose are zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seemore_fast import ops
from seemore_fast.network import reference
from seemore_fast.ops._common import obstacle


def backend_for(asked: str, x: Tensor, weight: Tensor) -> str:
    """Which backend runs the blocks: ``cpu``, ``triton``, or ``reference`` for plain PyTorch.

    ``asked``: what the model, its default or the environment names.  Without gradients ``triton`` must be
    asked for; otherwise an engine runs, or what engines do not take.
    """
    if asked == "reference" or x.numel() == 0 or x.device != weight.device:
        return "reference"
    if not torch.is_grad_enabled() and asked != "triton":
        return "reference"
    home = "triton" if x.device.type == "cuda" else "cpu"
    return home if obstacle(home, "rme", (x, weight)) is None else "reference"


def forward(model: reference.SeemoRe, x: Tensor, backend: str) -> Tensor:
    """``model(x)`` for x (N, in_chans, H, W); ``backend`` from `backend_for`."""
    mean = model.mean.to(x.dtype)
    x = model.conv_1((x - mean) * model.img_range)
    skip = x
    for group in model.body:
        x = _rme(group.local_block, x, backend)
        x = _sme(group.global_block, x, backend)
    x = ops.layer_norm2d(x, *_both(model.norm), reference.LN_EPS, backend=backend)
    x = model.upsampler(model.conv_2(x) + skip)
    return x / model.img_range + mean


def _rme(block: nn.Module, x: Tensor, backend: str) -> Tensor:
    inner, experts = block.block, block.block.moe_layer.experts
    weights = ops.RMEWeights(
        *_both(block.norm_1),
        *_both(inner.conv_1[0]),
        *_both(inner.conv_1[2]),
        *_both(inner.conv_2[0].conv[0]),
        *_both(inner.conv_2[0].conv[1]),
        *_both(inner.agg_conv[0]),
        *_both(inner.conv[0]),
        *_both(inner.conv[1]),
        inner.moe_layer.gate.body["2"].weight,
        torch.cat([e.conv_1.weight for e in experts]).flatten(1),
        torch.cat([e.conv_1.bias for e in experts]),
        torch.cat([e.conv_2.weight for e in experts]).flatten(1),
        torch.cat([e.conv_2.bias for e in experts]),
        torch.cat([e.conv_3.weight for e in experts], dim=1).flatten(1),
        torch.stack([e.conv_3.bias for e in experts]),
        *_both(inner.proj),
        *_both(block.norm_2),
        *_ffn(block.ffn),
    )
    ranks = [e.conv_1.out_channels for e in experts]
    options = (ranks, inner.moe_layer.topk, inner.use_shuffle, inner.recursive, reference.LN_EPS)
    return ops.rme(x, weights, *options, backend=backend)


def _sme(block: nn.Module, x: Tensor, backend: str) -> Tensor:
    inner = block.block
    weights = ops.SMEWeights(
        *_both(block.norm_1),
        *_both(inner.to_qv[0]),
        *_both(inner.attn.conv[0]),
        *_both(inner.attn.conv[1]),
        *_both(inner.proj),
        *_both(block.norm_2),
        *_ffn(block.ffn),
    )
    return ops.sme(x, weights, reference.LN_EPS, backend=backend)


def _ffn(ffn: nn.Module) -> tuple[Tensor, ...]:
    return *_both(ffn.fn_1[0]), *_both(ffn.gate), *_both(ffn.fn_2[0])


def _both(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias
