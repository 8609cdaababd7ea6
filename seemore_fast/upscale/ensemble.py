"""Self-ensemble, the "+" of papers: the mean of the network's results on 8 turned and mirrored pictures.

Source: Timofte, Rothe, Van Gool, "Seven ways to improve example-based single image super resolution",
CVPR 2016; Lim et al., "Enhanced deep residual networks", CVPRW 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seemore_fast.system.atomic import temporary_file

WAYS = 8
"""Quarter turns, each as it is and mirrored."""

_STEPS = 1000
_ROWS = 256  # handed over at a time

Emit = Callable[[int, Tensor], None]
Step = Callable[[int, int], None]


def turned(x: Tensor, way: int) -> Tensor:
    """[N, C, H, W] turned by ``way % 4`` quarters, mirrored from the fourth ``way`` on."""
    x = torch.rot90(x, way % 4, (2, 3))
    return x.flip(3) if way >= 4 else x


def upscale_ensemble(
    run: Callable[[Tensor, Emit, Step], None], x: Tensor, scale: int, memory: int, emit: Emit, step: Step
) -> None:
    """Upscales x [N, C, H, W], float32, and hands over the mean of all ways once all are computed.

    ``run(x, emit, step)`` upscales one of them by ``scale``: emit(first_row, rows) gets [N, C, n, w] from
    above, step(done, total) hears of its work.  The sum lies in memory if ``memory`` bytes hold it
    twice, else in a temporary file.
    """
    n, channels, height, width = x.shape
    shape = (n, channels, height * scale, width * scale)
    with ExitStack() as stack:
        total: NDArray[Any]
        if 8 * int(np.prod(shape)) <= memory:
            total = np.zeros(shape, np.float32)
        else:
            file: Any = stack.enter_context(temporary_file())
            total = np.memmap(file, np.float32, "w+", shape=shape)
        for way in range(WAYS):
            view = np.rot90(total, way % 4, (2, 3))
            view = view[..., ::-1] if way >= 4 else view

            def add(first_row: int, rows: Tensor, view: NDArray[Any] = view) -> None:
                view[:, :, first_row : first_row + rows.shape[2]] += rows.float().cpu().numpy()

            def told(done: int, of: int, way: int = way) -> None:
                step(way * _STEPS + round(_STEPS * done / of), WAYS * _STEPS)

            run(turned(x, way), add, told)
        for row in range(0, shape[2], _ROWS):
            emit(row, torch.from_numpy(total[:, :, row : row + _ROWS] / WAYS))
