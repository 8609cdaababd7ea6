"""The course of benchmarks/gpu.sh, tried with stand-ins for all that it calls; each failure injected once."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.contact import course, report, rows
from benchmarks.contact.steps import Course, Step
from tests.support.repository import ROOT

SCRIPT = ROOT / "benchmarks/gpu.sh"

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="the course runs on POSIX: groups of processes, signals"
)

ROW = {"case": "t-x4 320x180", "contender": "ours fp16", "error": 3e-3, "gate": 2e-3, "passed": False}
ROW |= {"cold_ms": 0.5, "warm_ms": 0.4}

PYTHON = """#!/bin/sh
echo "python3 $*" >>"$CALLS"
case "$*" in *"$FAULT_AT"*) eval "$FAULT";; esac
case "$*" in
  *benchmarks.contact.course*) exec {python} "$@";;
  *--rows*times.jsonl*) while [ "$1" != --rows ]; do shift; done; cat "$HOME/row" >>"$2";;
esac
"""

NVIDIA_SMI = """#!/bin/sh
case "$*" in *compute_cap*) echo 9.0;; *) echo NVIDIA H200;; esac
"""

OTHERS = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case "$(basename "$0") $*" in *"$FAULT_AT"*) eval "$FAULT";; esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """PATH with stand-ins. FAULT, shell code, is what those do whose command has FAULT_AT in it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "row").write_text(json.dumps(ROW) + "\n")
    texts = dict.fromkeys(("cmake", "ninja", "compute-sanitizer", "ncu"), OTHERS)
    texts |= {"python3": PYTHON.format(python=sys.executable), "nvidia-smi": NVIDIA_SMI}
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "FAULT_AT": "nothing at all",
        "FAULT": "",
    }


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs a course in this process, with short budgets where asked; gives the folder of its results."""

    def run_it(name: str = "first", fault_at: str = "", fault: str = "", seconds: float = 60) -> Path:
        for key, value in (environment | ({"FAULT_AT": fault_at, "FAULT": fault} if fault else {})).items():
            monkeypatch.setenv(key, value)
        monkeypatch.chdir(ROOT)
        work, out = tmp_path / "work", tmp_path / "out"
        work.mkdir()
        out.mkdir()
        steps = [dataclasses.replace(s, seconds=min(s.seconds, seconds)) for s in course.COURSES[name](work)]
        Course(work, out, course.SECONDS, report.make).run(steps)
        return out

    return run_it


def statuses(out: Path) -> dict[str, str]:
    """The last that is known of each process."""
    return {row["name"]: row["status"] for row in rows.read(out / "steps.jsonl")}


def has_ended(pid: int) -> bool:
    """Within five seconds; whoever inherits it may take as long as it likes to ask how."""
    try:
        process = psutil.Process(pid)
        end = time.monotonic() + 5
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
            time.sleep(0.05)
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def names_of(name: str) -> list[str]:
    return [process for step in course.COURSES[name](Path("work")) for process in step.commands]


@pytest.mark.parametrize("name", course.COURSES)
def test_budgets_add_up_to_nine_minutes(name):
    steps = course.COURSES[name](Path("work"))
    assert 400 < sum(step.seconds for step in steps) <= course.SECONDS == 540
    assert next(step.seconds for step in steps if step.ends) <= 60
    names = names_of(name)
    assert len(set(names)) == len(names)


def test_cheap_questions_come_first():
    steps = [step.name for step in course.first(Path("work"))]
    order = ["environment", "build", "smoke-0", "smoke-1", "launches", "parity", "sanitizers"]
    assert steps[:7] == order
    assert [s.split("-")[0] for s in steps[7:]] == [
        *["times"] * 5, *["compiled"] * 2, "triton", "training", "profile"
    ]  # fmt: skip


def test_what_it_runs_exists():
    words = [
        w
        for n in course.COURSES
        for s in course.COURSES[n](Path("w"))
        for c in s.commands.values()
        for w in c
    ]
    files = {word for word in words if re.match(r"(benchmarks|tests)/", word)}
    modules = {word for word in words if word.startswith("benchmarks.")}
    assert len(files) > 6
    assert len(modules) == 3
    assert not [f for f in files if not (ROOT / f).exists()]
    assert not [m for m in modules if not (ROOT / f"{m.replace('.', '/')}.py").exists()]
    for script in (SCRIPT, ROOT / "benchmarks/contact/build.sh"):
        subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("name", course.COURSES)
def test_a_course(name, tmp_path, environment):
    """By the script itself."""
    done = subprocess.run([SCRIPT, name, tmp_path / "out"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(tmp_path / "out") == dict.fromkeys(names_of(name), "ok")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "report.txt",
        "steps.jsonl",
        "results.tar.gz",
    }
    with tarfile.open(tmp_path / "out/results.tar.gz") as archive:
        assert {f"{process}.log" for process in names_of(name)} <= set(archive.getnames())
    assert re.search("ours fp16 +cold +0.500  warm +0.400 .* ABOVE ITS GATE of 2.0e-03", done.stdout)
    calls = (tmp_path / "calls").read_text()
    assert "-DSEEMORE_CUDA=on -DSEEMORE_CUDA_ARCHITECTURES=90" in calls
    if name == "first":
        assert all(f"--tool {tool} " in calls for tool in course.TOOLS)


def test_arguments_are_held_to(environment, tmp_path):
    done = subprocess.run([SCRIPT, "everything"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'everything'" in done.stderr
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    done = subprocess.run([SCRIPT, "first", tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("no GPU: ")


def test_a_failed_build_ends_it(run):
    found = statuses(run(fault_at="ninja", fault="echo rme.cu: error; exit 3"))
    assert found == {"environment": "ok", "build": "failed (3)"}


def test_a_precision_that_crashes(run):
    """By SIGSEGV; its log's last line is in the report, and all others go on."""
    out = run(fault_at="smoke 1 bf16", fault="echo launching; kill -SEGV $$")
    found = statuses(out)
    assert found.pop("smoke-1-bf16") == "killed by SIGSEGV"
    assert found == dict.fromkeys([n for n in names_of("first") if n != "smoke-1-bf16"], "ok")
    assert re.search(
        r"killed by SIGSEGV, see smoke-1-bf16.log\n +launching\n", (out / "report.txt").read_text()
    )


