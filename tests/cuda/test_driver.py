"""The CUDA driver as it is found, or not: a fake libcuda takes loading, launches and errors."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seemore_fast.backends import native
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.network import fold, reference
from tests.support.building import run, tool
from tests.support.repository import ROOT

pytestmark = pytest.mark.skipif(
    native.lib is None or not sys.platform.startswith("linux"), reason="needs the native library, on Linux"
)

FORWARD = """
import pickle, sys
import numpy
from seemore_fast import _C as lib
from seemore_fast.errors import BackendError

def memory(size):
    found = numpy.empty(size + 256, numpy.uint8)
    return found[-found.ctypes.data % 256 :]

device = int(sys.argv[1])
try:
    lib.cuda_devices()
    lib.cuda_capability(device)
    arrays = pickle.load(open(sys.argv[2], "rb"))
    programs = lib.cuda_network_programs(arrays, 2, device, 0)
    for _ in range(2):
        for program in programs:
            lib.cuda_load(device, program, program[0].encode() + bytes(1))
    assert all(lib.cuda_is_loaded(device, program) for program in programs)
    assert not lib.cuda_is_loaded(device + 1, programs[0])
    size = lib.cuda_weight_bytes(arrays, 2, device)
    weights, host, x, out = memory(size), memory(size), memory(24 * 32 * 12), memory(48 * 64 * 12)
    engine = lib.CudaEngine(arrays, 2, device, host.ctypes.data, weights.ctypes.data)
    workspace = memory(engine.workspace(1, 24, 32))
    engine.forward(x.ctypes.data, out.ctypes.data, 0, 1, 24, 32, workspace.ctypes.data, workspace.nbytes, 7)
except BackendError as reason:
    print(reason)
"""
"""In a process without torch, which takes long to import."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folded weights of a layer of T, x2."""
    config = {"embedding_dim": 36, "num_experts": 3, "lr_space": "exp", "topk": 1}
    weights = fold.fold_network(reference.SeemoRe(scale=2, num_layers=1, **config))
    path = tmp_path_factory.mktemp("network") / "network.pickle"
    path.write_bytes(pickle.dumps(float32_arrays(weights)))
    return path


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a libcuda.so.1: a whole one, and one that lacks a function."""
    found = {}
    for name, flags in (("whole", []), ("lacking", ["-DFAKE_WITHOUT_TEXT"])):
        found[name] = tmp_path_factory.mktemp(name)
        source, library = ROOT / "tests/native/fake_driver.c", found[name] / "libcuda.so.1"
        run(tool("gcc"), "-shared", "-fPIC", *flags, source, "-o", library)
    return found


@pytest.fixture
def forward(drivers, network, tmp_path):
    """Runs a network on the fake driver in a process of its own: what was printed, and the calls."""

    def run_it(device: int = 0, driver: str = "whole", **fake: object) -> tuple[str, list[str]]:
        log = tmp_path / "log"
        log.write_text("")
        variables = {f"FAKE_{name.upper()}": str(value) for name, value in fake.items()}
        environment = {
            **os.environ,
            **variables,
            "FAKE_LOG": str(log),
            "LD_LIBRARY_PATH": str(drivers[driver]),
        }
        done = subprocess.run(
            [sys.executable, "-c", FORWARD, str(device), network],
            env=environment,
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), log.read_text().splitlines()

    return run_it


def test_a_forward(forward):
    said, calls = forward()
    assert said == ""
    kernels = ["head_product", "rme", "coarse", "mix_ffn", "sme11", "ffn", "conv", "upsample2"]
    launches = [call.split(" ", 1)[1] for call in calls if call.startswith("cuLaunchKernel ")]
    assert [launch.split()[0] for launch in launches] == kernels
    for launch in launches:
        assert re.fullmatch(
            r"\w+ on 100, stream 7, grid \d+ \d+ 1, block (256|512) 1 1, shared fits", launch
        ), "the device's primary context, the caller's stream"
    loaded = [call for call in calls if call.startswith("cuModuleLoadDataEx ")]
    assert len(loaded) == len(set(loaded)) == 6, "each program once, however often it is loaded"
    limits = [call for call in calls if call.startswith("cuFuncSetAttribute ")]
    assert all(limit.endswith(f" 8 {(227 << 10) - 512}") for limit in limits), "what static memory leaves"
    modes = [call.split(" ", 1)[1] for call in calls if "CaptureMode" in call]
    assert modes == ["relaxed", "as before"] * 6, "loading is allowed while others capture, and nothing else"
    assert sum(call.startswith("cuDevicePrimaryCtxRetain") for call in calls) == 1


def test_the_second_device_has_its_own(forward):
    said, calls = forward(device=1, devices=2)
    assert said == ""
    assert all(" on 101, " in call for call in calls if call.startswith(("cuLaunch", "cuModuleLoad")))


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        ({"driver": "lacking"}, "NVIDIA's driver is too old: it has no cuGetErrorString"),
        (
            {"version": 11040},
            "NVIDIA's driver is too old: it supports CUDA 11.4, the kernels need 12.0",
        ),
        ({"devices": 0}, "there is no CUDA device"),
        (
            {"fail": "cuInit 100"},
            "NVIDIA's driver does not start: no device is detected (CUDA_ERROR_NO_DEVICE)",
        ),
        ({"fail": "cuInit 12345"}, "NVIDIA's driver does not start: error 12345"),
        ({"capability": 75}, "the kernels need compute capability 8.0 or higher, this GPU has 7.5"),
        (
            {"fail": "cuModuleLoadDataEx 2"},
            "CUDA: loading the kernels of engine/head_product: out of memory (CUDA_ERROR_OUT_OF_MEMORY)",
        ),
        (
            {"fail": "cuLaunchKernel 719"},
            "CUDA: starting the kernel head_product: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)",
        ),
        ({"device": 1}, "finding the GPU: error 101"),
        ({"fail": "cuModuleGetFunction 500"}, "CUDA: finding the kernel head_product: error 500"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_fails_is_said(forward, fake, reason):
    said, _ = forward(**fake)
    assert said.startswith(reason)
    assert "\n" not in said


GRAPH = """
import gc
from seemore_fast import _C as lib
from seemore_fast.errors import DeviceError

