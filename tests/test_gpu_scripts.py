"""What benchmarks/gpu.sh would do on a GPU machine, as far as it can be tried without one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seemore_fast import _native

ROOT = Path(__file__).parents[1]
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
    assert 300 < both + engine < 540
    assert 300 < both + triton < 540


def test_what_it_runs_exists():
    files = re.findall(r"(?:benchmarks|tests)/[\w/]+(?:\.py)?", SCRIPT.read_text())
    files = [file for file in files if file != "benchmarks/results" and file != "benchmarks/gpu"]
    assert len(files) >= 8
    for file in files:
        assert (ROOT / file).exists(), file


@pytest.mark.skipif(_native.lib is None, reason=f"no native library: {_native.error}")
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
    assert [row["contender"] for row in rows] == ["ours fp32", "eager fp32"] * 2
    assert all(row["passed"] and row["cold_ms"] > 0 and row["wall_ms"] > 0 for row in rows)
    assert rows[0]["share_of_floor"] > 0
    assert rows[0]["matrix_floor_ms"] > 0
    assert "ours fp32" in done.stdout


def test_nothing_is_started_after_the_limit(tmp_path):
    file = tmp_path / "times.json"
    command = [sys.executable, ROOT / "benchmarks/gpu_engine.py", "times", "--device", "cpu", "--limit", "0"]
    subprocess.run([*command, "--json", file], cwd=ROOT, check=True, capture_output=True)
    skipped = [row for row in json.loads(file.read_text()) if row.get("skipped") == "no time was left"]
    assert len(skipped) == 9
