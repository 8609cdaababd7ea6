"""Whole-network inference by the native CUDA engine (csrc/seemore_cuda.h) on PyTorch's streams and memory."""

from __future__ import annotations

import logging
import time
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import cuda_programs, native
from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.engines import self_check
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.engines.cuda_graphs import Graphs
from seemore_fast.engines.packed import PackedWeights
from seemore_fast.errors import SeemoreError
from seemore_fast.network import fold, reference

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
"""How the engine computes, as csrc/seemore_cuda.h numbers it."""

PIXELS = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)
_ALIGNMENT = 256  # of weights and workspace, in bytes


def pack(
    lib: ModuleType, network: reference.SeemoRe, precision: str, device: torch.device
) -> tuple[Any, Tensor]:
    """The network for a GPU, and its folded weights there, which must live as long as it runs.

    Raises BackendError for a configuration beyond the engine's limits, or without kernels for this GPU, or
    where a call of CUDA fails; torch.OutOfMemoryError where the GPU has no room.
    """
    arrays, number, index = (
        float32_arrays(fold.fold_network(network)),
        PRECISIONS.index(precision),
        device.index or 0,
    )
    cuda_programs.load(lib, index, lib.cuda_network_programs(arrays, number, index, 0))
    size = lib.cuda_weight_bytes(arrays, number, index)
    weights, host = aligned(size, device), torch.zeros(size, dtype=torch.uint8)
    packed = lib.CudaEngine(arrays, number, index, host=host.data_ptr(), weights=weights.data_ptr())
    weights.copy_(host)
    return packed, weights


def aligned(size: int, device: torch.device) -> Tensor:
    """Memory as the engine wants it."""
    memory = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=device)
    start = -memory.data_ptr() % _ALIGNMENT
    return memory[start : start + size]


def launch(native: Any, x: Tensor, out: Tensor, workspace: Tensor, stream: int, launches: int = 0) -> None:
    """Starts the network on a CUDA stream, its first ``launches`` kernels (0: all); nothing waits for it.

    ``x`` (N, C, H, W) and ``out`` (N, C, H * scale, W * scale): contiguous, both float32, float16, bfloat16
    or uint8; ``workspace``: bytes, as many as ``native.workspace(N, H, W)`` says, aligned to 256.

    Raises ValueError for sizes out of range, BackendError where a launch fails.
    """
    n, _, h, w = x.shape
    native.forward(
        input=x.data_ptr(),
        output=out.data_ptr(),
        pixels=PIXELS.index(x.dtype),
        n=n,
        h=h,
        w=w,
        workspace=workspace.data_ptr(),
        workspace_bytes=workspace.numel(),
        stream=stream,
        launches=launches,
    )


def precision_for(model: reference.SeemoRe, x: Tensor) -> str:
    """What autocast says, else the parameters' dtype; float32 in TF32 where PyTorch's matrix products are."""
    for dtype in (autocast_dtype(x), model.conv_1.weight.dtype):
        if dtype in (torch.float16, torch.bfloat16):
            return "fp16" if dtype == torch.float16 else "bf16"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"


class Network:
    """Weights packed for one device and precision, and the graphs that run them."""

    def __init__(self, native: Any, weights: Tensor):
        self.native = native
        self.graphs = Graphs(self)
        self.trusted = False  # by self_check
        self._weights = weights
        self._streams: set[int] = set()  # that have used the weights

    def workspace(self, x: Tensor) -> int:
        """Bytes of working memory for input like ``x``.

        Raises ValueError for sizes out of range, BackendError for a network that this GPU has no room for.
        """
        return self.native.workspace(x.shape[0], *x.shape[2:])

    def allocate(self, x: Tensor) -> Tensor:
        """The workspace for input like ``x``; the current stream may take it over as soon as it is freed."""
        return aligned(self.workspace(x), x.device)

    def launch(self, x: Tensor, out: Tensor, workspace: Tensor) -> None:
        """On the current stream of the input's device; see `launch`."""
        launch(self.native, x, out, workspace, torch.cuda.current_stream(x.device).cuda_stream)

    def tile(self, phase: int, group: int, area: list[int], workspace: Tensor, **arguments: int) -> None:
        """Starts a phase of a tile on the current stream of the workspace's device: sm_cuda_engine_tile()."""
        with torch.cuda.device(workspace.device):
            stream = torch.cuda.current_stream(workspace.device)
            self.use(stream)
            self.native.tile(
                phase,
                group,
                area,
                workspace=workspace.data_ptr(),
                workspace_bytes=workspace.numel(),
                cuda_stream=stream.cuda_stream,
                **arguments,
            )

    def use(self, stream: torch.cuda.Stream) -> None:
        """Keeps the weights' memory, once they are gone, from others until the stream is done with them."""
        if stream.cuda_stream not in self._streams:
            self._weights.record_stream(stream)
            self._streams.add(stream.cuda_stream)