def test_a_hang_runs_into_its_budget(run, tmp_path):
    """It is asked to stop, then made to tell where it is, then killed with all that it has started."""
    hang = "trap : INT; trap 'echo where I am; exit 1' ABRT; sleep 1000 & echo $! >$HOME/child; "
    hang += "while :; do sleep 0.1; done"
    out = run(fault_at="launches compare fp16", fault=hang, seconds=4)
    found = statuses(out)
    assert found.pop("launches-fp16") == "no end after 4 s"
    assert set(found.values()) == {"ok"}
    with tarfile.open(out / "results.tar.gz") as archive:
        log = archive.extractfile("launches-fp16.log")
        assert log is not None
        assert b"where I am\n" in log.read()
    assert has_ended(int((tmp_path / "child").read_text()))


def test_what_a_sanitizer_finds(run):
    found = statuses(run(fault_at="--tool racecheck", fault="echo a race; exit 9"))
    assert found.pop("racecheck") == "failed (9)"
    assert set(found.values()) == {"ok"}


def test_a_program_that_is_not_there(run, tmp_path):
    (tmp_path / "bin/compute-sanitizer").unlink()
    found = statuses(run(seconds=20))
    assert {name for name, status in found.items() if status == "failed (127)"} == set(course.TOOLS)


def test_time_that_has_run_out(tmp_path):
    steps = [Step("long", 1.5, {"long": ["sleep", "60"]}), Step("more", 10, {"more": ["true"]})]
    begun = time.monotonic()
    assert not Course(tmp_path, tmp_path, 2, report.make).run(steps)
    assert time.monotonic() - begun < 15
    assert statuses(tmp_path)["long"] == "no end after 2 s"
    assert statuses(tmp_path)["more"] == "skipped: no time was left"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_midway(number, tmp_path, environment):
    """What was there is whole: rows, archive and report, also of the step that was under way."""
    fault = {"FAULT_AT": "smoke 1 fp16", "FAULT": "echo launching; sleep 60"}
    out = tmp_path / "out"
    process = subprocess.Popen([SCRIPT, "first", out], env=environment | fault, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while statuses(out).get("smoke-1-bf16") != "ok":
        assert time.monotonic() < end, statuses(out)
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.wait(30)
    found = statuses(out)
    assert found.pop("smoke-1-fp16") == "started"
    assert found["build"] == found["smoke-0-fp16"] == "ok"
    with tarfile.open(out / "results.tar.gz") as archive:
        archive.extractall(tmp_path / "kept", filter="data")
    assert {"build.log", "smoke-0-fp16.log"} <= {file.name for file in (tmp_path / "kept").iterdir()}
    text = (out / "report.txt").read_text()
    assert re.search(r"^build +[\d.]+ s  ok$", text, re.MULTILINE)
    if number == signal.SIGTERM:
        assert re.search(r"^smoke-1-fp16 +under way", text, re.MULTILINE)
    for line in (tmp_path / "calls").read_text().splitlines():
        assert "launches" not in line


def test_a_row_that_was_cut_off(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows.append(file, {"a": 1})
    with file.open("a") as part:
        part.write(json.dumps({"b": 2})[:4])
    assert rows.read(file) == [{"a": 1}]
