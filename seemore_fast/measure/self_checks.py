"""What became of the kernels' checks before they were trusted, and those of SeemoRe-T on request."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from seemore_fast.engines import self_check as of_engine
from seemore_fast.errors import BackendError
from seemore_fast.model import SeemoRe
from seemore_fast.network.variants import config
from seemore_fast.ops import _self_check as of_operators

_SIDE = 16
"""Of the picture that brings the checks about: the least that SeemoRe-T takes."""


def verdicts() -> dict[str, dict[str, Any]]:
    """Of this process, by what was checked: ``why`` it is not used, None for what is, and ``ms``.

    Of several kinds of network on one device the one that was refused counts, else the slowest.
    """
    checked = [(f"operator {key[0]}, {key[2]} on {key[1]}", v) for key, v in of_operators.verdicts.items()]
    checked += [(f"CUDA engine, {key[1]} on {key[0]}", v) for key, v in of_engine.verdicts.items()]
    found: dict[str, dict[str, Any]] = {}
    for what, verdict in sorted(checked, key=lambda pair: (pair[1].why is not None, pair[1].ms)):
        found[what] = verdict._asdict()
    return found


def run(device: torch.device) -> None:
    """Has what training and inference of SeemoRe-T use on a device checked, in three precisions.

    Twice, so that the milliseconds are those without compilation.
    """
    for _ in range(2):
        of_operators.verdicts.clear()
        of_engine.verdicts.clear()
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            model = SeemoRe(**config("t-x4")).to(device)
            x = torch.rand(1, 3, _SIDE, _SIDE, device=device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                model(x).float().mean().backward()
                with torch.inference_mode(), contextlib.suppress(BackendError):  # a backend by name, refused
                    model.eval()(x)
