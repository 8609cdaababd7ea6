"""Arguments for every operator of `seemore_fast.ops`, derived from its description, and calls with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seemore_fast import ops
from seemore_fast.network.parameters import RMEWeights, SMEWeights, unflatten
from seemore_fast.ops._register import OPERATORS

OPS = list(OPERATORS)
BLOCKS = {"rme": RMEWeights, "sme": SMEWeights}
"""Those that take their weights as one argument."""

RANKS = [2, 4, 8]

Fill = Callable[[Sequence[int], torch.dtype], Tensor]


class Case(NamedTuple):
    """An operator, the options that it is called with, and the taps of its stripes if it has any."""

    name: str
    options: dict[str, Any]
    k: int = 11

    def __str__(self) -> str:
        stripes = [self.k] if self.name == "striped_conv2d" else []
        return "-".join([self.name, *(str(v).replace(" ", "") for v in (*stripes, *self.options.values()))])

    def inputs(self, shape: Sequence[int], dtype: torch.dtype, weights: torch.dtype, fill: Fill) -> list[Any]:
        """What the torch op takes, for x of this shape and dtype, with weights of dtype ``weights``."""
        op, ranks = OPERATORS[self.name], self.options.get("ranks", RANKS)
        sizes = {"C": shape[1], "k": self.k, "R": sum(ranks), "E": len(ranks)}
        parameters = [fill(leaf.shape(sizes), weights) for leaf in op.leaves]
        return [*(fill(shape, dtype) for _ in op.images), *parameters, *self.options.values()]


CASES = [
    Case("layer_norm2d", {"eps": 1e-6}),
    *(Case("striped_conv2d", {"gelu": gelu}, k) for k in (3, 11) for gelu in (False, True)),
    Case("low_rank_experts", {}),
    *(Case("mix_experts", {"ranks": RANKS, "topk": topk}) for topk in (1, 2)),
    *(Case("calibrate", {"recursive": recursive}) for recursive in (1, 2)),
    Case("gated_ffn", {}),
    Case("striped_attention", {}),
    Case("sme", {"eps": 1e-6}),
    Case("rme", {"ranks": RANKS, "topk": 1, "shuffle": True, "recursive": 2, "eps": 1e-6}),
    Case("rme", {"ranks": RANKS, "topk": 2, "shuffle": False, "recursive": 1, "eps": 1e-6}),
]
"""Every operator with every branch of its options."""


def normal(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Random values of a size that keeps a layer's results near 1; each image has a colour."""
    shape = torch.Size(shape)
    if len(shape) == 4 and shape[2:].numel() > 121:
        return (torch.randn(shape) + torch.randn(*shape[:2], 1, 1)).to(dtype)
    return (torch.randn(shape) / max(1, shape[1:].numel()) ** 0.5).to(dtype)


def make_args(
    name: str,
    shape: tuple[int, ...],
    *,
    k: int = 11,
    gelu: bool = True,
    ranks: Sequence[int] = (2, 4, 8),
    topk: int = 2,
) -> dict[str, Any]:
    """Random arguments of the operator, by name, for x of this shape; those of blocks' weights one by one.

    Options that are not given suit the shape.
    """
    op, shortest = OPERATORS[name], min(shape[2:])
    fitting = {
        "gelu": gelu,
        "ranks": list(ranks),
        "topk": topk,
        "shuffle": shape[1] % 2 == 0,
        "recursive": 2 if shortest >= 16 else int(shortest >= 4),
        "eps": 1e-6,
    }
    options = {option: fitting[option] for option in op.options}
    # Images of different colour choose different experts; blocks' sums are to stay near 1.
    scaled = name not in ("layer_norm2d", "striped_conv2d", "low_rank_experts", "mix_experts")
    sizes = {"C": shape[1], "k": k, "R": sum(ranks), "E": len(ranks)}
    args: dict[str, Any] = {image: torch.randn(shape) for image in op.images}
    args["x"] = args["x"] + torch.randn(*shape[:2], 1, 1)
    for leaf in op.leaves:
        value = torch.randn(leaf.shape(sizes))
        args[leaf.name] = value / max(1, value.shape[1:].numel()) ** 0.5 if scaled else value
    return {**args, **options}


def convert(args: dict[str, Any], f: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: f(value) if isinstance(value, Tensor) else value for name, value in args.items()}


def call(name: str, args: dict[str, Any], **options: Any) -> Any:
    """The public function, on arguments as `make_args` gives them."""
    if name in BLOCKS:
        x, *rest = args.values()
        count = len(OPERATORS[name].leaves)
        return getattr(ops, name)(x, unflatten(BLOCKS[name], rest[:count]), *rest[count:], **options)
    return getattr(ops, name)(**args, **options)


def outputs(name: str, args: dict[str, Any], **options: Any) -> tuple[Tensor, ...]:
    result = call(name, args, **options)
    return result if isinstance(result, tuple) else (result,)
