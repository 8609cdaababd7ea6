"""Several processes (gloo, on the CPU): one training, one message if one fails, one state on SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from seemore_fast.errors import SeemoreError
from seemore_fast.options import schema
from seemore_fast.train import processes
from seemore_fast.train.loop import train

SECONDS = 180  # far more than any of these runs takes


def torchrun(*force: str, script: str | None = None) -> subprocess.Popen:
    module = ["-m", "seemore_fast.train"] if script is None else [script]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.Popen(
        [*command, *module, "-opt", "o.yml", "--launcher", "pytorch", "--force_yml", "name=two", *force],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_equal_one_with_the_doubled_batch(job: Path) -> None:
    process = torchrun("datasets:train:batch_size_per_gpu=2", "train:optim_g:lr=1e-4")
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    torch.set_num_threads(1)
    train(schema.load("o.yml", ["name=one", "datasets:train:batch_size_per_gpu=4", "train:optim_g:lr=1e-4"]))
    one, two = (
        torch.load(f"experiments/{name}/models/net_g_8.pth", weights_only=True) for name in ("one", "two")
    )
    moved = torch.load("experiments/one/models/net_g_4.pth", weights_only=True)["params"]
    for key in ("params", "params_ema"):
        for name, value in one[key].items():
            torch.testing.assert_close(
                two[key][name], value, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: n + m
            )
    assert any((one["params"][name] - value).abs().max() > 1e-4 for name, value in moved.items())
    shown = [re.findall(r"l_pix (\S+)", log.read_text()) for log in logs("one") + logs("two")]
    assert [f"{float(x):.3e}" for x in shown[0]] == [f"{float(x):.3e}" for x in shown[1]]
    assert output.count("iter 8/8") == 1  # one process talks


def logs(name: str) -> list[Path]:
    (log,) = Path(f"experiments/{name}").glob("*.log")
    return [log]


FAILING = """
import os, sys
from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError
from seemore_fast.train import network

step = network.Trainee.step

def fail(self, iteration, batch):
    if iteration == 3 and os.environ["RANK"] == "1":
        raise SeemoreError("this process has had enough")
    return step(self, iteration, batch)

network.Trainee.step = fail
app(["train", *sys.argv[1:]], prog_name="seemore-fast")
"""


@pytest.mark.full
def test_a_failing_process_ends_all_with_one_message(job: Path) -> None:
    (job / "fails.py").write_text(FAILING)
    process = torchrun(script="fails.py")
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    ours = [line for line in output.splitlines() if line.startswith("seemore-fast: ")]
    assert ours == ["seemore-fast: this process has had enough"], output
    assert "stopped: another process failed" in logs("two")[0].read_text()


SLOW = """
import os, sys, time
from seemore_fast.cli import app

time.sleep(3 if os.environ["RANK"] == "0" else 0)
app(["train", *sys.argv[1:]], prog_name="seemore-fast")
"""


@pytest.mark.full
def test_faults_of_the_file_are_told_once_however_slow_the_first_process_is(job: Path) -> None:
    (job / "slow.py").write_text(SLOW)
    output, _ = torchrun("train:total_iter=none", script="slow.py").communicate(timeout=SECONDS)
    assert output.count("train:total_iter") == 1, output


def test_what_only_another_process_finds_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SeemoreError, match="no GPU of its own"), processes.one_failure():
        raise SeemoreError("process 1 has no GPU of its own")
    assert waited == [processes._FIRSTS_TURN]


@pytest.mark.full
def test_sigterm_to_torchrun_saves_one_state(job: Path) -> None:
    process = torchrun("train:total_iter=100000", "logger:save_checkpoint_freq=100000", "val:val_freq=100000")
    end = time.monotonic() + SECONDS
    while not any("iter 3/" in log.read_text() for log in (job / "experiments/two").glob("*.log")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    (state,) = (job / "experiments/two/training_states").iterdir()
    assert output.count(f"stopped after iteration {int(state.stem):,}") == 1, output


def test_launchers_that_are_not_there(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    for launcher, message in [("pytorch", "start with torchrun"), ("slurm", "SLURM_JOB_NODELIST is not set")]:
        with pytest.raises(SeemoreError, match=message):
            processes.join(launcher, schema.Distributed(), "cpu")


def test_slurms_variables_become_torchs(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "n[7-8]"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    scontrol = job / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[7-8]" ] && printf "n7\\\\nn8\\\\n"\\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{job}{os.pathsep}{os.environ['PATH']}")
    met = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **k: met.append(a))
    monkeypatch.setattr(torch.distributed, "new_group", lambda *a, **k: "control")
    joined = processes.join("slurm", schema.Distributed(port=1234), "cpu")
    assert (joined.rank, joined.world, joined.local_rank) == (3, 8, 1)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("n7", "1234")
    assert met == [("gloo",)]
