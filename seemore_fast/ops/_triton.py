"""The Triton kernels: `forward` and `backward` of an operator in a module ``seemore_fast.kernels.<op>``."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

from torch import Tensor

from seemore_fast.ops._operator import Operator


def _modules_of(package: str) -> frozenset[str]:
    """Found without importing any: Triton takes a second."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else []
    return frozenset(module.name for module in pkgutil.iter_modules(folders))


_NAMES = _modules_of("seemore_fast.kernels")


def obstacle(op: Operator, tensors: Sequence[Tensor]) -> str | None:
    return None if op.name in _NAMES else f"there is no Triton kernel of {op.name}"


def forward(op: Operator, inputs: Sequence[Any]) -> Sequence[Tensor]:
    return _kernels(op.name).forward(*inputs)


def backward(
    op: Operator, grad: Tensor, saved: Sequence[Tensor], inputs: Sequence[Any], needs: Sequence[bool]
) -> list[Tensor]:
    return _kernels(op.name).backward(grad, *saved, *inputs, needs)


@cache
def _kernels(name: str) -> ModuleType:
    return importlib.import_module(f"seemore_fast.kernels.{name}")
