"""The operations the network is made of, each with a plain-PyTorch formula and native kernels.

All take and return planar tensors (N, C, H, W).  ``backend`` is None (the fastest that can do it),
``"reference"`` (the formula) or ``"cpu"`` (the native kernel: float32, no gradients; BackendError where it
cannot).  Gradients flow through the formula.  Shapes that do not fit raise ValueError, dtypes TypeError,
naming the argument.
"""

from seemore_fast.ops.layer_norm2d import layer_norm2d
from seemore_fast.ops.low_rank_experts import low_rank_experts
from seemore_fast.ops.mix_experts import mix_experts
from seemore_fast.ops.striped_conv2d import striped_conv2d

__all__ = ["layer_norm2d", "low_rank_experts", "mix_experts", "striped_conv2d"]
