"""``seemore-fast export``: which file for which name, what it says, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.export import onnx_graph
from seemore_fast.model import SeemoRe, load
from seemore_fast.network import checkpoint
from tests.support import golden


@pytest.fixture
def weights(tmp_path: Path) -> str:
    network = SeemoRe(2, num_experts=3, num_layers=1, embedding_dim=8, topk=1, recursive=1, lr_space="exp")
    path = tmp_path / "small.safetensors"
    checkpoint.save(golden.fill(network, seed=1), path)
    return str(path)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.output


def test_onnx_by_name(weights: str, tmp_path: Path) -> None:
    if (why := onnx_graph.missing()) is not None:
        pytest.skip(why)
    status, said = run("--model", weights, "-o", tmp_path / "net.onnx")
    assert status == 0, said
    assert "net.onnx: 0." in said
    assert "checked against float64" in said or "onnxruntime is not installed" in said


def test_torch_program_by_name(weights: str, tmp_path: Path) -> None:
    status, said = run("--model", weights, "-o", tmp_path / "net.pt2")
    assert status == 0, said
    x = torch.rand(2, 3, 9, 13)
    with torch.inference_mode():
        got = torch.export.load(tmp_path / "net.pt2").module()(x)
        assert golden.relative_l2(got, load(weights).double()(x.double())) <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "net.bin"], "format onnx must end in .onnx"),
        (["-o", "net.onnx", "--format", "aoti"], "format aoti must end in .pt2"),
        (["-o", "none/net.onnx"], "there is no folder none"),
        (["-o", "net.pt2", "--dtype", "fp16"], "fp16 is for ONNX files only"),
        (["-o", "net.onnx", "--model", "t-x9"], "neither a file nor bundled weights"),
    ],
)
def test_what_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = run(*arguments)
    assert status == 2
    assert message in said
    assert not list(tmp_path.iterdir())
