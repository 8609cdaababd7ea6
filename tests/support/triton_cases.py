"""Arguments for every op of `seemore_fast.kernels`: for tests and ahead-of-time builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seemore_fast.ops.mix_experts import shapes as mixture_shapes

RANKS = [2, 4, 8]

Fill = Callable[[Sequence[int], torch.dtype], Tensor]


class Case(NamedTuple):
    """An op with its options; ``images`` of its tensors have x's shape, the others ``shapes``."""

    name: str
    images: int
    shapes: Callable[[int], list[tuple[int, ...]]]
    options: tuple[Any, ...]

    def __str__(self) -> str:
        return "-".join([self.name, *(str(option).replace(" ", "") for option in self.options)])

    def inputs(self, shape: Sequence[int], dtype: torch.dtype, weights: torch.dtype, fill: Fill) -> list[Any]:
        """What forward takes, for x of this shape and dtype, with parameters of dtype ``weights``."""
        parameters = [fill(s, weights) for s in self.shapes(shape[1])]
        return [*(fill(shape, dtype) for _ in range(self.images)), *parameters, *self.options]


def _shapes_of(name: str, *arguments: Any) -> Callable[[int], list[tuple[int, ...]]]:
    module = import_module(f"seemore_fast.ops.{name}")
    return lambda c: list(module.shapes(c, *arguments).values())


def _stripes(k: int) -> Callable[[int], list[tuple[int, ...]]]:
    return lambda c: [(c, 1, 1, k), (c,), (c, 1, k, 1), (c,)]


def _one_expert(c: int) -> list[tuple[int, ...]]:
    return [*list(mixture_shapes(c, RANKS).values())[1:6], (c,)]


CASES = [
    Case("layer_norm2d", 1, lambda c: [(c,), (c,)], (1e-6,)),
    *(Case("striped_conv2d", 1, _stripes(k), (gelu,)) for k in (3, 11) for gelu in (False, True)),
    Case("low_rank_experts", 2, _one_expert, ()),
    *(Case("mix_experts", 2, _shapes_of("mix_experts", RANKS), (RANKS, topk)) for topk in (1, 2)),
    *(Case("calibrate", 1, _shapes_of("calibrate"), (recursive,)) for recursive in (1, 2)),
    Case("gated_ffn", 1, _shapes_of("gated_ffn"), ()),
    Case("striped_attention", 1, _shapes_of("striped_attention", 11), ()),
    Case("sme", 1, _shapes_of("sme", 11), (1e-6,)),
    Case("rme", 1, _shapes_of("rme", RANKS), (RANKS, 1, True, 2, 1e-6)),
    Case("rme", 1, _shapes_of("rme", RANKS), (RANKS, 2, False, 1, 1e-6)),
]


def normal(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Random values of a size that keeps a layer's results near 1; each image has a colour."""
    shape = torch.Size(shape)
    if len(shape) == 4 and shape[2:].numel() > 121:
        return (torch.randn(shape) + torch.randn(*shape[:2], 1, 1)).to(dtype)
    return (torch.randn(shape) / max(1, shape[1:].numel()) ** 0.5).to(dtype)
