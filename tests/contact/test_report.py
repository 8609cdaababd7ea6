"""Tables of what was predicted and what was measured, ncu's words, and targets."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_engine, gpu_targets
from benchmarks.contact import launches, profile, report, rows
from tests.support import cuda_costs


def csv_of(kernels: list[str], **changes: str) -> str:
    """As ncu prints it, among lines of its own."""
    metrics = [*profile.METRICS.values(), *map(profile._STALL.format, profile.STALLS)]
    values = dict.fromkeys(metrics, "1,000") | {profile.METRICS["ns"]: "12.5"} | changes
    text = io.StringIO()
    table = csv.writer(text, quoting=csv.QUOTE_ALL)
    table.writerow(["ID", "Process ID", "Kernel Name", *metrics])
    table.writerow(["", "", "", *("us" if name == profile.METRICS["ns"] else "" for name in metrics)])
    for number, kernel in enumerate(kernels):
        table.writerow([number, 7, f"{kernel}(Params)", *(values[name] for name in metrics)])
    return f"==PROF== Connected to process 7\n{text.getvalue()}==PROF== Disconnected from process 7\n"


def test_launches_that_are_profiled():
    """From the second call's last layer on: that layer, both of the tail, the next call's first three."""
    asked = profile.command("t-x4 960x540")
    assert asked[asked.index("--launch-skip") + 1] == str(33 + 1 + 5 * 5)
    assert asked[asked.index("--launch-count") + 1] == "10"
    names = re.compile(asked[asked.index("--kernel-name") + 1].removeprefix("regex:"))
    assert all(map(names.match, (*launches.KERNELS, "sme11_tall", "sme11_broad", "upsample4")))
    assert not any(map(names.match, ("triton_ffn", "conv2d_grouped", "sme12")))
    metrics = asked[asked.index("--metrics") + 1].split(",")
    assert len(set(metrics)) == len(metrics) == len(profile.METRICS) + len(profile.STALLS)


def test_what_ncu_prints():
    found = profile.parse(csv_of(["rme", "upsample"]))
    assert [row["kernel"] for row in found] == ["rme", "upsample"]
    assert found[0]["ns"] == 12500
    assert found[0]["instructions"] == 1000
    assert set(found[0]["stalls"]) == set(profile.STALLS)
    (row,) = profile.parse(csv_of(["rme"], **{profile.METRICS["bank_conflicts"]: "n/a"}))
    assert "bank_conflicts" not in row


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", "administrators alone"),
        ("==ERROR== Failed to initialize the profiler: LibraryNotLoaded", "LibraryNotLoaded"),
        ("", "ncu has profiled nothing"),
    ],
)
def test_why_ncu_profiled_nothing(text, why):
    assert profile.parse(text) == []
    assert why in profile.why_nothing(text)


@pytest.mark.parametrize("ncu", [None, "echo ==ERROR== ERR_NVGPUCTRPERM; exit 1", "cat $CSV"])
def test_profiling(ncu, tmp_path, monkeypatch, capsys):
    """Without ncu, without its permission, and with both."""
    found = [*launches.KERNELS[1:6], "conv", "upsample", "head_product", "rme", "coarse"]
    (tmp_path / "csv").write_text(csv_of(found))
    if ncu:
        (tmp_path / "ncu").write_text(f"#!/bin/sh\n{ncu}\n")
        (tmp_path / "ncu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("CSV", str(tmp_path / "csv"))
    rows_file = str(tmp_path / "profile.jsonl")
    monkeypatch.setattr(sys, "argv", ["profile", "t-x4 960x540", "--rows", rows_file])
    assert profile.main() == (0 if ncu == "cat $CSV" else 1)
    said = {None: "ncu is not installed", "cat $CSV": "10 launches profiled"}
    assert said.get(ncu, "ERR_NVGPUCTRPERM") in capsys.readouterr().out
    assert len(rows.read(tmp_path / "profile.jsonl")) == (10 if ncu == "cat $CSV" else 0)


def row(case: str, contender: str, passed: bool = True, **figures: float) -> rows.Row:
    return {"case": case, "contender": contender, "error": 1e-3, "gate": 2e-3, "passed": passed, **figures}


def fill(folder: Path, name: str, found: list[rows.Row]) -> None:
    for one in found:
        rows.append(folder / f"{name}.jsonl", one)


def test_nothing_makes_no_report(tmp_path):
    assert report.make(tmp_path) == ""


def test_predictions_are_of_the_kernels_as_they_are():
    """`python benchmarks/gpu_cost.py --docs` makes others."""
    _, counted = cuda_costs.stored()
    predicted = {
        f"{k['variant'].lower()}-x{k['scale']} {k['size']} fp16 {k['kernel']}": (
            k["wi_per_px"],
            k["shared_wavefronts_per_px"],
            k["registers"],
        )
        for k in report.prediction()["kernels"]
        if k["card"] == "H100"
    }
    of_networks = {name: figures for name, figures in counted.items() if name in predicted}
    assert {name.rsplit(" ", 2)[0] for name in of_networks} == {text for text, _ in cuda_costs.CASES}
    # Counted ones are rounded to three decimals, predicted ones to four digits.
    for name, figures in of_networks.items():
        assert predicted[name] == pytest.approx(figures, rel=1e-3, abs=1e-3), name


def test_predicted_and_measured(tmp_path):
    fill(tmp_path, "environment", [{"gpu": "NVIDIA H200"}])
    case = "t-x4 960x540"
    eager = row(case, "free fp16 channels_last", cold_ms=12.0)
    fill(tmp_path, "times", [{"case": "ceilings"}, row(case, "ours fp16", False, cold_ms=5.0), eager])
    fill(tmp_path, "times", [{"case": case, "contender": "ours bf16", "failed": "CUDA out of memory"}])
    (known,) = (
        r for r in report.prediction()["cases"]
        if (r["card"], r["variant"], r["scale"], r["size"]) == ("H200", "T", 4, "960x540")
    )  # fmt: skip
    text = report.make(tmp_path)
    assert f"ours fp16                  predicted {known['modelled_ms']:8.3f}  measured    5.000" in text
    assert f"predicted {known['eager_modelled_ms']:8.3f}  measured   12.000" in text
    assert text.count("ABOVE ITS GATE of 2.0e-03") == 2, "beside both of its times"
    assert "CUDA out of memory" in text


def test_kernels_beside_the_model(tmp_path):
    fill(tmp_path, "environment", [{"gpu": "NVIDIA H200"}])
    found = profile.parse(csv_of(list(launches.KERNELS)))
    fill(tmp_path, "profile", [{"case": "t-x4 960x540", **one} for one in found])
    lines = list(report.kernels(tmp_path))
    assert [line.split()[0] for line in lines] == list(launches.KERNELS)
    assert not [line for line in lines if "(-)" in line], "the model knows them all"


def test_launches_in_the_report(tmp_path):
    right = {"precision": "fp32", "launch": 1, "kernel": "rme", "error": 1e-7, "passed": True}
    wrong = {"precision": "fp16", "launch": 2, "kernel": "sme11", "part": "stream 1", "error": 0.5}
    later = wrong | {"launch": 3, "kernel": "ffn", "passed": False, "where": "there"}
    fill(tmp_path, "launches", [right, wrong | {"passed": False, "where": "row 3"}, later])
    assert list(report.launches(tmp_path)) == [
        "fp32: 1 launches right, the largest error 1.0e-07 in rme",
        "fp16: WRONG from launch 2, sme11: stream 1 off by 5.0e-01: row 3",
    ]


def test_targets(tmp_path):
    assert list(gpu_targets.lines(tmp_path)) == []
    small, large = "t-x4 320x180", "b-x4 960x540"
    times = [
        {"case": "ceilings", "bytes_per_s": 1.0},
        row(small, "ours fp16", cold_ms=0.2, peak_mb=10, share_of_floor=0.3),
        row(small, "eager fp32", cold_ms=0.8),
        row(large, "ours fp16", cold_ms=3.0, peak_mb=100, share_of_floor=0.7),
        row(large, "eager fp32", cold_ms=75.0),
        row(large, "eager fp16 channels_last", cold_ms=20.0, peak_mb=300),
        row("t-x2 1920x1080", "ours fp16", cold_ms=4.4, wall_ms=4.0),
        row("t-x4 960x540", "ours fp16", passed=False, cold_ms=1.0),
        {"case": "l-x4 960x540", "contender": "ours fp16", "failed": "out of memory"},
    ]
    fill(tmp_path, "times", times)
    fill(tmp_path, "autotuned", [row(small, "autotuned fp16", cold_ms=0.4)])
    rows_of = gpu_targets.targets(gpu_targets.Measured(tmp_path))
    found = {one["target"]: (one["found"], one["met"]) for one in rows_of}
    assert found["t-x4 320x180, ms"] == (0.2, True)
    assert found["b-x4 960x540, ms"] == (3.0, False)
    assert found["l-x4 960x540, ms"] == (None, None)
    assert found["t-x4 960x540, ms"] == (None, None), "its error is above the gate"
    assert found["speed-up over eager fp32"] == (pytest.approx(10), True)
    assert found["speed-up over autotuned fp16"] == (pytest.approx(2), False)
    assert found["b-x4 960x540, share of floor"] == (0.7, True)
    assert found["b-x4 960x540, memory by eager fp16's"] == (pytest.approx(1 / 3), False)
    assert found["t-x2 1920x1080, images/s"] == (250, True)
    assert any(line.endswith("MISSED") for line in gpu_targets.lines(tmp_path))


TRIED = (gpu_engine.Contender("eager", "fp32"), gpu_engine.Contender("ours", "fp32"))


def measured(cases: list[str], until: float = 1e18) -> list[rows.Row]:
    """By the CPU's engine and PyTorch, as a GPU's would be."""
    return list(gpu_engine.times("cpu", cases, 0, until, TRIED))


@pytest.fixture
def a_gate_of_zero(monkeypatch) -> None:
    monkeypatch.setattr(gpu_engine, "gates", lambda case: {"fp32": 0.0})


@pytest.mark.usefixtures("native_engine")
def test_an_error_above_its_gate_is_timed(a_gate_of_zero):
    ceilings, *found = measured(["t-x4 20x24"])
    assert min(ceilings["bytes_per_s"], ceilings["flop_per_s"]) > 1e6
    assert [one["contender"] for one in found] == ["eager fp32", "ours fp32"]
    for one in found:
        assert not one["passed"]
        assert one["error"] > 0
        assert one["cold_ms"] > 0
        assert one["wall_ms"] > 0
    assert found[1]["share_of_floor"] > 0


@pytest.mark.usefixtures("native_engine")
def test_no_memory_for_one_contender(monkeypatch):
    call = gpu_engine.Case.call

    def full(case: gpu_engine.Case, contender: gpu_engine.Contender):
        if contender.kind == "eager":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40 GiB\nmore")
        return call(case, contender)

    monkeypatch.setattr(gpu_engine.Case, "call", full)
    _, *found = measured(["t-x4 16x16"])
    assert [one.get("failed") for one in found] == ["CUDA out of memory. Tried to allocate 40 GiB", None]
    assert found[1]["passed"]
    assert found[1]["cold_ms"] > 0


def test_nothing_is_started_after_the_limit():
    _, *found = measured(["t-x4 16x16", "b-x2 16x16"], until=0)
    assert [one["skipped"] for one in found] == ["no time was left"] * 2


@pytest.fixture
def native_engine() -> None:
    from seemore_fast.backends import native

    if native.lib is None:
        pytest.skip(f"no native library: {native.error}")
