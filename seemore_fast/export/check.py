"""What every export shares: the network to trace, an example, the check of what was written."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor

from seemore_fast.errors import SeemoreError
from seemore_fast.network import reference
from seemore_fast.network.accuracy import relative_l2

TOLERANCE = 2e-5
"""Largest relative L2 error against float64 of a float32 file that is delivered."""


def plain(model: reference.SeemoRe, dtype: torch.dtype = torch.float32) -> reference.SeemoRe:
    """The reference network in ``dtype`` on the CPU: the drop-in's choice of a backend is no graph."""
    with torch.device("meta"):
        network = reference.SeemoRe(**model.config)
    state = {name: value.detach().to("cpu", dtype) for name, value in model.state_dict().items()}
    network.load_state_dict(state, assign=True)
    network.mean = model.mean.detach().to("cpu", torch.float32)
    return network.eval().requires_grad_(False)


def example_and_sizes(network: reference.SeemoRe) -> tuple[Tensor, dict[int, Any]]:
    """What to trace with, [2, in_chans, h, w], and which of its sizes are free in torch.export's terms."""
    least = network.min_size
    # Sizes that are neither equal nor 1, or the exporter would take them for constants; nor may those of the
    # coarsest map be 1, 1/least of these: AOTInductor would then repeat its first row and column.
    example = _pictures(network, 2, 2 * least + 8, 3 * least + 12)
    sizes = {
        0: torch.export.Dim("n", min=1),
        2: torch.export.Dim("h", min=least),
        3: torch.export.Dim("w", min=least),
    }
    return example.to(network.conv_1.weight.dtype), sizes


def check(network: reference.SeemoRe, run: Callable[[Tensor], Tensor], what: str) -> None:
    """Holds an exported network to float64: as a batch on different routes, alone, and at a larger size.

    ``run`` takes and gives (n, in_chans, h, w) in the dtype of ``network``.  The error may be `TOLERANCE`
    in float32, and in float16 twice that of PyTorch in float16.

    Raises SeemoreError, beginning with ``what``.
    """
    exact = plain(network, torch.float64)
    batch = _differently_routed(network, exact)
    half = network.conv_1.weight.dtype == torch.float16
    with torch.inference_mode():
        # The last: its coarsest map is more than one pixel high and wide, unlike the example's.
        for x in (batch, batch[-1:], _larger(network, exact)):
            want = exact(x.double())
            limit = 2 * relative_l2(network(x), want) if half else TOLERANCE
            error = relative_l2(run(x), want)
            if not error <= limit:
                raise SeemoreError(
                    f"{what}: what was written differs from float64 by {error:.1e} relative L2"
                    f" for a batch of {tuple(x.shape)}"
                )


def routes(network: reference.SeemoRe, x: Tensor) -> list[tuple[int, ...]]:
    """The first expert that each image of ``x`` [n, in_chans, h, w] takes in each layer."""
    body: Any = network.body
    chosen: list[Tensor] = []
    hooks = [
        group.local_block.block.moe_layer.gate.register_forward_hook(
            lambda _module, _args, probabilities: chosen.append(probabilities.argmax(1))
        )
        for group in body
    ]
    try:
        with torch.inference_mode():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return list(zip(*(experts.tolist() for experts in chosen), strict=True)) or [()] * len(x)


def _differently_routed(network: reference.SeemoRe, exact: reference.SeemoRe) -> Tensor:
    """Three pictures [3, in_chans, h, w], on as many different routes as a search finds.

    Where rounding to ``network``'s dtype changes a route, a picture is left out: its near tie would say
    nothing about the file.
    """
    many = _pictures(network, 24, network.min_size + 3, network.min_size + 1)
    # Not only grains: areas of one colour, whose mean features lie far from each other.
    flat = torch.rand(24, network.config["in_chans"], 1, 1, generator=torch.Generator().manual_seed(1))
    many = torch.cat([many, 0.1 * many + 0.9 * flat]).to(network.conv_1.weight.dtype)
    ways, sure = _sure_routes(network, exact, many)
    first = {ways[i]: i for i in reversed(sure)}
    picked = (list(first.values()) + sure + list(range(len(many))))[:3]
    return many[picked]


def _larger(network: reference.SeemoRe, exact: reference.SeemoRe) -> Tensor:
    """A picture [1, in_chans, h, w], a few times the least size, whose route rounding does not change."""
    side = network.min_size
    several = _pictures(network, 6, 3 * side + 1, 4 * side + 3).to(network.conv_1.weight.dtype)
    _, sure = _sure_routes(network, exact, several)
    return several[(sure or [0])[0]][None]


def _sure_routes(
    network: reference.SeemoRe, exact: reference.SeemoRe, x: Tensor
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The exact routes of ``x``, and which of its images keep theirs in ``network``'s dtype."""
    ways = routes(exact, x.double())
    return ways, [i for i, (a, b) in enumerate(zip(ways, routes(network, x), strict=True)) if a == b]


def _pictures(network: reference.SeemoRe, count: int, height: int, width: int) -> Tensor:
    """Different pictures, from dark to bright, so that they may well route differently."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, network.config["in_chans"], height, width, generator=generator)
    return noise * torch.linspace(1, 0.2, count)[:, None, None, None]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's progress and its warnings about packages that nothing here uses."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
