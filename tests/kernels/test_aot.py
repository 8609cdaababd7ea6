"""Kernels compile for GPUs that are not here, without spilling registers, and take no more of them than
before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.repository import ROOT

BUILDS = ROOT / "tests/support/triton_builds.py"

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


@pytest.fixture(scope="module")
def ratchet() -> dict[str, list[int]]:
    return json.loads(BUILDS.with_suffix(".json").read_text())


def test_nothing_spills_on_sm_90(ratchet):
    figures = {name: stack for name, (_, _, stack) in ratchet.items() if name.endswith("sm_90")}
    assert figures
    assert not {name: stack for name, stack in figures.items() if stack}


def test_blocks_fit_the_shared_memory(ratchet):
    """What a block may have at most, in bytes: the CUDA programming guide's table of compute capabilities."""
    limits = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10}
    assert {name.rpartition(" ")[2] for name in ratchet} == set(limits)
    assert not {name for name, (_, shared, _) in ratchet.items() if shared > limits[name.rpartition(" ")[2]]}


@needs_triton
@pytest.mark.full
def test_kernels_take_what_they_took(ratchet):
    """A process of its own, which Triton's interpreter has not touched."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, BUILDS]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    if not_compared := re.search(r"^not compared: .*$", done.stdout, re.MULTILINE):
        pytest.skip(not_compared[0])
    assert set(re.findall(r"^(\w+\.\w+ .*sm_\d+) ", done.stdout, re.MULTILINE)) == set(ratchet)
