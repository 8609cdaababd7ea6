"""A training step as a CUDA graph: the CPU starts it by one call instead of thousands.

A graph is the launches of one call, on the memory of that call: inputs are copied to where they were then,
and what the step leaves (gradients, say) lies where it lay then.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seemore_fast.errors import SeemoreError

WARM_UP = 11
"""Calls before the one that is captured: DistributedDataParallel arranges its buckets in the first ten."""


class Captured:
    """``step(*inputs) -> tensor``, replayed from its 12th call on where the inputs are on a GPU.

    The step must do the same for any inputs of one shape, without waiting for the GPU or asking for values,
    and set gradients to None itself, as its first act: nobody else may, for replays fill the same ones.
    An optimizer's step may be part of it if it was made with ``capturable=True``; whatever else is left out
    runs between calls as ever.  On the CPU the step runs as it is.

    Raises SeemoreError for inputs of other shapes or dtypes than those it was captured with.
    """

    def __init__(self, step: Callable[..., Tensor]):
        self._step = step
        self._calls = 0
        self._replay: Callable[[], None] | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output = torch.empty(0)
        self._stream: torch.cuda.Stream | None = None

    @property
    def stream(self) -> torch.cuda.Stream:
        """Where the step runs until it is replayed; a DistributedDataParallel of it must be made there."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        return self._stream

    def __call__(self, *inputs: Tensor) -> Tensor:
        if not _on_gpu(inputs):
            return self._step(*inputs)
        if self._calls < WARM_UP:
            self._calls += 1
            return self._run(inputs)
        if self._replay is None:
            self._inputs = tuple(x.clone() for x in inputs)
            self._replay, self._output = _capture(self._step, self._inputs, self.stream)
        for known, x in zip(self._inputs, inputs, strict=True):
            if (known.shape, known.dtype) != (x.shape, x.dtype):
                raise SeemoreError(
                    f"a captured step takes inputs of one shape and dtype: it has {tuple(known.shape)} "
                    f"{known.dtype}, this is {tuple(x.shape)} {x.dtype}"
                )
            known.copy_(x, non_blocking=True)
        self._replay()
        return self._output.clone()

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """On the stream that will capture, for autograd's nodes remember theirs."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            output = self._step(*inputs)
        here.wait_stream(self.stream)
        return output


def _on_gpu(inputs: tuple[Tensor, ...]) -> bool:
    return inputs[0].is_cuda


def _capture(
    step: Callable[..., Tensor], inputs: tuple[Tensor, ...], stream: torch.cuda.Stream
) -> tuple[Callable[[], None], Tensor]:
    """What replays it, and where its result is then."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        output = step(*inputs)
    return graph.replay, output
