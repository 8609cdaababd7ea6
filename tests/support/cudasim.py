"""The CUDA kernels in the simulator (docs/testing-without-a-gpu.md): builds _cudasim, runs networks, and
lets SeemoRe take it for a GPU.

Test modules use this as ``from tests.support import cudasim``.
"""

from __future__ import annotations

import functools
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from benchmarks import gpu_cost_compile
from seemore_fast.backends import choice, cuda_programs, native, nvrtc
from seemore_fast.engines import cuda_engine
from seemore_fast.errors import BackendError
from seemore_fast.network import reference
from tests.support.repository import ROOT


@functools.cache
def library(only_compiled: bool = False) -> ModuleType:
    """The module, built with what the machine has; skips the test with the reason where it cannot be.

    ``only_compiled``: one without g++'s kernels, for those of nvcc and NVRTC.
    """
    if platform.machine() != "x86_64":
        pytest.skip(f"cudasim switches fibers in x86-64 assembly; this is {platform.machine()}")
    pytest.importorskip("pybind11", reason="pybind11 is not installed: the simulator cannot be built")
    paths = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    cmake, ninja = (shutil.which(name, path=paths) for name in ("cmake", "ninja"))
    if not cmake or not ninja:
        pytest.skip("cmake or ninja is not installed: the simulator cannot be built")
    build = ROOT / "build-cudasim"  # kept: it takes a minute
    configure = [cmake, "-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    options = ["-DSEEMORE_CUDA=off", f"-DSEEMORE_OUTPUT_DIR={build}", f"-DPython_EXECUTABLE={sys.executable}"]
    target = "_cudasim_compiled" if only_compiled else "_cudasim"
    build.mkdir(exist_ok=True)
    with FileLock(build / ".lock"):  # pytest's workers build it once
        for command in ([*configure, *options], [ninja, "-C", build, target]):
            done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0, done.stdout
    (path,) = build.glob("compiled/_cudasim*.so" if only_compiled else "_cudasim*.so")
    # A name of its own: pybind11 gives the module of a name that it knows, wherever the file lies.
    spec = importlib.util.spec_from_file_location("compiled._cudasim" if only_compiled else "_cudasim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def pretended(multiprocessors: int, shared: int) -> Iterator[None]:
    """Another GPU: of so many multiprocessors, whose blocks have `shared` bytes of shared memory."""
    lib = library()
    lib.pretend(multiprocessors, shared)
    try:
        yield
    finally:
        lib.pretend(4, 227 << 10)


ARCHITECTURE = 90
"""Of the GPU whose PTX runs in the simulator."""


@contextmanager
def compiled_by(compiler: str) -> Iterator[None]:
    """Kernels run as nvcc or nvrtc compiles them, to PTX, each once; skips the test where that is missing."""
    try:
        text_of = _of_nvcc() if compiler == "nvcc" else _of_nvrtc()
    except FileNotFoundError as reason:
        pytest.skip(f"{reason}: kernels run as g++ compiles them only")
    lib = library()

    def load(kernel: str) -> None:
        program, _, _ = kernel.rpartition(" ")
        lib.load_ptx(text_of(*program.split(" ", 1)), program)

    if _loaded.get(lib) != compiler:
        lib.unload_ptx()
        _loaded[lib] = compiler
    lib.find_ptx_by(load)
    lib.use_ptx(True)
    try:
        yield
    finally:
        lib.use_ptx(False)
        lib.find_ptx_by(None)


_loaded: dict[ModuleType, str] = {}
"""Whose PTX the simulator has."""


def _of_nvcc() -> Callable[[str, str], str]:
    gpu_cost_compile.nvcc_version()
    return lambda source, options: gpu_cost_compile.ptx_of(source, options, ARCHITECTURE).read_text()


def _of_nvrtc() -> Callable[[str, str], str]:
    found = nvrtc.find()
    if isinstance(found, BackendError):
        raise FileNotFoundError(str(found))

    def compile_one(source: str, options: str) -> str:
        path = gpu_cost_compile.folder_of(source, options, ARCHITECTURE) / f"nvrtc-{found}.ptx"
        if not path.exists():
            image = cuda_programs.ptx((source, options, ""), ARCHITECTURE, found)
            path.with_suffix(".part").write_bytes(image.rstrip(b"\0"))
            path.with_suffix(".part").rename(path)
        return path.read_text()

    return compile_one


class Simulated:
    """A reference network's weights in the CUDA engine, on a pretended GPU."""

    def __init__(self, network: reference.SeemoRe, precision: str = "fp32"):
        self.scale = network.scale
        self.native, self._weights = cuda_engine.pack(library(), network, precision, torch.device("cpu"))

    def __call__(self, x: Tensor, seed: int = 1, check: bool = True) -> Tensor:
        """Output for x [N, C, H, W]; blocks and lanes run in the order of ``seed``.

        Output and workspace hold NaN before.  Raises BackendError for what the simulator finds wrong.
        """
        library().configure(seed, check)
        n, channels, h, w = x.shape
        out = x.new_full(
            (n, channels, h * self.scale, w * self.scale), 77 if x.dtype == torch.uint8 else torch.nan
        )
        workspace = cuda_engine.aligned(self.native.workspace(n, h, w), x.device).fill_(255)
        cuda_engine.launch(self.native, x.contiguous(), out, workspace, stream=0)
        return out


class _Stream:
    cuda_stream = 0

    def __init__(self, device: int = 0, priority: int = 0) -> None:
        pass

    def wait_event(self, event: _Event) -> None:
        pass


class _Event:
    def record(self, stream: _Stream) -> None:
        pass


class _Graph:
    """Keeps the launches that are made while it captures."""

    capturing: ClassVar[_Graph | None] = None

    def __init__(self, device: int, stream: int) -> None:
        self.launches: list[tuple] = []
        _Graph.capturing = self

    def end(self) -> None:
        _Graph.capturing = None

    def launch(self, stream: int) -> None:
        for launch in self.launches:
            _launch(*launch)


_launch = cuda_engine.launch


def _launch_or_capture(*arguments) -> None:
    if _Graph.capturing is None:
        _launch(*arguments)
    else:
        _Graph.capturing.launches.append(arguments)


def stand_in_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the CPU count as a GPU's: SeemoRe takes the CUDA engine, its kernels run in the simulator.

    Streams are one, and everything is done when a call returns; graphs replay what they have captured.
    """
    simulator = library()
    simulator.configure(seed=1, check=False)
    monkeypatch.setenv("SEEMORE_SELF_CHECK", "0")  # tests of it turn it on again
    for owner, name, value in (
        (native, "lib", simulator),
        (cuda_programs, "obstacle", lambda capability: None),
        (choice, "device_of", lambda x: "cuda"),
        (cuda_engine, "launch", _launch_or_capture),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
        (torch.cuda, "empty_cache", lambda: None),
        (torch.cuda, "device", lambda device: nullcontext()),
        (torch.cuda, "current_stream", lambda device=None: _Stream()),
        (torch.cuda, "stream", lambda stream: nullcontext()),
        (torch.cuda, "Stream", _Stream),
        (torch.cuda, "Event", _Event),
        (simulator, "CudaGraph", _Graph),
        (Tensor, "record_stream", lambda tensor, stream: None),
    ):
        monkeypatch.setattr(owner, name, value)
