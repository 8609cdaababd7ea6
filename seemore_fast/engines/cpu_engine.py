"""Whole-network inference by the native CPU engine: packed weights, workspaces, one call per forward."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seemore_fast.backends import native
from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.engines.packed import PackedWeights
from seemore_fast.network import fold, reference
from seemore_fast.network.parameters import flatten

_KEPT_WORKSPACES = 2
"""Workspaces kept for the next call: one, and one for a second thread."""


def float32_arrays(network: dict[str, Any]) -> dict[str, Any]:
    """A folded network as the native module takes it: parts as lists of float32 numpy arrays."""

    def arrays(part: tuple[Any, ...]) -> list[Any]:
        return [tensor.float().contiguous().numpy() for tensor in flatten(part)]

    groups = [arrays(group) for group in network["groups"]]
    return {**network, "ends": arrays(network["ends"]), "groups": groups}


class Engine:
    """One model's weights for the CPU, packed when first needed and again when they have changed.

    Changes that are seen are those of `PackedWeights`; call `invalidate` after others.

    Safe to call from several threads at once: each call has a workspace of its own.  Results do not depend,
    to the bit, on the number of threads (``torch.get_num_threads()``).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights = PackedWeights()
        self._workspaces: list[Tensor] = []

    def invalidate(self) -> None:
        """Forgets packed weights and workspaces; the next call makes them anew."""
        self._weights.clear()
        with self._lock:
            self._workspaces.clear()

    def native_for(self, model: reference.SeemoRe, x: Tensor) -> Any:
        """The model `packed` as its dtype and autocast ask for input like ``x``."""
        return self.packed(model, torch.bfloat16 in (model.conv_1.weight.dtype, autocast_dtype(x)))

    def forward(self, native: Any, scale: int, x: Tensor, workspace_limit: int = 0) -> Tensor:
        """The output of a `packed` network: (N, C, H, W) of any dtype -> the same, H and W times scale.

        H and W must be at least the model's ``min_size``.  ``workspace_limit``: bytes, 0 for none.

        Raises MemoryError where the workspace limit is too small, KeyboardInterrupt on Ctrl-C.
        """
        dtype = x.dtype
        x = (x if dtype == torch.uint8 else x.float()).resolve_neg().contiguous()  # as the pointer shows it
        n, channels, h, w = x.shape
        out = x.new_empty((n, channels, h * scale, w * scale))
        threads = torch.get_num_threads()
        with self.workspace(native.workspace(h, w, threads, workspace_limit, n)) as workspace:
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
        return out.to(dtype)

    def packed(self, model: reference.SeemoRe, bf16: bool) -> Any:
        """The native form of the model's weights as they are now.

        With ``bf16`` matrix products take bfloat16 operands where the CPU can (a warning says so where it
        cannot).  Raises BackendError for a configuration beyond the native engine's limits.
        """
        if bf16 and not native.has_bf16():
            warnings.warn(
                f"{native.NO_BF16}: computing in float32 instead of bfloat16",
                stacklevel=5,
            )
            bf16 = False
        return self._weights.get(
            bf16, model, lambda: native.require().Engine(float32_arrays(fold.fold_network(model)), bf16)
        )

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
