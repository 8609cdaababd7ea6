"""The native CPU kernels of the differentiable operators, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import native


def forward(
    name: str, tensors: Sequence[Tensor], saved: Sequence[Tensor] = (), **options: Any
) -> tuple[Tensor, ...]:
    """(out, *saved); out is like ``tensors[0]``, and ``saved`` empty tensors to be filled."""
    outputs = tensors[0].new_empty(tensors[0].shape), *saved
    _run(name, tensors, None, (), outputs, options)
    return outputs


def backward(
    name: str,
    grad: Tensor,
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
    saved: Sequence[Tensor] = (),
    **options: Any,
) -> list[Tensor]:
    """The gradients of those ``tensors`` that are needed."""
    outputs = [t.new_empty(t.shape) if need else None for t, need in zip(tensors, needs, strict=True)]
    _run(name, tensors, grad, saved, outputs, options)
    return [t for t in outputs if t is not None]


def _run(
    name: str,
    tensors: Sequence[Tensor],
    grad: Tensor | None,
    saved: Sequence[Tensor],
    outputs: Sequence[Tensor | None],
    options: dict[str, Any],
) -> None:
    native.require().run_op(
        name,
        [t.data_ptr() for t in tensors],
        0 if grad is None else grad.data_ptr(),
        [t.data_ptr() for t in saved],
        [0 if t is None else t.data_ptr() for t in outputs],
        tensors[0].shape,
        threads=torch.get_num_threads(),
        backward=grad is not None,
        **options,
    )
