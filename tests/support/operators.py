"""Arguments for every operator of `seemore_fast.ops`, by name, and calls with them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seemore_fast import ops

BLOCKS = {"rme": ops.RMEWeights, "sme": ops.SMEWeights}
OPS = [name for name in ops.__all__ if name.islower()]


def make_args(
    name: str,
    shape: tuple[int, ...],
    *,
    k: int = 11,
    gelu: bool = True,
    ranks: Any = (2, 4, 8),
    topk: int = 2,
) -> dict[str, Any]:
    """Random arguments of the op, by name, for x of this shape; those of blocks' weights one by one."""
    c, rank, experts = shape[1], sum(ranks), len(ranks)
    randn = torch.randn
    x = randn(shape) + randn(shape[0], c, 1, 1)  # images of different colour choose different experts
    matrices = {
        "b_weight": randn(rank, c),
        "b_bias": randn(rank),
        "c_weight": randn(rank, c),
        "c_bias": randn(rank),
        "a_weight": randn(c, rank),
    }
    if name == "layer_norm2d":
        return {"x": x, "weight": randn(c), "bias": randn(c)}
    if name == "striped_conv2d":
        stripes = {"weight_h": randn(c, 1, 1, k), "bias_h": randn(c)}
        return {"x": x, **stripes, "weight_v": randn(c, 1, k, 1), "bias_v": randn(c), "gelu": gelu}
    if name == "low_rank_experts":
        return {"x": x, "k": randn(shape), **matrices, "a_bias": randn(c)}
    if name != "mix_experts":
        module = importlib.import_module(f"seemore_fast.ops.{name}")
        recursive = 2 if min(shape[2:]) >= 16 else int(min(shape[2:]) >= 4)
        of_shapes, options = {
            "gated_ffn": ((), {}),
            "striped_attention": ((k,), {}),
            "calibrate": ((), {"recursive": recursive}),
            "sme": ((k,), {"eps": 1e-6}),
            "rme": (
                (ranks,),
                {
                    "ranks": list(ranks),
                    "topk": topk,
                    "shuffle": c % 2 == 0,
                    "recursive": recursive,
                    "eps": 1e-6,
                },
            ),
        }[name]
        weights = {
            what: randn(shape) / max(1, shape[1:].numel()) ** 0.5
            for what, shape in ((n, torch.Size(s)) for n, s in module.shapes(c, *of_shapes).items())
        }
        return {"x": x, **weights, **options}
    router = {"k": randn(shape), "router_weight": randn(experts, c)}
    return {"x": x, **router, **matrices, "a_bias": randn(experts, c), "ranks": list(ranks), "topk": topk}


def convert(args: dict[str, Any], f: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: f(value) if isinstance(value, Tensor) else value for name, value in args.items()}


def call(name: str, args: dict[str, Any], **options: Any) -> Any:
    """The public function, on arguments as `make_args` gives them."""
    if name in BLOCKS:
        x, *rest = args.values()
        count = len(BLOCKS[name]._fields)
        return getattr(ops, name)(x, BLOCKS[name](*rest[:count]), *rest[count:], **options)
    return getattr(ops, name)(**args, **options)


def outputs(name: str, args: dict[str, Any], **options: Any) -> tuple[Tensor, ...]:
    result = call(name, args, **options)
    return result if isinstance(result, tuple) else (result,)
