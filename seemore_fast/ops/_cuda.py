"""The CUDA C++ kernels, which know operators by their names (csrc/seemore_cuda.h, `sm_cuda_op`).

They run on the current stream of x's device; none waits for the host.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import cuda_programs, native
from seemore_fast.ops._operator import Operator

_PIXELS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SIZES = {"k": "kernel", "R": "rank", "E": "experts"}


def obstacle(op: Operator, tensors: Sequence[Tensor], options: Sequence[Any]) -> str | None:
    """Why the kernels cannot run the operator on these inputs; None if they can."""
    why: str | None = native.require().cuda_op_obstacle(op.name, tensors[0].shape, **_sizes(op, tensors))
    return why


def forward(op: Operator, inputs: Sequence[Any]) -> list[Tensor]:
    tensors, options = op.split(inputs)
    outputs = [torch.empty_like(tensors[0]), *op.empty_saved(tensors)]
    _run(op, tensors, None, [], outputs, options)
    return outputs


def backward(
    op: Operator, grad: Tensor, saved: Sequence[Tensor], inputs: Sequence[Any], needs: Sequence[bool]
) -> list[Tensor]:
    """Gradients of weights come in float32, whatever the weights are."""
    tensors, options = op.split(inputs)
    dtypes = [t.dtype if i < len(op.images) else torch.float32 for i, t in enumerate(tensors)]
    outputs = [
        t.new_empty(t.shape, dtype=dtype) if need else None
        for t, dtype, need in zip(tensors, dtypes, needs, strict=True)
    ]
    _run(op, tensors, grad, saved, outputs, options)
    return [out.to(t.dtype) for t, out in zip(tensors, outputs, strict=True) if out is not None]


def _run(
    op: Operator,
    tensors: Sequence[Tensor],
    grad: Tensor | None,
    saved: Sequence[Tensor],
    outputs: Sequence[Tensor | None],
    options: dict[str, Any],
) -> None:
    x, lib = tensors[0], native.require()
    device, pixels = x.device.index or 0, _PIXELS[x.dtype]
    _load(lib, device, pixels)
    images = len(op.images)
    given = [*tensors[:images], *(weight.float() for weight in tensors[images:])]
    memory = []

    def allocate(size: int) -> int:
        memory.append(x.new_empty(size, dtype=torch.uint8))
        return memory[0].data_ptr()

    lib.cuda_op(
        op.name,
        [_buffer(t) for t in given],
        _buffer(grad),
        [_buffer(t) for t in saved],
        [_buffer(t) for t in outputs],
        x.shape,
        pixels,
        device,
        _stream(x.device),
        allocate,
        backward=grad is not None,
        **_sizes(op, tensors),
        **options,
    )


def _sizes(op: Operator, tensors: Sequence[Tensor]) -> dict[str, int]:
    sizes = op.sizes(tensors)
    return {name: sizes[symbol] for symbol, name in _SIZES.items() if symbol in sizes}


def _buffer(tensor: Tensor | None) -> tuple[int, int]:
    return (0, 0) if tensor is None else (tensor.data_ptr(), tensor.nbytes)


@functools.cache
def _load(lib: ModuleType, device: int, pixels: int) -> None:
    cuda_programs.load(lib, device, lib.cuda_op_programs(pixels))


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream
