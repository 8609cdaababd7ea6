"""Shared by all tests: reproducible inputs, every instruction set the machine has, poisoned memory."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from seemore_fast.backends import native
from seemore_fast.network.accuracy import relative_l2
from tests.support import cudasim
from tests.support.isas import ISAS

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # pytest -n: workers and the processes that they start share the cores, whoever starts them
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))

# A shell's background jobs ignore Ctrl-C, and so does all that they start: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Workers take the files in the order below; else they would take those with many tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The interpreter's one test, the longest of all, is begun first: nobody waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_interpreter.py")


def pytest_collection_finish() -> None:
    """Modules and tests live as long as the process: Python's collector need not walk through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors of new_empty and empty hold NaN: output that a kernel leaves out shows."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def isas() -> Iterator[list[str]]:
    """The instruction sets that work here, for the test to choose from as it likes."""
    if not ISAS:
        pytest.skip(f"no native library: {native.error}")
    yield ISAS
    native.require().set_isa(None)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once with each instruction set that works here."""
    native.require().set_isa(request.param)
    yield request.param
    native.require().set_isa(None)


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """assert_close(got, want, limit): relative L2 error against float64, and no NaN or infinity."""

    def check(got: Tensor, want: Tensor, limit: float = 1e-6) -> None:
        error = relative_l2(got, want)
        assert error <= limit, f"relative L2 error {error:.3g} > {limit:.3g}"

    return check


@pytest.fixture
def torchvision_or_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """spandrel and BasicSR import torchvision, whose only build on PyPI wants a CUDA torch.

    Without it, its names are there for their import statements; nothing that SeemoRe needs ever calls them.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return

    class Absent(ModuleType):
        __path__: list[str] = []  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"BILINEAR": None})

    names = ["", ".transforms", ".transforms.functional", ".transforms.functional_tensor"]
    names += [".models", ".models.vgg", ".ops", ".utils"]
    for name in names:
        monkeypatch.setitem(sys.modules, f"torchvision{name}", Absent(f"torchvision{name}"))


@pytest.fixture(params=["g++", *(pytest.param(name, marks=pytest.mark.full) for name in ("nvcc", "nvrtc"))])
def compiler(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose code of the CUDA kernels the simulator runs."""
    with nullcontext() if request.param == "g++" else cudasim.compiled_by(request.param):
        yield request.param
