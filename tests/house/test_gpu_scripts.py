"""What benchmarks/gpu.sh would do on a GPU machine, as far as it can be tried without one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seemore_fast.backends import native

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.sh"


def test_the_script_parses():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_budgets_of_a_part_add_up_to_nine_minutes():
    text = SCRIPT.read_text()
    both, parts = text.split("if [[ $part == engine ]]")
    both, engine, triton = (
        sum(map(int, re.findall(r"^ *step [\w-]+ (\d+) ", steps, re.MULTILINE)))
        for steps in (both, *parts.split("\nelse\n"))
    )
    assert 300 < both + engine <= 440
    assert 300 < both + triton < 540


@pytest.mark.parametrize(
    ("part", "steps"),
    [
        ("engine", "environment build parity operators bitwise sanitizers times per-kernel compiled targets"),
        ("triton", "environment kernels repeat memcheck ops train"),
    ],
)
@pytest.mark.parametrize("broken", [None, "compute-sanitizer"])
def test_its_course(part, steps, broken, tmp_path):
    """With stand-ins for all that it calls; a step that fails shows, and does not keep the others."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("nvidia-smi", "python3", "cmake", "ninja", "compute-sanitizer"):
        lines = ["#!/bin/sh", f'echo "{name} $*" >>{tmp_path}/calls']
        if name == "nvidia-smi":
            lines += ['case "$*" in *compute_cap*) echo 9.0;; *) echo NVIDIA H200;; esac']
        lines += [f"exit {9 if name == broken else 0}"]
        (programs / name).write_text("\n".join(lines) + "\n")
        (programs / name).chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [SCRIPT, part, tmp_path / "found"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (1 if broken else 0), done.stderr
    assert re.findall(r"^([\w-]+) +\d+ s of +\d+", done.stdout, re.MULTILINE) == steps.split()
    assert done.stdout.count("FAILED (9)") == (1 if broken else 0)
    assert {f"{step}.log" for step in steps.split()} <= {path.name for path in (tmp_path / "found").iterdir()}
    calls = (tmp_path / "calls").read_text()
    if part == "engine":
        assert "-DSEEMORE_CUDA_ARCHITECTURES=90" in calls
        assert all(f"--tool {tool} " in calls for tool in ("memcheck", "racecheck", "initcheck", "synccheck"))


def test_other_parts_are_refused(tmp_path):
    done = subprocess.run([SCRIPT, "everything", tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: benchmarks/gpu.sh [engine|triton] [FOLDER]" in done.stderr


def test_what_it_runs_exists():
    files = re.findall(r"(?:benchmarks|tests)/[\w/]+(?:\.py)?", SCRIPT.read_text())
    files = [file for file in files if file != "benchmarks/results" and file != "benchmarks/gpu"]
    assert len(files) >= 8
    for file in files:
        assert (ROOT / file).exists(), file


@pytest.mark.skipif(native.lib is None, reason=f"no native library: {native.error}")
def test_measuring_inference_tried_on_the_cpu(tmp_path):
    file = tmp_path / "times.json"
    command = [
        sys.executable,
        ROOT / "benchmarks/gpu_engine.py",
        "times",
        "--device",
        "cpu",
        "--seconds",
        "0",
    ]
    cases = ["--case", "t-x4 20x24", "--case", "b-x2 16x16"]
    done = subprocess.run([*command, *cases, "--json", file], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ceilings, *rows = json.loads(file.read_text())
    assert min(ceilings["bytes_per_s"], ceilings["flop_per_s"]) > 1e6
    assert [row["contender"] for row in rows] == ["eager fp32", "ours fp32"] * 2
    assert all(row["passed"] and row["cold_ms"] > 0 and row["wall_ms"] > 0 for row in rows)
    assert rows[1]["share_of_floor"] > 0
    assert rows[1]["matrix_floor_ms"] > 0
    assert "ours fp32" in done.stdout


def test_targets(tmp_path):
    def targets() -> dict[str, tuple[float | None, bool | None]]:
        done = subprocess.run([sys.executable, ROOT / "benchmarks/gpu_targets.py", tmp_path], check=True)
        assert done.returncode == 0
        rows = json.loads((tmp_path / "targets.json").read_text())
        return {row["target"]: (row["found"], row["met"]) for row in rows}

    assert set(targets().values()) == {(None, None)}, "nothing was measured"

    def row(case: str, contender: str, **figures: float) -> dict[str, object]:
        return {"case": case, "contender": contender, **figures}

    small, large = "t-x4 320x180", "b-x4 960x540"
    times = [
        {"case": "ceilings", "bytes_per_s": 1.0},
        row(small, "ours fp16", cold_ms=0.2, peak_mb=10, share_of_floor=0.3),
        row(small, "eager fp32", cold_ms=0.8),
        row(large, "ours fp16", cold_ms=3.0, peak_mb=100, share_of_floor=0.7),
        row(large, "eager fp32", cold_ms=75.0),
        row(large, "eager fp16 channels_last", cold_ms=20.0, peak_mb=300),
        row("t-x2 1920x1080", "ours fp16", cold_ms=4.4, wall_ms=4.0),
        row("l-x4 960x540", "ours fp16", failed="out of memory"),
    ]
    (tmp_path / "times.json").write_text(json.dumps(times))
    (tmp_path / "compiled.json").write_text(json.dumps([row(small, "compiled fp16", cold_ms=0.4)]))
    found = targets()
    assert found["t-x4 320x180, ms"] == (0.2, True)
    assert found["b-x4 960x540, ms"] == (3.0, False)
    assert found["l-x4 960x540, ms"] == (None, None)
    assert found["speed-up over eager fp32"] == (pytest.approx(10), True)
    assert found["speed-up over compiled fp16"] == (pytest.approx(2), False)
    assert found["b-x4 960x540, share of floor"] == (0.7, True)
    assert found["b-x4 960x540, memory by eager fp16's"] == (pytest.approx(1 / 3), False)
    assert found["t-x2 1920x1080, images/s"] == (250, True)


def test_nothing_is_started_after_the_limit(tmp_path):
    file = tmp_path / "times.json"
    command = [sys.executable, ROOT / "benchmarks/gpu_engine.py", "times", "--device", "cpu", "--limit", "0"]
    subprocess.run([*command, "--json", file], cwd=ROOT, check=True, capture_output=True)
    skipped = [row for row in json.loads(file.read_text()) if row.get("skipped") == "no time was left"]
    assert len(skipped) == 9
