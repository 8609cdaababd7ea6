"""The checks that each operator's kernels must pass on any arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.operators import OPS, convert, make_args, outputs


@pytest.fixture(autouse=True)
def _always_poisoned(poisoned_memory: None) -> None:
    pass


@pytest.fixture
def check_op(assert_close: Callable[..., None]) -> Callable[..., None]:
    """check(name, shape, **make_args options): native against float64; bitwise equal on 1, 2, 3 threads."""

    def check(name: str, shape: tuple[int, ...], **options: Any) -> None:
        args = make_args(name, shape, **options)
        want = outputs(name, convert(args, Tensor.double), backend="reference")
        torch.set_num_threads(1)
        first = outputs(name, args, backend="cpu")
        for a, b in zip(first, want, strict=True):
            # GELU's polynomial errs by 1e-6 absolute, which shows where a tiny image is mostly negative.
            assert_close(a, b, 3e-6)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            again = outputs(name, args, backend="cpu")
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), f"{threads} threads"

    return check


@pytest.fixture
def make() -> Callable[..., dict[str, Any]]:
    return make_args


@pytest.fixture(params=OPS)
def op_name(request: pytest.FixtureRequest) -> str:
    return request.param
