"""torch.export programs and AOTInductor packages: run by PyTorch alone, any batch and size, live routing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from seemore_fast.errors import SeemoreError
from seemore_fast.export import check, torch_program
from seemore_fast.model import SeemoRe
from tests.support import golden

CONFIG = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 8, "lr_space": "exp", "topk": 1}

ALONE = """
import sys, torch
sys.modules["seemore_fast"] = None  # importing it would fail
path, kind, data = sys.argv[1:]
if kind == "program":
    run = torch.export.load(path).module()
else:
    run = torch._inductor.aoti_load_package(path)
for x, want in torch.load(data):
    got = run(x)
    assert got.shape == want.shape
    error = (got - want).norm() / want.norm()
    assert error < 1e-5, error
print("equal")
"""


@pytest.fixture(scope="module")
def network() -> SeemoRe:
    return golden.fill(SeemoRe(**CONFIG, mean=(0.3, 0.4, 0.5)), seed=3).eval()


def run_alone(path: Path, kind: str, network: SeemoRe) -> None:
    """In a process that cannot import this package: batches of 1 and 3, sizes from the least."""
    double = check.plain(network, torch.float64)
    routed = check._differently_routed(check.plain(network), double)
    assert len(set(check.routes(double, routed.double()))) >= 2
    inputs = [routed, routed[:1], torch.rand(1, 3, 16, 16), torch.rand(2, 3, 33, 70)]
    data = path.with_suffix(".data")
    torch.save([(x, double(x.double())) for x in inputs], data)
    command = [sys.executable, "-c", ALONE, str(path), kind, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"


def test_a_program_runs_without_this_package(network: SeemoRe, tmp_path: Path) -> None:
    torch_program.export_program(network, tmp_path / "network.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]
    run_alone(tmp_path / "network.pt2", "program", network)


@pytest.mark.full
def test_a_compiled_package_runs_without_this_package(network: SeemoRe, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler, which AOTInductor needs")
    torch_program.export_aoti(network, tmp_path / "network.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]
    run_alone(tmp_path / "network.pt2", "package", network)


def test_what_computes_something_else_is_not_delivered(
    network: SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = torch_program._trace

    def slightly_wrong(plain: SeemoRe) -> object:
        other = deepcopy(plain)
        other.load_state_dict({name: value * 1.001 for name, value in plain.state_dict().items()})
        return trace(other)

    monkeypatch.setattr(torch_program, "_trace", slightly_wrong)
    with pytest.raises(SeemoreError, match=r"torch\.export: what was written differs"):
        torch_program.export_program(network, tmp_path / "network.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [torch_program.export_program, torch_program.export_aoti])
def test_bad_targets_are_refused_at_once(write, network: SeemoRe, tmp_path: Path) -> None:
    with pytest.raises(SeemoreError, match=r"must end in \.pt2"):
        write(network, tmp_path / "network.pt")
    with pytest.raises(SeemoreError, match="there is no folder"):
        write(network, tmp_path / "none" / "network.pt2")


def test_without_a_compiler_it_says_so(
    network: SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SeemoreError, match=r"needs a C\+\+ compiler"):
        torch_program.export_aoti(network, tmp_path / "network.pt2")
