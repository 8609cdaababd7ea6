"""``bench --train``: what is compared, what is checked, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from seemore_fast.backends import choice
from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError
from seemore_fast.measure import bench
from seemore_fast.measure.peers import memory, steps
from seemore_fast.model import SeemoRe
from seemore_fast.network import flops

SMALL = {"scale": 2, "embedding_dim": 8, "num_layers": 1, "num_experts": 3, "lr_space": "exp", "topk": 1}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(0)
    path = tmp_path / "small.pth"
    torch.save(SeemoRe(**SMALL).state_dict(), path)
    return str(path)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes a minute of C++ here; its place in the table does not depend on it."""
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)


@pytest.mark.usefixtures("no_compiler")
def test_the_command_compares_steps(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_bytes", lambda *_: 3_000_000)
    options = ["--train", "--batch", "3", "--patch", "17", "--runs", "2", "--model", weights]
    result = CliRunner().invoke(app, ["bench", *options, "--json", str(tmp_path / "steps.json")])
    assert result.exit_code == 0, result.output
    assert "3 x 17x17, fp32" in " ".join(result.stdout.split())
    data = json.loads((tmp_path / "steps.json").read_text())
    wanted = {"dtype": "fp32", "batch": 3, "patch": 17, "runs": 2, "threads": torch.get_num_threads()}
    assert data["settings"] == wanted
    (case,) = data["cases"]
    assert [r["name"] for r in case["results"]] == list(steps.CONTENDERS)
    for r in case["results"]:
        assert r["passed"]
        assert 0 < r["rel_l2"] < steps.GATE_FP32
        assert r["peak_bytes"] == 3_000_000
        parts = r["forward_ms"], r["backward_ms"], r["optimizer_ms"]
        assert min(parts) > 0
        assert max(parts) < r["max_ms"]
        if case["peak_gflops"] is not None:
            work = 2e3 * case["gmacs"] / case["peak_gflops"]
            assert r["floor_share"] == pytest.approx(work / r["median_ms"])
    assert case["results"][-1]["ratio"] == 1
    config = bench.network_for(weights, "reference").config
    assert case["gmacs"] == pytest.approx(3 * 3 * flops.macs(config, 17, 17) / 1e9)
    assert ("peak:" in result.stdout) == (choice.missing("cpu") is None)


@pytest.mark.usefixtures("no_compiler")
def test_wrong_gradients_get_no_ratio(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SeemoRe.forward

    def wrong(self: SeemoRe, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) * (1.001 if self.backend == "auto" else 1)

    monkeypatch.setattr(SeemoRe, "forward", wrong)
    monkeypatch.setattr(memory, "peak_bytes", lambda *_: 0)
    found = steps.run(weights, batch=1, patch=16, runs=1)
    results = found.results
    assert not found.passed
    assert [r.passed for r in results] == [True, True, False]
    assert [r.ratio for r in results] == [None, None, None]


def test_patches_are_pieces_of_one_picture(weights: str) -> None:
    x, target = steps._data(weights, 3, 16, "cpu")
    assert (x.shape, target.shape) == ((3, 3, 16, 16), (3, 3, 32, 32))
    assert len({float(patch.sum()) for patch in x}) == 3


def test_memory_of_a_step_is_measured_in_another_process(weights: str) -> None:
    plain, ours = (
        memory.peak_bytes(steps.__name__, [n, weights, 4, 64, "fp32"]) for n in ("PyTorch", steps.OURS)
    )
    # Plain PyTorch keeps at least the result of every convolution, some 30 of 8 channels.
    assert plain > 4 * 64 * 64 * 4 * 8 * 30
    assert 0 < ours < plain


@pytest.mark.parametrize("sizes", [(0, 32, 5), (8, 0, 5), (8, 32, 0)])
def test_sizes_below_one(sizes: tuple[int, int, int]) -> None:
    batch, patch, runs = sizes
    with pytest.raises(SeemoreError, match="at least 1"):
        steps.run("t-x4", batch, patch, "fp32", runs)
