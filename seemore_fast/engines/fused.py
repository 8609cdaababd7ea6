"""The network for training on a GPU: its blocks as operators of `seemore_fast.ops`, the rest PyTorch's.

Parameters stay where the modules keep them: freezing, sharing, optimizers, DDP and checkpoints work as with
any module.  Gradients of experts that no image chose are zero.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from seemore_fast import ops
from seemore_fast.backends.choice import Backend
from seemore_fast.network import reference
from seemore_fast.network.parameters import Layer, RMEWeights, SMEWeights


def forward(model: reference.SeemoRe, x: Tensor, backend: Backend) -> Tensor:
    """``model(x)`` for x (N, in_chans, H, W), by the operators of this backend."""
    mean = model.mean.to(x.dtype)
    x = model.conv_1((x - mean) * model.img_range)
    skip = x
    for module in model.body:
        group = cast(reference.ResidualGroup, module)
        x = rme(group.local_block, x, backend)
        x = sme(group.global_block, x, backend)
    x = ops.layer_norm2d(x, *Layer.of(model.norm), reference.LN_EPS, backend=backend)
    x = model.upsampler(model.conv_2(x) + skip)
    return x / model.img_range + mean


def rme(module: reference.ResidualBlock, x: Tensor, backend: Backend) -> Tensor:
    """A layer's first block."""
    block = cast(reference.RMEBlock, module.block)
    mixture = block.moe_layer
    ranks = [cast(reference.LowRankExpert, expert).conv_1.out_channels for expert in mixture.experts]
    options = (ranks, mixture.topk, block.use_shuffle, block.recursive, reference.LN_EPS)
    return ops.rme(x, RMEWeights.of(module), *options, backend=backend)


def sme(module: reference.ResidualBlock, x: Tensor, backend: Backend) -> Tensor:
    """A layer's second block."""
    return ops.sme(x, SMEWeights.of(module), reference.LN_EPS, backend=backend)
