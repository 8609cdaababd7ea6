"""One model's weights in native form, made when first needed and again when they have changed."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import weakref
import zlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seemore_fast.backends import native


class PackedWeights:
    """Native forms of one model's weights by key; once the weights have changed, all are made anew.

    Changes are seen through parameters and buffers, their storage and version: in-place updates,
    ``load_state_dict``, optimiser steps, ``.to()``, replaced parameters and modules.  Writing through
    ``.data`` is not seen.  To look costs microseconds, whatever the device.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watch: _Watch | None = None
        self._made: dict[Hashable, Any] = {}

    def clear(self) -> None:
        with self._lock:
            self._watch, self._made = None, {}

    def get(self, key: Hashable, model: nn.Module, make: Callable[[], Any]) -> Any:
        """The form under ``key`` of the weights as they are now, by ``make()`` if need be."""
        with self._lock:
            if self._watch is None or not self._watch.unchanged():
                watch = _watch(model)  # before they are read
                # Where make() refuses, as it does during captures, what is stale is not yet dropped.
                self._made, self._watch = {key: make()}, watch
            elif key not in self._made:
                self._made[key] = make()
            return self._made[key]


class _Watch(Protocol):
    def unchanged(self) -> bool: ...


def _watch(model: nn.Module) -> _Watch:
    tensors = [*model.parameters(), *model.buffers()]
    functions = _functions()
    if functions is not None and not any(t.is_inference() or t.is_meta for t in tensors):
        dicts = [
            held for part in model.modules() for held in (part._parameters, part._buffers, part._modules)
        ]
        with contextlib.suppress(RuntimeError):  # an unknown kind of tensor
            return native.require().Watch(dicts, torch._C.TensorBase, *functions)
    return _States(model)


@functools.cache
def _functions() -> list[int] | None:
    """Where torch has what tells a tensor's version and address; None where it names them otherwise."""
    names = ("_ZNK2at10TensorBase8_versionEv", "aoti_torch_get_data_ptr")
    for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path))  # which is there already
            return [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names]
    return None


class _States:
    """The same in Python, ten times slower.

    Tensors made in inference mode keep no version: a checksum of their values stands in for it.
    """

    def __init__(self, model: nn.Module):
        self._model = weakref.ref(model)
        self._known = self._states(model)

    def unchanged(self) -> bool:
        model = self._model()
        return model is not None and self._states(model) == self._known

    @staticmethod
    def _states(model: nn.Module) -> list[Any]:
        tensors = [*model.parameters(), *model.buffers()]
        return [(t.data_ptr(), _checksum(t) if t.is_inference() else t._version, t.dtype) for t in tensors]


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]
