"""``upscale --ray`` on two nodes: whatever becomes of its workers, nothing is lost and nothing done twice."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.image import Image, size, write
from seemore_fast.upscale.folders import Outcome, Settings
from seemore_fast.upscale.jobs import Job

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed (pip install 'seemore-fast[ray]')", allow_module_level=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    environment = dict(os.environ)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()
    os.environ.clear()
    os.environ.update(environment)


def photographs(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    noise = np.random.default_rng(0)
    paths = [folder / f"{index:02}.png" for index in range(count)]
    for path in paths:
        write(path, Image(noise.integers(0, 256, (72, 96, 3), np.uint8)))
    return paths


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file was written, hidden ones left out; a rewritten file would be another one."""
    status = {path.name: path.stat() for path in folder.glob("[!.]*")}
    return {name: (it.st_ino, it.st_mtime_ns) for name, it in status.items()}


def writers(folder: Path) -> list[int]:
    """The processes that have an unfinished file in ``folder`` open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            targets = [os.readlink(descriptor) for descriptor in (process / "fd").iterdir()]
        except OSError:  # it has just ended, or is another user's
            continue
        if any(Path(target).parent == folder and target.endswith(".part") for target in targets):
            found.append(int(process.name))
    return found


def test_a_killed_worker_costs_nothing(tmp_path: Path, cluster: str) -> None:
    inputs = photographs(tmp_path / "in", 36)  # two at a time
    (tmp_path / "in/bad.png").write_text("text")
    (tmp_path / "list.txt").write_text("".join(f"in/{path.name}\n" for path in [*inputs, Path("bad.png")]))
    expected, out = tmp_path / "expected/in", tmp_path / "out/in"
    out.mkdir(parents=True)
    (out / "07.png").write_text("from an earlier run")
    before = stamps(out)

    command = [sys.executable, "-m", "seemore_fast.cli", "upscale", "--manifest", "list.txt", "-o", "out"]
    with subprocess.Popen(
        [*command, "--ray-address", cluster], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as run:
        seen: dict[str, tuple[int, int]] = {}
        killed = False
        while run.poll() is None:
            now = stamps(out)
            seen = {**{name: stamp for name, stamp in now.items() if stamp != before.get(name)}, **seen}
            if len(seen) >= 8 and not killed and (busy := writers(out)):
                os.kill(busy[0], signal.SIGKILL)
                killed = True
            time.sleep(0.01)
        report = run.stderr.read()
    assert killed
    assert run.returncode == 1, report
    assert "36 of 37 pictures written, 1 failed" in report
    assert f"{tmp_path}/in/bad.png: not a PNG" in report
    assert stamps(out) == seen, "an output was written twice"
    assert sorted(path.name for path in out.iterdir()) == [path.name for path in inputs]

    local = CliRunner().invoke(app, ["upscale", *map(str, inputs), "-o", str(expected)])
    assert local.exit_code == 0, local.output
    for path in inputs:
        assert (out / path.name).read_bytes() == (expected / path.name).read_bytes()


def test_sizes_are_as_without_ray(tmp_path: Path, cluster: str) -> None:
    inputs = photographs(tmp_path / "in", 2)
    wishes = ["--at-least", "100x200", "--skip-large", "--model", "t-x2"]
    for name, more in [("ray", ["--ray-address", cluster]), ("here", [])]:
        command = ["upscale", *map(str, inputs), "-o", str(tmp_path / name), *wishes, *more]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    for path in inputs:
        large = (tmp_path / "ray" / path.name).read_bytes()
        assert large == (tmp_path / "here" / path.name).read_bytes()
        assert size(tmp_path / "ray" / path.name) == (267, 200)


def test_a_picture_that_kills_its_workers_is_found(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from seemore_fast.upscale import ray_jobs

    jobs = [Job(tmp_path / f"{index:02}.png", tmp_path / f"out{index:02}.png") for index in range(4)]

    class Fragile(ray_jobs._Worker):
        """Without a network, for that takes time to start."""

        def __init__(self, crew: Any, tries: Any):
            self._crew, self._tries = crew, tries

        def _upscale(self, rows: list[dict[str, Any]], report: Any) -> None:
            if any(row["input"].endswith(b"02.png") for row in rows):
                os.kill(os.getpid(), signal.SIGKILL)
            report.outcome = Outcome(len(rows))

    class Silent:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    monkeypatch.setattr(ray_jobs, "_Worker", Fragile)
    monkeypatch.setattr(ray_jobs, "_try_out", lambda crew: "a Compact network, not SeemoRe")
    monkeypatch.setattr(ray_jobs, "_TRIES", 1)
    monkeypatch.setattr(ray_jobs, "_BATCHES", 1)  # so two pictures at a time
    network = {"device": "cpu", "model": "other.pth"}
    outcome = ray_jobs.upscale_on_ray(network, 1, cluster, jobs, Settings(10**6), Silent())
    assert outcome.written == 3
    assert "other.pth: a Compact network, not SeemoRe" in caplog.text
    ((job, message),) = outcome.failed
    assert job == jobs[2]
    assert message == f"{jobs[2].input}: its workers died, each time; see the logs of Ray"
    # Ray Data's statistics, which would go on asking, and log into streams that pytest has closed.
    assert "data-usage-metrics-poller" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "no-such-model"], "no-such-model"),
        (["--device", "cuda"], "no machine of the Ray cluster has a GPU"),
        (["--threads", "2"], "no machine of the Ray cluster has more than 1 CPUs"),
    ],
)
def test_what_no_worker_can_do_is_an_error_at_once(
    tmp_path: Path, cluster: str, args: list[str], message: str
) -> None:
    photographs(tmp_path / "in", 1)
    command = ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--ray-address", cluster]
    result = CliRunner().invoke(app, [*command, *args])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
