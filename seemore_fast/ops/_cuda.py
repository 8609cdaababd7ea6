"""The CUDA C++ kernels of the operators that have them: their launches, forward and backward.

Kernels (csrc/cuda/ops) run on the current stream of x's device; none waits for the host.  Weights go to them
in float32, and what they sum up over pixels comes back in as many parts as blocks made it, for one sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import ceil
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import cuda_programs, native
from seemore_fast.ops._operator import Operator

_PIXELS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_BLOCKS = 528
"""About as many sum up gradients: never the card's own number, on which the order of sums would depend."""

_LIMITS = (
    ("k", 63, "stripes of at most {}"),
    ("R", 240, "ranks of at most {} in all"),
    ("E", 64, "at most {} experts"),
)
"""Of the kernels (csrc/cuda/ops/params.h)."""


def obstacle(op: Operator, tensors: Sequence[Tensor]) -> str | None:
    """Why the kernels cannot run the operator on these inputs; None if they can."""
    if op.name not in KERNELS:
        return f"there is no CUDA C++ kernel of {op.name}"
    sizes = op.sizes(tensors)
    for symbol, most, text in _LIMITS:
        if sizes.get(symbol, 0) > most:
            return f"the CUDA kernels take {text.format(most)}, not {sizes[symbol]}"
    return None


def forward(op: Operator, inputs: Sequence[Any]) -> Sequence[Tensor]:
    return KERNELS[op.name][0](*inputs)


def backward(
    op: Operator, grad: Tensor, saved: Sequence[Tensor], inputs: Sequence[Any], needs: Sequence[bool]
) -> list[Tensor]:
    return KERNELS[op.name][1](grad, *saved, *inputs, needs)


def _stripes(*inputs: Any) -> tuple[Tensor]:
    x, *weights, gelu = inputs
    return (_filtered(x, weights, None, gelu),)


def _filtered(x: Tensor, weights: Sequence[Tensor], grad: Tensor | None, gelu: bool) -> Tensor:
    """The result, or with ``grad`` the gradient of what GELU is given; shape of x."""
    out, taps = torch.empty_like(x), weights[0].shape[-1]
    shares = _tiles(x, 1024)
    _launch("stripes", x, [x, *_wide(weights), grad], [out], shares, taps=taps, gelu=gelu)
    return out


def _stripes_backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    x, *weights, gelu, needs = inputs
    (n, c), taps = x.shape[:2], weights[0].shape[-1]
    shares = _shares(x, 1024, n * c)
    if gelu:
        grad = _filtered(x, weights, grad, gelu)
    dx = torch.empty_like(x) if needs[0] else None
    partial = _zeros(x, (n, shares, c, 2 * taps + 2)) if any(needs[1:]) else None
    _launch("stripes_backward", x, [x, *_wide(weights), grad], [dx, partial], shares, taps=taps)
    sums = [None] * 4 if partial is None else partial.sum((0, 1)).split([taps, taps, 1, 1], dim=1)
    weight_h, weight_v, bias_h, bias_v = sums
    return _asked([dx, weight_h, bias_h, weight_v, bias_v], [x, *weights], needs)


def _experts(*inputs: Tensor) -> tuple[Tensor]:
    x, k, *matrices = inputs
    return (_mixed(x, k, matrices, None, [matrices[0].shape[0]]),)


def _mixed(
    x: Tensor, k: Tensor, matrices: Sequence[Tensor], weights: Tensor | None, ranks: Sequence[int]
) -> Tensor:
    out = torch.empty_like(x)
    _launch("experts", x, [x, k, *_wide(matrices), weights], [out], _tiles(x, 128), ranks=ranks)
    return out


