"""The native CPU kernels, which know every operator by its name (csrc/seemore.h, `sm_op`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import native
from seemore_fast.ops._operator import Operator

_SIZES = {"k": "kernel", "R": "rank"}


def obstacle(op: Operator, tensors: Sequence[Tensor], options: Sequence[Any]) -> str | None:
    """None: the kernels take every operator and size."""
    return None


def forward(op: Operator, inputs: Sequence[Any]) -> list[Tensor]:
    tensors, options = op.split(inputs)
    outputs = [tensors[0].new_empty(tensors[0].shape), *op.empty_saved(tensors)]
    _run(op, tensors, None, [], outputs, options)
    return outputs


def backward(
    op: Operator, grad: Tensor, saved: Sequence[Tensor], inputs: Sequence[Any], needs: Sequence[bool]
) -> list[Tensor]:
    tensors, options = op.split(inputs)
    outputs = [t.new_empty(t.shape) if need else None for t, need in zip(tensors, needs, strict=True)]
    _run(op, tensors, grad, saved, outputs, options)
    return [t for t in outputs if t is not None]


def _run(
    op: Operator,
    tensors: Sequence[Tensor],
    grad: Tensor | None,
    saved: Sequence[Tensor],
    outputs: Sequence[Tensor | None],
    options: dict[str, Any],
) -> None:
    sizes = op.sizes(tensors)
    native.require().run_op(
        op.name,
        [t.data_ptr() for t in tensors],
        0 if grad is None else grad.data_ptr(),
        [t.data_ptr() for t in saved],
        [0 if t is None else t.data_ptr() for t in outputs],
        tensors[0].shape,
        threads=torch.get_num_threads(),
        backward=grad is not None,
        **{name: sizes[symbol] for symbol, name in _SIZES.items() if symbol in sizes},
        **options,
    )
