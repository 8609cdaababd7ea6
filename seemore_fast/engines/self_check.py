"""Trust, but verify: the CUDA engine runs once a small picture has come out as PyTorch has it on the CPU.

Done at the first use in a process of each device, precision and kind of network; the verdict holds for all of
that kind.  SEEMORE_SELF_CHECK=0 leaves it out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seemore_fast.errors import BackendError
from seemore_fast.network import reference
from seemore_fast.ops._self_check import Verdict

log = logging.getLogger(__name__)

GATES = {"fp32": 1e-5, "tf32": 3e-3, "fp16": 3e-3, "bf16": 2e-2}
"""The relative L2 error against PyTorch on the CPU that is let through; fp32 is held to float64."""

SIZE = (40, 56)
"""Of the picture; larger where the network needs it, unless it needs more than 64."""

_PICTURES = 3
"""In which a near tie between experts may fall otherwise: one that agrees is enough."""

_lock = threading.Lock()
verdicts: dict[tuple[Any, ...], Verdict] = {}
"""By (device, precision, kind of network)."""


def require(
    model: reference.SeemoRe, precision: str, device: torch.device, run: Callable[[Tensor], Tensor]
) -> None:
    """Raises BackendError where ``run``, the engine with this model, does not reproduce the reference.

    ``run``: x (1, in_chans, H, W) on the device, float32 -> the network's output.
    """
    if os.environ.get("SEEMORE_SELF_CHECK") == "0" or model.min_size > 64:
        return
    kind = {name: value for name, value in model.config.items() if name not in ("mean", "img_range")}
    key = (str(device), precision, *sorted(kind.items()))
    with _lock:
        if key not in verdicts:
            start = time.perf_counter()
            why = _check(model, precision, run)
            verdicts[key] = Verdict(why, 1e3 * (time.perf_counter() - start))
            if why is not None:
                log.warning(
                    "%s on %s: %s; it is not used. Please report this with the output of seemore-fast info",
                    precision,
                    device,
                    why,
                )
        why = verdicts[key].why
    if why is not None:
        raise BackendError(why)


def _check(model: reference.SeemoRe, precision: str, run: Callable[[Tensor], Tensor]) -> str | None:
    # PyTorch's float32 errs by 1e-6 to 3e-6: nothing beside the others' gates, and in half the time.
    dtype = torch.float64 if precision == "fp32" else torch.float32
    exact = reference.SeemoRe(**model.config).to(dtype).eval()
    exact.load_state_dict({name: value.to("cpu", dtype) for name, value in model.state_dict().items()})
    errors = []
    for picture in range(_PICTURES):
        generator = torch.Generator().manual_seed(picture)
        size = [max(side, model.min_size) for side in SIZE]
        x = torch.rand(1, model.config["in_chans"], *size, generator=generator)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            want = exact(x.to(dtype)).double()
        got = run(x.to(next(model.parameters()).device)).double().cpu()
        errors.append(float((got - want).norm() / want.norm()))
        if errors[-1] <= GATES[precision]:  # not for NaN
            return None
    return (
        f"the CUDA engine's self-check failed: relative error {min(errors):.1e}, at most "
        f"{GATES[precision]:.0e} is let through"
    )
