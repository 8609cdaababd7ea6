"""The native library as a process sees it: instruction sets, threads, fork, exit."""

from __future__ import annotations

import itertools
import os
import platform
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from seemore_fast import ops
from seemore_fast.backends import native
from seemore_fast.errors import BackendError
from tests.support.warm import python

LEVELS = ["v2", "v3", "v4", "v4bf16", "neon", "neonbf16", "portable"]


def in_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python(), "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def arguments() -> tuple[torch.Tensor, ...]:
    return torch.randn(1, 4, 70, 131), torch.randn(4), torch.randn(4)


def test_isas_are_known_and_ordered():
    isas = native.require().isas()
    assert isas
    assert isas == [level for level in LEVELS if level in isas]


def test_instruction_sets_are_those_that_linux_sees():
    """By the flags in /proc/cpuinfo, which leave out what the system does not save."""
    cpuinfo = Path("/proc/cpuinfo")
    found = (
        re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.M) if cpuinfo.is_file() else None
    )
    if found is None:
        pytest.skip("there is no /proc/cpuinfo that tells of the processor")
    flags = set(found[1].split())
    needed = {
        "v2": {"pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm"},
        "v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"},
        "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
        "v4bf16": {"avx512_bf16"},
    }
    if platform.machine() == "aarch64":
        needed = {"neon": {"asimd"}, "neonbf16": {"bf16"}}
    usable = list(itertools.takewhile(lambda isa: needed[isa] <= flags, needed))
    assert native.require().isas() == (usable or ["portable"])


def test_the_best_isa_is_the_default():
    code = "from seemore_fast.backends.native import lib; print(lib.isa())"
    assert in_process(code, SEEMORE_ISA="").stdout.strip() == native.require().isas()[-1]


@pytest.mark.parametrize("level", native.lib.isas() if native.lib else [])
def test_isa_by_environment(level):
    code = (
        "import torch; from seemore_fast import ops; from seemore_fast.backends.native import lib\n"
        "x = torch.arange(2 * 3 * 5 * 19.).view(2, 3, 5, 19).sin()\n"
        "w = torch.ones(3)\n"
        "got = ops.layer_norm2d(x, w, w, backend='cpu')\n"
        "assert (got - ops.layer_norm2d(x, w, w, backend='reference')).abs().max() < 1e-4\n"
        "print(lib.isa())"
    )
    done = in_process(code, SEEMORE_ISA=level)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == level


def test_unknown_isa_in_the_environment_is_told_at_first_use():
    code = (
        "import torch; from seemore_fast import errors, ops\n"
        "x, w = torch.zeros(1, 2, 3, 4), torch.ones(2)\n"
        "try: ops.layer_norm2d(x, w, w)\n"
        "except errors.BackendError as error: print(error)"
    )
    done = in_process(code, SEEMORE_ISA="v9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SEEMORE_ISA 'v9' is unknown or not supported by this CPU; usable here: ")


def test_unknown_isa_is_refused_and_changes_nothing(isa):
    with pytest.raises(BackendError, match="'sse9'"):
        native.require().set_isa("sse9")
    assert native.require().isa() == isa


def test_isas_agree(isa):
    """The same numbers up to rounding, whatever the vector width."""
    args = arguments()
    got = ops.layer_norm2d(*args, backend="cpu")
    native.require().set_isa(None)
    assert torch.allclose(got, ops.layer_norm2d(*args, backend="cpu"), rtol=1e-5, atol=1e-5)


def test_bad_parameters_are_refused_by_the_c_interface_too():
    lib = native.require()
    options = {"backward": False, "threads": 1}

    def run(op="layer_norm2d", inputs=(1, 1, 1), shape=(1, 2, 3, 4), **changed):
        lib.run_op(op, inputs, 0, (), (1,), shape, **{**options, **changed})

    refused = [
        ("there is no operator nothing", {"op": "nothing"}),
        (r"layer_norm2d: inputs\[1\] is NULL", {"inputs": (1, 0, 1)}),
        ("layer_norm2d: h must lie in 1..65536, got -3", {"shape": (1, 2, -3, 4)}),
        ("layer_norm2d: threads must lie in 1..2147483647, got 0", {"threads": 0}),
        ("layer_norm2d: eps must be at least 0, got -1", {"eps": -1}),
        ("striped_conv2d: kernel must be odd, got 4", {"op": "striped_conv2d", "kernel": 4}),
        ("low_rank_experts: rank must lie in 1..8192, got 0", {"op": "low_rank_experts", "rank": 0}),
        ("mix_experts: topk must lie in 1..2, got 3", {"op": "mix_experts", "ranks": [1, 2], "topk": 3}),
        (r"mix_experts: ranks\[e\] must lie in 1..8192, got 0", {"op": "mix_experts", "ranks": [0, 2]}),
        ("calibrate: h and w must be at least 4.recursive", {"op": "calibrate", "recursive": 1}),
    ]
    for message, changed in refused:
        with pytest.raises(ValueError, match=message):
            run(**changed)


def test_eight_python_threads_at_once():
    args = arguments()
    torch.set_num_threads(3)
    want = ops.layer_norm2d(*args, backend="cpu")

    def work(_: int) -> bool:
        torch.set_num_threads(3)
        return all(torch.equal(ops.layer_norm2d(*args, backend="cpu"), want) for _ in range(25))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_the_pool_survives_fork():
    code = (
        "import os, torch; from seemore_fast import ops\n"
        "torch.set_num_threads(3)\n"
        "x, w = torch.randn(2, 4, 70, 131), torch.ones(4)\n"
        "want = ops.layer_norm2d(x, w, w, backend='cpu')\n"
        "child = os.fork()\n"
        "same = torch.equal(ops.layer_norm2d(x, w, w, backend='cpu'), want)\n"
        "if child == 0: os._exit(0 if same else 3)\n"
        "assert os.waitpid(child, 0)[1] == 0 and same"
    )
    done = in_process(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", [(1, 8193, 1, 1), (1, 1, 65537, 1), (1, 1, 65536, 32768)])
def test_what_an_int_cannot_index_is_refused(shape):
    x = torch.zeros(1)
    with pytest.raises(ValueError, match=r"(c|h|h \* w) must lie in 1\.\."):
        native.require().run_op(
            "layer_norm2d", [x.data_ptr()] * 3, 0, [], [x.data_ptr()], shape, backward=False, threads=1
        )
