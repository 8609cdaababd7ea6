"""Training on the CPU: the whole network as one differentiable op of the native library.

    seemore_fast::train(Tensor x, Tensor[] weights, str config, bool bf16) -> Tensor[] (out, *kept)
    seemore_fast::train_backward(Tensor grad, Tensor[] kept, Tensor x, Tensor[] weights, str config,
                                 bool[] needs, bool bf16) -> Tensor[]

Weights are the network's as `one_op.weights_of` gives them, in float32, and stay where the modules keep
them: freezing, sharing, optimizers, DDP and checkpoints work as with any module.  Gradients of experts that
no image chose are zero.  ``needs`` has an entry for x and one for each weight; the backward returns the
gradients asked for, in that order.  Its own derivative comes from the reference.

With ``bf16`` operands of matrix products, forward and backward, are bfloat16 where the instruction set
multiplies such.  Their sums and all else are float32, as everything is elsewhere.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import native
from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.engines import one_op
from seemore_fast.network import reference
from seemore_fast.ops._operator import differentiate_twice

_library = torch.library.Library("seemore_fast", "FRAGMENT")


def forward(x: Tensor, weights: Sequence[Tensor], config: str) -> Tensor:
    """The network of this configuration (arguments as JSON): x (N, in_chans, H, W) -> H and W times scale.

    In float32; under autocast to bfloat16 with such operands, where the processor multiplies them.
    """
    given, bf16 = [weight.float() for weight in weights], autocast_dtype(x) == torch.bfloat16
    out = torch.ops.seemore_fast.train.default(x.float(), given, config, bf16)[0]
    return out if x.dtype == torch.float32 else out.to(x.dtype)


@functools.cache
def _given(config: str) -> dict[str, Any]:
    return dict(json.loads(config))


@functools.cache
def _options(config: str) -> dict[str, Any]:
    """What every native call takes."""
    given = _given(config)
    sizes = ("num_layers", "in_chans", "scale", "global_kernel_size", "topk", "recursive", "use_shuffle")
    return {
        "ranks": reference.expert_ranks(given["num_experts"], given["lr_space"]),
        "config": [int(given[name]) for name in sizes],
        "img_range": given["img_range"],
        "eps": reference.LN_EPS,
    }


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _outputs(x: Tensor, config: str) -> list[Tensor]:
    """Memory for the result, and for what the backward needs: csrc/seemore.h, `sm_network_op_params`."""
    given = _given(config)
    n, channels, h, w = x.shape
    scale, c = given["scale"], given["embedding_dim"]
    features = _up(c, 4) * h * _up(w, 16)
    # Layer by layer: what a step frees serves the next, but large blocks come from the system, page by page.
    kept = [5 * features + _up(given["num_experts"] + c, 16)] * given["num_layers"] + [2 * features]
    return [x.new_empty((n, channels, h * scale, w * scale)), *(x.new_empty((n, size)) for size in kept)]


def _run(
    x: Tensor,
    weights: Sequence[Tensor],
    config: str,
    bf16: bool,
    outputs: Sequence[Tensor | None],
    grad: Tensor | None = None,
    kept: Sequence[Tensor] = (),
) -> None:
    mean, *parameters = [weight.contiguous() for weight in weights]
    x = x.contiguous()
    n, _, h, w = x.shape
    native.require().run_network_op(
        [x.data_ptr(), *map(Tensor.data_ptr, parameters)],
        0 if grad is None else grad.data_ptr(),
        [t.data_ptr() for t in kept],
        [0 if t is None else t.data_ptr() for t in outputs],
        (n, parameters[0].shape[0], h, w),
        backward=grad is not None,
        threads=torch.get_num_threads(),
        mean=mean.data_ptr(),
        bf16=bf16,
        **_options(config),
    )


def _train(x: Tensor, weights: list[Tensor], config: str, bf16: bool) -> list[Tensor]:
    outputs = _outputs(x, config)
    _run(x, weights, config, bf16, outputs)
    return outputs


def _gradients(x: Tensor, weights: Sequence[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    pairs = zip((x, *weights), needs, strict=True)
    dense = torch.contiguous_format  # empty_like takes half of new_empty's time, of some 400 tensors
    return [torch.empty_like(t, memory_format=dense) if need else None for t, need in pairs]


def _train_backward(
    grad: Tensor,
    kept: list[Tensor],
    x: Tensor,
    weights: list[Tensor],
    config: str,
    needs: list[bool],
    bf16: bool,
) -> list[Tensor]:
    of_x, of_mean, *of_parameters = found = _gradients(x, weights, needs)
    if of_x is None and of_mean is not None:
        of_x = x.new_empty(x.shape)
    _run(x, weights, config, bf16, [of_x, *of_parameters], grad.contiguous(), kept)
    if of_x is not None and of_mean is not None:  # taken from x, added to the result
        of_mean.copy_((grad.sum((0, 2, 3)) - of_x.sum((0, 2, 3))).view_as(of_mean))
    return [t for t in found if t is not None]


def _fake_backward(
    grad: Tensor,
    kept: list[Tensor],
    x: Tensor,
    weights: list[Tensor],
    config: str,
    needs: list[bool],
    bf16: bool,
) -> list[Tensor]:
    return [t for t in _gradients(x, weights, needs) if t is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, weights, ctx.config, ctx.bf16 = inputs
    kept = output[1:]
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*kept, x, *weights)
    ctx.kept = len(kept)


def _differentiate(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    saved = ctx.saved_tensors  # once: checkpointing minds
    kept, (x, *weights) = saved[: ctx.kept], saved[ctx.kept :]
    of_x, of_weights, *_ = ctx.needs_input_grad
    if grads[0] is None:
        return None, [None] * len(weights), None, None
    needs = [of_x, *of_weights]
    backward = torch.ops.seemore_fast.train_backward.default
    found = iter(backward(grads[0], kept, x, weights, ctx.config, needs, ctx.bf16))
    first, *rest = (next(found) if need else None for need in needs)
    return first, rest, None, None


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, kept, x, weights, ctx.config, ctx.needs, _ = inputs
    ctx.kept = len(kept)
    ctx.save_for_backward(grad, x, *weights)


def _differentiate_twice(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    grad, *tensors = ctx.saved_tensors

    def formula(x: Tensor, *weights: Tensor) -> Tensor:
        return one_op.plain(weights, ctx.config)(x)

    of_grad, of_x, *of_weights = differentiate_twice(formula, grad, tensors, ctx.needs, grads)
    return of_grad, [None] * ctx.kept, of_x, of_weights, None, None, None


_library.define("train(Tensor x, Tensor[] weights, str config, bool bf16) -> Tensor[]")
_library.define(
    "train_backward(Tensor grad, Tensor[] kept, Tensor x, Tensor[] weights, str config, bool[] needs,"
    " bool bf16) -> Tensor[]"
)
for _name, _op, _fake in (
    ("train", _train, lambda x, weights, config, bf16: _outputs(x, config)),
    ("train_backward", _train_backward, _fake_backward),
):
    _library.impl(_name, _op, "CompositeExplicitAutograd")
    torch.library.register_fake(f"seemore_fast::{_name}", _fake, lib=_library)
torch.library.register_autograd("seemore_fast::train", _differentiate, setup_context=_keep, lib=_library)
torch.library.register_autograd(
    "seemore_fast::train_backward", _differentiate_twice, setup_context=_keep_all, lib=_library
)
