"""The Triton kernels: `forward` and `backward` of an operator in a module ``seemore_fast.kernels.<op>``."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

from torch import Tensor

from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.ops import _self_check
from seemore_fast.ops._operator import Operator


def _modules_of(package: str) -> frozenset[str]:
    """Found without importing any: Triton takes a second."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else []
    return frozenset(module.name for module in pkgutil.iter_modules(folders))


_NAMES = _modules_of("seemore_fast.kernels")


def obstacle(op: Operator, tensors: Sequence[Tensor], options: Sequence[Any]) -> str | None:
    if op.name not in _NAMES:
        return f"there is no Triton kernel of {op.name}"
    x = tensors[0]
    return _self_check.obstacle(
        sys.modules[__name__], op, op.sizes(tensors), options, (str(x.device), autocast_dtype(x) or x.dtype)
    )


def forward(op: Operator, inputs: Sequence[Any]) -> Sequence[Tensor]:
    return _kernels(op.name).forward(*inputs)


def backward(
    op: Operator, grad: Tensor, saved: Sequence[Tensor], inputs: Sequence[Any], needs: Sequence[bool]
) -> list[Tensor]:
    return _kernels(op.name).backward(grad, *saved, *inputs, needs)


@cache
def _kernels(name: str) -> ModuleType:
    return importlib.import_module(f"seemore_fast.kernels.{name}")
