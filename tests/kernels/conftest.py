"""Triton kernels on the GPU where there is one, else in Triton's interpreter.

The interpreter must be asked for before Triton is first imported, and would then hold for the whole test run;
so without a GPU these tests run in a process of their own, which `test_kernels_in_the_interpreter` starts.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def _poisoned(poisoned_memory: None) -> None:
    pass


@pytest.fixture
def device() -> str:
    """Where kernels run: CUDA, or the CPU under the interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if not GPU and not INTERPRETED:
        pytest.skip(
            "no GPU; without one these run under TRITON_INTERPRET=1, as test_interpreter.py starts them"
        )
    return "cuda" if GPU else "cpu"


@pytest.fixture
def gpu(device: str) -> str:
    """For what the interpreter cannot show."""
    if device != "cuda":
        pytest.skip(
            "needs a GPU: the interpreter shows neither races nor bfloat16 arithmetic nor CUDA graphs"
        )
    return device
