"""The benchmark: what it measures, checks and refuses.  No test depends on how long anything takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from seemore_fast.backends import choice
from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError
from seemore_fast.measure import bench
from seemore_fast.network import reference, variants


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("t-x2", 220_104), ("t-x3", 224_979), ("t-x4", 231_804),
        ("b-x2", 490_364), ("b-x3", 496_859), ("b-x4", 505_952),
        ("l-x2", 953_308), ("l-x3", 959_803), ("l-x4", 968_896),
    ],
)  # fmt: skip
def test_variants_have_the_published_size(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = reference.SeemoRe(**variants.config(name))
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_variant_names() -> None:
    assert len(variants.names()) == 9
    assert variants.config("B") == variants.config("b-x4")
    assert variants.config("t-x2")["scale"] == 2
    for name in ("t-x5", "s-x2", "t-2", "t-x", "", "-x2"):
        with pytest.raises(SeemoreError, match="unknown variant"):
            variants.config(name)


def test_the_reference_passes_its_own_check() -> None:
    (result,) = bench.run("t-x2", (20, 17), names=["reference"], runs=3, warmup=0)
    assert result.passed
    assert 0 < result.rel_l2 < result.gate == bench.GATE_FP32
    assert result.speedup == 1
    assert 0 < result.min_ms <= result.median_ms <= result.max_ms


def test_low_precision_is_held_to_twice_the_error_of_pytorch() -> None:
    (result,) = bench.run("t-x2", (32, 24), "bf16", ["reference"], runs=1, warmup=0)
    assert result.gate == pytest.approx(2 * result.rel_l2)
    assert 1e-4 < result.rel_l2 < 0.1, "bf16 keeps 8 bits"


def test_the_native_engine_passes_against_float64() -> None:
    if (why := choice.missing("cpu")) is not None:
        pytest.skip(f"backend cpu: {why}")
    results = bench.run("t-x4", (40, 33), names=["reference", "cpu"], runs=1, warmup=0)
    assert [r.backend for r in results] == ["reference", "cpu"]
    assert all(r.passed and r.speedup is not None for r in results)


def test_a_wrong_result_gets_no_speedup() -> None:
    times = {"reference": [4.0, 8.0, 6.0], "fast": [1.0, 3.0, 2.0], "wrong": [1.0] * 3, "nan": [1.0] * 3}
    errors = {"reference": (0, 0), "fast": (1e-6, 1e-6), "wrong": (2e-5, 1e-6), "nan": (math.nan, math.nan)}
    results = {r.backend: r for r in bench._results(times, errors, gate=1e-5)}
    assert (results["fast"].median_ms, results["fast"].min_ms, results["fast"].max_ms) == (2, 1, 3)
    assert results["fast"].speedup == 3
    for name in ("wrong", "nan"):
        assert not results[name].passed
        assert results[name].speedup is None


def test_without_a_reference_there_is_no_ratio() -> None:
    (result,) = bench._results({"cpu": [1.0]}, {"cpu": (0, 0)}, gate=1e-5)
    assert result.passed
    assert result.speedup is None


def test_errors_see_a_single_wrong_pixel() -> None:
    exact = torch.ones(1, 3, 4, 4, dtype=torch.float64)
    out = exact.clone()
    out[0, 1, 2, 3] = 1.5
    assert bench.error_of(out, exact) == pytest.approx((0.5 / math.sqrt(48), 0.5))
    out[0, 0, 0, 0] = torch.nan
    assert bench.error_of(out, exact)[0] == math.inf


def test_backends_take_turns_after_warming_up() -> None:
    log: list[str] = []
    calls = {"a": lambda: log.append("a"), "b": lambda: log.append("b")}
    times = bench._interleave(calls, runs=3, warmup=2, device="cpu")
    assert log == ["a", "b"] * 5
    assert [len(values) for values in times.values()] == [3, 3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": (0, 4)}, "size must be at least 1x1"),
        ({"runs": 0}, "runs must be at least 1"),
        ({"names": []}, "backends must be one or more"),
        ({"names": ["cpu", "cpu"]}, "backends must be one or more different names"),
        ({"names": ["abacus"]}, "unknown backend 'abacus'; there are reference, cpu, cuda, triton"),
        ({"names": ["triton"]}, "backend 'triton' is not available: no beads"),
        ({"names": ["cpu", "cuda"]}, "cannot share a run"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"dtype": "fp16"}, "fp16 needs a GPU"),
        ({"model": "x-x4"}, "x-x4: neither a weights file nor one of t-x2, t-x3, t-x4"),
    ],
)
def test_what_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(choice, "missing", {"triton": "no beads"}.get)
    arguments = {"model": "t-x2", "size": (16, 16), "names": ["reference"], **kwargs}
    with pytest.raises(SeemoreError, match=message):
        bench.run(**arguments)


@pytest.mark.parametrize("text", ["", "320", "320x", "x180", "0x5", "-3x5", "3.5x2", "3x4x5", "axb"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(SeemoreError, match="WIDTHxHEIGHT"):
        bench.parse_size(text)


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    args = ["bench", "--model", "t-x2", "--size", "24x16", "--backends", "reference", "--runs", "2", "--json"]
    result = CliRunner().invoke(app, [*args, str(tmp_path / "bench.json")])
    assert result.exit_code == 0, result.output
    assert "t-x2, input 24x16, fp32" in result.stdout
    assert "1.00x" in result.stdout
    data = json.loads((tmp_path / "bench.json").read_text())
    assert data["settings"] == {"dtype": "fp32", "runs": 2, "threads": torch.get_num_threads()}
    (case,) = data["cases"]
    assert (case["model"], case["size"]) == ("t-x2", [24, 16])
    assert [r["backend"] for r in case["results"]] == ["reference"]
    assert data["environment"]["versions"]["torch"] == torch.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_a_failed_check_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = bench._results(
        {"reference": [2.0], "cpu": [1.0]}, {"reference": (0, 0), "cpu": (math.nan, 1)}, 1e-5
    )
    monkeypatch.setattr(bench, "run", lambda *_: wrong)
    result = CliRunner().invoke(app, ["bench", "--json", str(tmp_path / "bench.json")])
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "2.00x" not in result.stdout
    lines = json.loads((tmp_path / "bench.json").read_text())["cases"][0]["results"]
    assert [(line["passed"], line["rel_l2"], line["speedup"]) for line in lines] == [
        (True, 0, 1),
        (False, None, None),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--size", "big"], "size must be WIDTHxHEIGHT"),
        (["--backends", "abacus"], "unknown backend 'abacus'"),
        (["--train", "--peers"], "choose one"),
        (["--train", "--dtype", "fp16"], "fp16 needs a GPU"),
        (["--model", "missing.pth"], "missing.pth: neither a weights file nor one of"),
        (["--model", "missing.pth", "--json", "none/b.json"], "none/b.json: there is no folder none"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["bench", "--runs", "1", *args])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("seemore-fast: ")
    assert message in result.stderr
    assert not list(tmp_path.iterdir())