class Engine:
    """`engine.Engine` for GPUs: one model's weights, packed for each device and precision that is used.

    Nothing waits for the GPU but packing.  Calls run on the current stream of the input's device; memory
    comes from PyTorch's allocator.  Safe to call from several threads and streams at once, and inside the
    capture of a CUDA graph, which keeps the weights of that moment; the model must have run once before.
    """

    def __init__(self) -> None:
        self._weights = PackedWeights()
        self._captured: list[Network] = []  # graphs of the user's point into their weights

    def invalidate(self) -> None:
        """Forgets packed weights and graphs; the next call makes them anew."""
        self._weights.clear()

    def native_for(self, model: reference.SeemoRe, x: Tensor) -> Network:
        """The model packed for input like ``x``.

        Raises BackendError for a network beyond the engine's limits, or whose self-check fails, SeemoreError
        where it would have to be packed during the capture of a CUDA graph.
        """
        precision = precision_for(model, x)
        with torch.cuda.device(x.device):
            capturing = torch.cuda.is_current_stream_capturing()
            if capturing and model.conv_1.weight.is_inference():
                raise SeemoreError(
                    "while a CUDA graph is captured nothing tells whether weights made in inference mode "
                    "have changed: load the model outside of torch.inference_mode()"
                )
            make = _refuse if capturing else partial(_pack, model, precision, x.device)
            network = self._weights.get((x.device, precision), model, make)
            if not (network.trusted or capturing):
                self_check.require(model, precision, x.device, partial(_run_once, network, model.scale))
                network.trusted = True
        network.workspace(x)  # may refuse
        return network

    def forward(self, network: Network, scale: int, x: Tensor, workspace_limit: int = 0) -> Tensor:
        """The output of a packed network: (N, C, H, W) of any dtype -> the same, H and W times scale.

        H and W must be at least the model's ``min_size``.  ``workspace_limit``: bytes, 0 for none.

        Raises MemoryError where the workspace limit is too small, torch.OutOfMemoryError where the GPU's
        memory is, BackendError where a launch fails.
        """
        x = x.resolve_neg().contiguous()  # memory as the pointer will show it
        n, channels, h, w = x.shape
        if 0 < workspace_limit < (needed := network.workspace(x)):
            raise MemoryError(f"workspace_limit of {workspace_limit} bytes is too small: at least {needed}")
        with torch.cuda.device(x.device):
            out = x.new_empty((n, channels, h * scale, w * scale))
            capturing = torch.cuda.is_current_stream_capturing()
            if capturing:
                if network not in self._captured:
                    self._captured.append(network)
            else:
                network.use(torch.cuda.current_stream(x.device))
            if capturing or not network.graphs.run(x, out, workspace_limit):
                network.launch(x, out, network.allocate(x))
        return out


def _run_once(network: Network, scale: int, x: Tensor) -> Tensor:
    """Without graphs, and without a limit of memory."""
    out = x.new_empty((*x.shape[:2], x.shape[2] * scale, x.shape[3] * scale))
    network.launch(x, out, network.allocate(x))
    return out


def _refuse() -> Network:
    raise SeemoreError(
        "a CUDA graph is being captured, but the weights are not packed, or have changed since: "
        "call the model once, with the same dtype, before capturing"
    )


def _pack(model: reference.SeemoRe, precision: str, device: torch.device) -> Network:
    start = time.perf_counter()
    network = Network(*pack(native.require(), model, precision, device))
    log.info("packed weights for %s in %s: %.0f ms", device, precision, 1e3 * (time.perf_counter() - start))
    return network