try:
    graph = lib.CudaGraph(1, 7)
    graph.end()
    graph.end()
    graph.launch(8)
    graph.launch(9)
except DeviceError as reason:
    print(reason)
graph = None
gc.collect()
"""


@pytest.fixture
def graph(drivers, tmp_path):
    """Captures nothing into a graph on the second device of the fake driver, and starts it twice."""

    def run_it(**fake: object) -> tuple[str, list[str]]:
        log = tmp_path / "log"
        log.write_text("")
        variables = {f"FAKE_{name.upper()}": str(value) for name, value in fake.items()}
        library = {"FAKE_LOG": str(log), "FAKE_DEVICES": "2", "LD_LIBRARY_PATH": str(drivers["whole"])}
        done = subprocess.run(
            [sys.executable, "-c", GRAPH],
            env={**os.environ, **library, **variables},
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        calls = log.read_text().splitlines()
        return done.stdout.strip(), [call.strip() for call in calls if "Graph" in call or "Capture" in call]

    return run_it


def test_a_graph(graph):
    """On the capture's device, captured for this thread alone, begun, ended, started and freed once each."""
    said, calls = graph()
    assert said == ""
    assert calls == [
        "cuStreamBeginCapture_v2 7 on 101, of this thread",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
        "cuGraphLaunch 12 on 101, stream 8",
        "cuGraphLaunch 12 on 101, stream 9",
        "cuGraphExecDestroy",
    ]


@pytest.mark.parametrize(
    ("failing", "reason", "freed"),
    [
        ("cuStreamBeginCapture_v2", "CUDA: beginning a capture: ", []),
        ("cuStreamEndCapture", "CUDA: ending a capture: ", []),
        ("cuGraphInstantiateWithFlags", "CUDA: making a graph: ", ["cuGraphDestroy"]),
        ("cuGraphLaunch", "CUDA: starting a graph: ", ["cuGraphDestroy", "cuGraphExecDestroy"]),
    ],
)
def test_a_graph_that_fails(graph, failing, reason, freed):
    said, calls = graph(fail=f"{failing} 2")
    assert said == f"{reason}out of memory (CUDA_ERROR_OUT_OF_MEMORY)"
    assert [call for call in calls if "Destroy" in call] == freed
    ended = any(call.startswith("cuStreamEndCapture") for call in calls)
    assert ended == (failing != "cuStreamBeginCapture_v2")


def test_after_an_error_nothing_more_is_started(forward):
    _, calls = forward(fail="cuLaunchKernel 719")
    assert sum(call.startswith("cuLaunchKernel") for call in calls) == 1
