"""Whole-network inference by the native CPU engine: packed weights, workspaces, one call per forward."""

from __future__ import annotations

import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import _native, fold, reference

_KEPT_WORKSPACES = 2
"""Workspaces kept for the next call: one, and one for a second thread."""


def float32_arrays(values: Any) -> Any:
    """Folded weights as the native module takes them: nested float32 numpy arrays."""
    if isinstance(values, Tensor):
        return values.float().contiguous().numpy()
    if isinstance(values, dict):
        return {name: float32_arrays(value) for name, value in values.items()}
    if isinstance(values, list):
        return [float32_arrays(value) for value in values]
    return values


def _state_of(tensor: Tensor) -> tuple[int, int, torch.dtype]:
    """Changes whenever the tensor's values may have: in-place updates count up its version.

    Tensors made in inference mode keep no version: a checksum of their values stands in for it.
    """
    if tensor.is_inference():
        version = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy())
    else:
        version = tensor._version
    return tensor.data_ptr(), version, tensor.dtype


class Engine:
    """The native form of one model's weights, made when first needed and again when they have changed.

    Changes are seen through storage, version and dtype of parameters and buffers: in-place updates,
    ``load_state_dict``, ``.to()``.  Writing through ``.data`` is not seen; call `invalidate` after it.

    Safe to call from several threads at once: each call has a workspace of its own.  Results do not depend,
    to the bit, on the number of threads (``torch.get_num_threads()``).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packed: dict[bool, tuple[tuple[Any, ...], Any]] = {}  # bf16 -> (state of the weights, native)
        self._workspaces: list[Tensor] = []

    def invalidate(self) -> None:
        """Forgets packed weights and workspaces; the next call makes them anew."""
        with self._lock:
            self._packed.clear()
            self._workspaces.clear()

    def forward(self, native: Any, scale: int, x: Tensor, workspace_limit: int = 0) -> Tensor:
        """The output of a `packed` network: (N, C, H, W) float32 or uint8 -> same dtype, H and W times scale.

        H and W must be at least the model's ``min_size``.  ``workspace_limit``: bytes, 0 for none.

        Raises MemoryError where the workspace limit is too small, KeyboardInterrupt on Ctrl-C.
        """
        x = x.resolve_neg().contiguous()  # memory as the pointer will show it
        n, channels, h, w = x.shape
        out = x.new_empty((n, channels, h * scale, w * scale))
        threads = torch.get_num_threads()
        with self.workspace(native.workspace(h, w, threads, workspace_limit)) as workspace:
            native.forward(
                input=x.data_ptr(),
                output=out.data_ptr(),
                u8=x.dtype == torch.uint8,
                n=n,
                h=h,
                w=w,
                threads=threads,
                limit=workspace_limit,
                workspace=workspace.data_ptr(),
                workspace_bytes=workspace.numel(),
            )
        return out

    def packed(self, model: reference.SeemoRe, bf16: bool) -> Any:
        """The native form of the model's weights as they are now.

        With ``bf16`` matrix products take bfloat16 operands where the CPU can (a warning says so where it
        cannot).  Raises BackendError for a configuration beyond the native engine's limits.
        """
        if bf16 and _native.require().isa() != "v4bf16":
            warnings.warn(
                "this CPU (or SEEMORE_ISA) has no AVX512-BF16: computing in float32 instead of bfloat16",
                stacklevel=4,
            )
            bf16 = False
        state = tuple(_state_of(tensor) for tensor in (*model.parameters(), *model.buffers()))
        with self._lock:
            known, native = self._packed.get(bf16, (None, None))
            if known != state:
                native = _native.require().Engine(float32_arrays(fold.fold_network(model)), bf16)
                self._packed[bf16] = state, native
        return native

    @contextmanager
    def workspace(self, size: int) -> Iterator[Tensor]:
        """At least ``size`` bytes, for one call at a time; kept for the next ones."""
        workspace = self._take(size)
        try:
            yield workspace
        finally:
            self._give_back(workspace)

    def _take(self, size: int) -> Tensor:
        with self._lock:
            while self._workspaces:
                workspace = self._workspaces.pop()
                if workspace.numel() >= size:
                    return workspace
        return torch.empty(size, dtype=torch.uint8)

    def _give_back(self, workspace: Tensor) -> None:
        with self._lock:
            if len(self._workspaces) < _KEPT_WORKSPACES:
                self._workspaces.append(workspace)
