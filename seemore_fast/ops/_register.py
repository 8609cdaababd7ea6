"""Makes a function and two torch ops, forward and backward, out of an operator.

Every operator ``<op>`` becomes

    seemore_fast::<op>(<inputs>, str backend) -> (Tensor out, Tensor <saved>...)
    seemore_fast::<op>_backward(Tensor grad, Tensor <saved>..., <inputs>, bool[] needs, str backend)
        -> Tensor[]

where <inputs> are the operator's tensors and then its options.  ``needs`` has one entry per input tensor; the
backward returns the gradients asked for, in that order, each of its input's shape and dtype.  It runs on the
backend the forward ran on.  Its own derivative comes from the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from seemore_fast.backends import choice
from seemore_fast.backends.choice import Backend
from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.ops import _cpu, _cuda, _triton
from seemore_fast.ops._checks import check_arguments
from seemore_fast.ops._operator import Kernels, Operator, differentiate_twice

library = torch.library.Library("seemore_fast", "DEF")

OPERATORS: dict[str, Operator] = {}
"""By name."""


class KernelsOfBackend(Kernels, Protocol):
    """A backend.  Its kernels are called without autocast and with contiguous tensors, and return such.

    `obstacle` says why they cannot run the operator on tensors that `choice.obstacle` has nothing against.
    """

    def obstacle(self, op: Operator, tensors: Sequence[Tensor], options: Sequence[Any], /) -> str | None: ...


BACKENDS: dict[str, KernelsOfBackend] = {"cpu": _cpu, "cuda": _cuda, "triton": _triton}


class Function(Protocol):
    """The operator on any backend, differentiable in the first of its results, (out, *saved)."""

    def __call__(
        self, images: Sequence[Tensor], weights: Iterable[Tensor], *options: Any, backend: Backend
    ) -> tuple[Tensor, ...]: ...


def register(operator: Operator) -> Function:
    """Defines the operator in torch, and gives the function that checks, chooses and runs."""
    OPERATORS[operator.name] = operator
    op = _register_kernels(operator)

    def run(
        images: Sequence[Tensor], weights: Iterable[Tensor], *options: Any, backend: Backend
    ) -> tuple[Tensor, ...]:
        weights = list(weights)
        tensors = [*images, *weights]
        check_arguments(operator, tensors, dict(zip(operator.options, options, strict=True)))

        def why_not(name: str) -> str | None:
            if name == "reference":
                return None
            return choice.obstacle(name, *tensors) or BACKENDS[name].obstacle(operator, tensors, options)

        chosen = choice.choose(backend, operator.name, images[0], why_not)
        if chosen == "reference":
            return operator.formula(*tensors, *options)
        return op(*_cast(chosen, images, weights), *options, chosen)

    return run


def _cast(backend: str, images: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Both, and under autocast in the dtypes that the backend's kernels take then.

    Those of GPUs compute in autocast's own, and convert weights themselves; the CPU's in float32, where they
    are faster than PyTorch in bfloat16.
    """
    dtype = autocast_dtype(images[0])
    if dtype is None:
        return [*images, *weights]
    if backend == "cpu":
        return [tensor.float() for tensor in (*images, *weights)]
    return [*(image.to(dtype) for image in images), *weights]


def _register_kernels(operator: Operator) -> Callable[..., tuple[Tensor, ...]]:
    """call(*inputs, backend) -> (out, *saved), differentiable in ``out``."""
    name, arguments = operator.name, operator.arguments
    saved, count = tuple(operator.saved), len(operator.tensors)

    def run_forward(*args: Any) -> Any:
        *inputs, backend = _contiguous(args)
        with _without_autocast(inputs[0].device.type):
            outputs = BACKENDS[backend].forward(operator, inputs)
        return tuple(outputs) if saved else outputs[0]

    def fake_forward(*args: Any) -> Any:
        tensors = args[:count]
        outputs = args[0].new_empty(args[0].shape), *operator.empty_saved(tensors)
        return outputs if saved else outputs[0]

    def run_backward(*args: Any) -> list[Tensor]:
        grad, *rest = _contiguous(args)
        kept, inputs, (needs, backend) = rest[: len(saved)], rest[len(saved) : -2], rest[-2:]
        with _without_autocast(grad.device.type):
            return BACKENDS[backend].backward(operator, grad, kept, inputs, needs)

    def fake_backward(*args: Any) -> list[Tensor]:
        *inputs, needs, _ = args
        tensors = inputs[1 + len(saved) :][:count]
        return [t.new_empty(t.shape) for t, needed in zip(tensors, needs, strict=True) if needed]

    returns = ", ".join(["Tensor"] * (1 + len(saved)))
    given = "".join(f"Tensor {what}, " for what in ("grad", *(f"saved_{what}" for what in saved)))
    op = _define(f"{name}({arguments}, str backend) -> ({returns})", run_forward, fake_forward)
    slope = _define(
        f"{name}_backward({given}{arguments}, bool[] needs, str backend) -> Tensor[]",
        run_backward,
        fake_backward,
    )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        kept = output[1:] if saved else ()
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept, *inputs[:count])
        ctx.options = inputs[count:-1]
        ctx.backend = inputs[-1]

    def differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[:count])
        rest = (None,) * (len(ctx.options) + 1)
        if grad is None or not any(needs):
            return (*(None,) * count, *rest)
        found = iter(slope(grad, *ctx.saved_tensors, *ctx.options, needs, ctx.backend))
        return (*(next(found) if needed else None for needed in needs), *rest)

    torch.library.register_autograd(op, differentiate, setup_context=keep, lib=library)

    def keep_all(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        tensors = inputs[1 + len(saved) :][:count]
        ctx.save_for_backward(inputs[0], *tensors)
        ctx.options, ctx.needs = inputs[1 + len(saved) + count : -2], inputs[-2]

    def differentiate_slope(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
        grad, *tensors = ctx.saved_tensors
        options = ctx.options
        second = differentiate_twice(
            lambda *own: operator.formula(*own, *options)[0], grad, tensors, ctx.needs, grads
        )
        return (second[0], *(None,) * len(saved), *second[1:], *(None,) * (len(ctx.options) + 2))

    torch.library.register_autograd(slope, differentiate_slope, setup_context=keep_all, lib=library)
    return op if saved else lambda *args: (op(*args),)


def _define(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    name = schema.split("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"seemore_fast::{name}", fake, lib=library)
    return getattr(torch.ops.seemore_fast, name).default


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Free where it is off."""
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def _contiguous(args: tuple[Any, ...]) -> list[Any]:
    return [a.contiguous() if isinstance(a, Tensor) else a for a in args]