def _experts_gradients(
    grad: Tensor,
    x: Tensor,
    k: Tensor,
    matrices: Sequence[Tensor],
    weights: Tensor | None,
    ranks: Sequence[int],
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of x and k, and all sums of each image (N, 3 R C + 3 R + C), as ExpertsParams in params.h lists them.

    ``needs``: which of the three.
    """
    (n, c), rank, shares = x.shape[:2], sum(ranks), _shares(x, 128, x.shape[0])
    dx, dk = (torch.empty_like(x) if need else None for need in needs[:2])
    partial = _zeros(x, (n, shares, 3 * rank * c + 3 * rank + c)) if needs[2] else None
    given = [x, k, *_wide(matrices), weights, grad]
    _launch("experts_backward", x, given, [dx, dk, partial], shares, ranks=ranks)
    return dx, dk, None if partial is None else partial.sum(1)


def _matrix_gradients(sums: Tensor, c: int, rank: int) -> list[Tensor]:
    """Of b_weight, b_bias, c_weight, c_bias, a_weight, and the sum of grad; from the sums of all images."""
    parts = sums.split([rank * c] * 3 + [rank, rank, c, rank])
    b, c_, a, b_bias, c_bias, grad, _ = parts
    return [b, b_bias, c_, c_bias, a.view(rank, c).t(), grad]


def _experts_backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    x, k, *matrices, needs = inputs
    rank = matrices[0].shape[0]
    which = (needs[0], needs[1], any(needs[2:]))
    dx, dk, sums = _experts_gradients(grad, x, k, matrices, None, [rank], which)
    found = [None] * 6 if sums is None else _matrix_gradients(sums.sum(0), x.shape[1], rank)
    return _asked([dx, dk, *found], [x, k, *matrices], needs)


def _mixture(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, k, router, *matrices, ranks, topk = inputs
    (n, c), shares = x.shape[:2], _tiles(x, 4096)
    partial, weights, mean = (_empty(x, shape) for shape in ((n, c, shares), (n, len(ranks)), (n, c)))
    _launch("pool", x, [x], [partial], shares)
    _launch("route", x, [partial, *_wide([router])], [weights, mean], shares, ranks=ranks, topk=topk)
    return _mixed(x, k, matrices, weights, ranks), weights, mean


def _mixture_backward(grad: Tensor, weights: Tensor, mean: Tensor, *inputs: Any) -> list[Tensor]:
    x, k, router, *matrices, ranks, _, needs = inputs
    (n, c), rank, experts = x.shape[:2], sum(ranks), len(ranks)
    which = (needs[0], needs[1], needs[0] or any(needs[2:]))
    dx, dk, sums = _experts_gradients(grad, x, k, matrices, weights, ranks, which)
    found: list[Tensor | None] = [None] * 7
    if sums is not None:
        offset, by_image = _empty(x, (n, c)), _empty(x, (n, 2, experts, c))
        given = [weights, mean, *_wide([router, matrices[-1]]), sums]
        _launch("route_backward", x, given, [offset, by_image], 1, ranks=ranks)
        if dx is not None:
            dx.add_(offset[:, :, None, None])
        drouter, da_bias = by_image.sum(0)
        found = [drouter, *_matrix_gradients(sums.sum(0), c, rank)[:5], da_bias]
    return _asked([dx, dk, *found], [x, k, router, *matrices], needs)


KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., list[Tensor]]]] = {
    "striped_conv2d": (_stripes, _stripes_backward),
    "low_rank_experts": (_experts, _experts_backward),
    "mix_experts": (_mixture, _mixture_backward),
}
"""forward(*inputs) and backward(grad, *saved, *inputs, needs) of each operator that has them."""


def _launch(
    kernel: str,
    x: Tensor,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Tensor | None],
    shares: int,
    **options: Any,
) -> None:
    """``kernel`` of csrc/seemore_cuda.h, for images of the shape and dtype of ``x``."""
    if x.shape[0] == 0:
        return
    buffers = [[(0, 0) if t is None else (t.data_ptr(), t.nbytes) for t in ts] for ts in (inputs, outputs)]
    device, lib = x.device.index or 0, native.require()
    _load(lib, device, _PIXELS[x.dtype])
    lib.cuda_op(kernel, *buffers, _PIXELS[x.dtype], x.shape, shares, device, _stream(x.device), **options)


@functools.cache
def _load(lib: ModuleType, device: int, pixels: int) -> None:
    cuda_programs.load(lib, device, lib.cuda_op_programs(pixels))


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _tiles(x: Tensor, pixels: int) -> int:
    """Blocks of an image or plane, each for some ``pixels``."""
    return ceil(x.shape[2] * x.shape[3] / pixels)


def _shares(x: Tensor, pixels: int, others: int) -> int:
    """The same, but few in all, as their sums go through memory; ``others``: such images or planes."""
    return min(_tiles(x, pixels), ceil(_BLOCKS / max(others, 1)))


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


def _zeros(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.new_zeros(shape, dtype=torch.float32)


def _wide(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.float() for weight in weights]


def _asked(
    gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], needs: Sequence[bool]
) -> list[Tensor]:
    """Those that are needed, each dense, alone in its memory, and in the shape and dtype of its input."""
    found = []
    for gradient, value, need in zip(gradients, inputs, needs, strict=True):
        if need:
            assert gradient is not None
            if gradient.shape == value.shape and gradient._base is None and gradient.dtype == value.dtype:
                found.append(gradient)
            else:
                found.append(torch.empty_like(value).copy_(gradient.reshape(value.shape)))
    return found
