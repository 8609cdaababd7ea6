"""The operations the network is made of: formulas in plain PyTorch, native kernels, and their gradients.

All take and return planar tensors (N, C, H, W).  Weights have the dtype and device of x, or float32 beside
float16 and bfloat16.  ``backend`` is ``"reference"`` (the formula), ``"cpu"`` (native kernels, float32),
``"triton"`` or, for striped_conv2d, low_rank_experts and mix_experts, ``"cuda"`` (CUDA C++); BackendError
where it cannot.  None and ``"auto"`` are what `seemore_fast.backends.set_default` or SEEMORE_BACKEND names,
else the fastest that can do it.  All are differentiable, any number of times.
Shapes that do not fit raise ValueError, dtypes TypeError, naming the argument.
docs/operators.md says how they behave under autocast, torch.compile and torch.func.
"""

from seemore_fast.network.parameters import (
    AttentionWeights,
    CalibrateWeights,
    ExpertsWeights,
    FFNWeights,
    Layer,
    MixtureWeights,
    RMEWeights,
    SMEWeights,
    StripesWeights,
)
from seemore_fast.ops.calibrate import calibrate
from seemore_fast.ops.gated_ffn import gated_ffn
from seemore_fast.ops.layer_norm2d import layer_norm2d
from seemore_fast.ops.low_rank_experts import low_rank_experts
from seemore_fast.ops.mix_experts import mix_experts
from seemore_fast.ops.rme import rme
from seemore_fast.ops.sme import sme
from seemore_fast.ops.striped_attention import striped_attention
from seemore_fast.ops.striped_conv2d import striped_conv2d

__all__ = [
    "AttentionWeights",
    "CalibrateWeights",
    "ExpertsWeights",
    "FFNWeights",
    "Layer",
    "MixtureWeights",
    "RMEWeights",
    "SMEWeights",
    "StripesWeights",
    "calibrate",
    "gated_ffn",
    "layer_norm2d",
    "low_rank_experts",
    "mix_experts",
    "rme",
    "sme",
    "striped_attention",
    "striped_conv2d",
]
