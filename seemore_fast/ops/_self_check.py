"""Trust, but verify: an operator's kernels serve once forward and backward of a small picture have come out
as the formula has them, in float64 on the CPU.

Done at the first use in a process of each operator, device, precision, width and set of options; the
verdict holds for all of that kind.  SEEMORE_SELF_CHECK=0 leaves it out, and so does Triton's interpreter.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seemore_fast.backends import choice
from seemore_fast.ops._operator import Kernels, Operator

log = logging.getLogger(__name__)

GATES = {
    "fp32": (1e-5, 2e-4),
    "tf32": (3e-3, 2e-2),
    "fp16": (3e-3, 2e-2),
    "bf16": (2e-2, 1e-1),
}
"""The relative L2 errors that are let through: of the result, and of any gradient."""

_SIZE = (16, 20)
"""Of the picture; larger where the operator needs it."""

_PICTURES = 3
"""In which a near tie between experts may fall otherwise: one that agrees is enough."""

_lock = threading.Lock()


class Verdict(NamedTuple):
    """Why kernels are not used, None for those that are, and the time that this took to find out."""

    why: str | None
    ms: float


verdicts: dict[tuple[Any, ...], Verdict] = {}
"""By (operator, device, precision, sizes, options)."""


def obstacle(
    kernels: Kernels, op: Operator, sizes: dict[str, int], options: Sequence[Any], x: tuple[str, torch.dtype]
) -> str | None:
    """Why the kernels are not to run an operator on input on that device and of that dtype; None if they may.

    Where they cannot be checked now, they may run: while torch.compile traces, while a CUDA graph is
    captured, and where there is no memory for it.
    """
    if os.environ.get("SEEMORE_SELF_CHECK") == "0" or choice.INTERPRETED or torch.compiler.is_compiling():
        return None
    if x[0].startswith("cuda") and torch.cuda.is_current_stream_capturing():
        return None
    kind = {symbol: size for symbol, size in sizes.items() if symbol not in "NHW"}
    precision = _precision(x[1])
    key = (op.name, x[0], precision, *sorted(kind.items()), str(list(options)))
    with _lock:
        if key not in verdicts:
            start = time.perf_counter()
            try:
                why = _check(kernels, op, kind, options, *x)
            except torch.OutOfMemoryError:
                return None
            verdicts[key] = Verdict(why, 1e3 * (time.perf_counter() - start))
            if why is not None:
                log.warning(
                    "%s in %s on %s: %s; they are not used. "
                    "Please report this with the output of seemore-fast info",
                    op.name,
                    precision,
                    x[0],
                    why,
                )
        return verdicts[key].why


def _precision(dtype: torch.dtype) -> str:
    if dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    return "fp16" if dtype == torch.float16 else "bf16"


def _check(
    kernels: Kernels,
    op: Operator,
    kind: dict[str, int],
    options: Sequence[Any],
    device: str,
    dtype: torch.dtype,
) -> str | None:
    found = []
    for picture in range(_PICTURES):
        exact, grad = _inputs(op, kind, options, picture, dtype)
        inputs = [t.to(device, dtype) for t in exact]
        needs = [True] * len(exact)
        try:
            with torch.no_grad(), torch.autocast(device.partition(":")[0], enabled=False):
                out, *saved = kernels.forward(op, [*inputs, *options])
                got = [out, *kernels.backward(op, grad.to(device, dtype), saved, [*inputs, *options], needs)]
                got = [t.double().cpu() for t in got]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a driver has to say
            return f"the kernels' self-check failed: {type(error).__name__}: {str(error).splitlines()[0]}"
        with torch.autocast("cpu", enabled=False):
            out, gradients = op.differentiate(grad, exact, options, needs)
        errors = [_error(a, b) for a, b in zip(got, [out.detach(), *gradients], strict=True)]
        limits = GATES[_precision(dtype)]
        if errors[0] <= limits[0] and all(error <= limits[1] for error in errors[1:]):  # not for NaN
            return None
        found.append((errors[0], max(errors[1:], key=lambda e: e if e == e else float("inf"))))
    result, gradient = min(found)
    return (
        f"the kernels' self-check failed: relative error {result:.1e} of the result, {gradient:.1e} of a "
        f"gradient, at most {limits[0]:.0e} and {limits[1]:.0e} are let through"
    )


def _inputs(
    op: Operator, kind: dict[str, int], options: Sequence[Any], picture: int, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """In float64, but values that ``dtype`` has; and a gradient of the result."""
    generator = torch.Generator().manual_seed(picture)
    least = 4 ** dict(zip(op.options, options, strict=True)).get("recursive", 0)
    image = [1, kind["C"], *(max(side, least) for side in _SIZE)]
    shapes = [image] * len(op.images) + [list(leaf.shape(kind)) for leaf in op.leaves]

    def draw(shape: list[int], scale: float) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype).double()

    images, weights = shapes[: len(op.images)], shapes[len(op.images) :]
    drawn = [draw(shape, 1.0) for shape in images]
    drawn += [draw(shape, max(1, torch.Size(shape[1:]).numel()) ** -0.5) for shape in weights]
    return drawn, draw(image, 1.0)


def _error(got: Tensor, want: Tensor) -> float:
    """Relative; against zeros, absolute."""
    return float((got - want).norm() / want.norm().clamp(min=1e-3))
