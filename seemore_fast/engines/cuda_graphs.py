"""CUDA graphs of whole forwards, kept for the shapes of small images that come again.

A forward is 4 launches a layer and 3 for the ends: 27 for SeemoRe-T, 67 for L.  The CPU needs 2 to 3 us for
each, so it keeps ahead of the GPU unless kernels are shorter than that, which only small images' are.  A
graph is one launch, but works on memory of its own: pixels are copied in and out, for x4 in float32 408
bytes read and written for each of the input's.  At 320x180 that is 24 MB, 5 us at 4.3 TB/s, and 30 to 60 MB
stay occupied; beyond, graphs would hardly pay.  (A model: nothing of this was measured.)
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from seemore_fast.backends import native
from seemore_fast.errors import BackendError

log = logging.getLogger(__name__)

MOST_GRAPHS = 8
"""Of one packed network."""

MOST_BYTES = 48 << 20
"""Held by one graph: SeemoRe-T, B and L at 320x180 in 16 bit."""


_MOST_FAILURES = 3
"""In a row: one may come of a capture elsewhere, or of a shape."""

_CAPTURING = threading.Lock()
"""Captures take turns, for they share a stream."""


@cache
def _capturing_stream(device: int) -> torch.cuda.Stream:
    """PyTorch hands out its 32 streams of a priority in turn, to all threads.

    What another thread does meanwhile on the stream that captures would be captured too, and not happen: so
    this is one for good, and of the priority that few ask for.
    """
    return torch.cuda.Stream(device, priority=-1)


class Launchable(Protocol):
    """What can be captured: `engine_cuda.Network` describes the methods."""

    def workspace(self, x: Tensor) -> int: ...
    def allocate(self, x: Tensor) -> Tensor: ...
    def launch(self, x: Tensor, out: Tensor, workspace: Tensor) -> None: ...


@dataclass
class _Captured:
    graph: Any  # CudaGraph of the native library
    x: Tensor
    out: Tensor
    workspace: Tensor
    done: torch.cuda.Event  # the last use of the three

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + self.out.nbytes + self.workspace.nbytes


class Graphs:
    """Forwards of one packed network, by shape and dtype of the input; the least recently used go first.

    A shape is captured when it comes the second time.  Any number of threads and streams may share a graph:
    its uses queue up on the GPU.  The network, which must be there for each run, owns the graphs.
    """

    def __init__(self, network: Launchable):
        self._network = weakref.proxy(network)  # no cycle: a GPU's memory must not wait for the collector
        self._lock = threading.Lock()
        self._graphs: OrderedDict[Hashable, _Captured | None] = OrderedDict()  # None: seen once
        self._failures = 0  # in a row

    def __len__(self) -> int:
        return sum(captured is not None for captured in self._graphs.values())

    def run(self, x: Tensor, out: Tensor, limit: int = 0) -> bool:
        """Fills ``out`` by a graph, on the current stream of the current device; False if there is none.

        ``limit``: bytes that all graphs together may hold, 0: none.

        What the driver refuses to capture is no error: this forward does without, and all once it has been
        refused several times in a row.  Without memory for a graph, this one does.
        """
        needed = x.nbytes + out.nbytes + self._network.workspace(x)
        if self._failures == _MOST_FAILURES or needed > MOST_BYTES:
            return False
        key = (x.shape, x.dtype)
        with self._lock:
            others = sum(graph.nbytes for known, graph in self._graphs.items() if graph and known != key)
            if 0 < limit < others + needed:
                return False
            if key not in self._graphs:
                self._keep(key, None)
                return False
            try:
                captured = self._graphs[key] or self._capture(x, out)
            except torch.OutOfMemoryError:
                return False
            except (RuntimeError, BackendError) as reason:
                self._failures += 1
                if self._failures == _MOST_FAILURES:
                    log.warning("going on without CUDA graphs: %s", reason)
                return False
            self._failures = 0
            self._keep(key, captured)
            self._replay(captured, x, out)
        return True

    def _keep(self, key: Hashable, captured: _Captured | None) -> None:
        self._graphs[key] = captured
        self._graphs.move_to_end(key)
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)

    def _capture(self, x: Tensor, out: Tensor) -> _Captured:
        start = time.perf_counter()
        with torch.inference_mode(False):  # tensors that may be written in any mode
            x, out = x.new_empty(x.shape), out.new_empty(out.shape)
            workspace = self._network.allocate(x)
            device = max(x.get_device(), 0)  # -1 where a simulator stands in
            # By the driver: torch.cuda.CUDAGraph would have PyTorch's generator of random numbers refuse
            # other threads for so long, and end what a capture of theirs needs of it.
            with _CAPTURING, torch.cuda.stream(stream := _capturing_stream(device)):
                graph = native.require().CudaGraph(device, stream.cuda_stream)
                try:
                    self._network.launch(x, out, workspace)
                finally:
                    graph.end()
        log.info("captured a graph for %s: %.1f ms", tuple(x.shape), 1e3 * (time.perf_counter() - start))
        return _Captured(graph, x, out, workspace, torch.cuda.Event())

    def _replay(self, captured: _Captured, x: Tensor, out: Tensor) -> None:
        stream = torch.cuda.current_stream()
        stream.wait_event(captured.done)
        captured.x.copy_(x)
        captured.graph.launch(stream.cuda_stream)
        out.copy_(captured.out)
        captured.done.record(stream)
        for tensor in (captured.x, captured.out, captured.workspace):
            tensor.record_stream(stream)  # it may be freed in the midst of this
