"""A captured step, by a stand-in for CUDA graphs: replays on the memory of one call."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seemore_fast.errors import SeemoreError
from seemore_fast.train import capture
from seemore_fast.train.processes import Processes
from tests.support import captures
from tests.support.repository import ROOT
from tests.support.warm import python

SECONDS = 180  # far more than any of these runs takes

CHANGES = [{}, {"precision": "bf16", "grad_clip": 0.1, "ema_decay": 0.9}, {"precision": "fp16"}]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return captures.stand_in(monkeypatch.setattr)


def test_replays_after_a_warm_up(replays):
    """Each result is its own, and inputs are copied to where the capture had them."""
    seen: list[int] = []

    def step(x: Tensor, y: Tensor) -> Tensor:
        seen.append(x.data_ptr())
        return x + y

    captured = capture.Captured(step)
    given = [(torch.full((2,), float(i)), torch.rand(2)) for i in range(capture.WARM_UP + 3)]
    found = [captured(*pair) for pair in given]
    assert all(torch.equal(out, x + y) for out, (x, y) in zip(found, given, strict=True))
    assert len(replays) == 3
    assert len(set(seen[capture.WARM_UP :])) == 1
    with pytest.raises(SeemoreError, match=r"it has \(2,\) torch.float32, this is \(3,\) torch.float32"):
        captured(torch.rand(3), torch.rand(3))


def test_on_the_cpu_it_runs_as_it_is():
    captured = capture.Captured(lambda x: 2 * x)
    for _ in range(capture.WARM_UP + 2):
        x = torch.rand(2)
        assert torch.equal(captured(x), 2 * x)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_training_gives_the_same_bits(replays, change):
    """In two parts, with a rate that changes: what is not captured comes at its turn."""
    plain, captured = (captures.train(cuda_graph, Processes(), change) for cuda_graph in (False, True))
    assert len(replays) == 4
    assert all(torch.equal(a, b) for a, b in zip(plain, captured, strict=True))


PROCESS = """
import sys
rank, meet, root = int(sys.argv[1]), *sys.argv[2:]
sys.path.insert(0, root)
import torch
import torch.distributed as dist
from seemore_fast.train.processes import Processes
from tests.support import captures

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
replays = captures.stand_in(setattr)
change = {"precision": "fp16", "grad_clip": 0.1, "ema_decay": 0.9}
plain, captured = (captures.train(graph, Processes(rank, 2), change) for graph in (False, True))
assert all(torch.equal(a, b) for a, b in zip(plain, captured, strict=True))
assert len(replays) == 4
alone = captures.train(False, Processes(rank), change)
assert not torch.equal(plain[-1], alone[-1]), "gradients are exchanged"
torch.save(captured[captures.STEPS :], f"{meet}-{rank}")
dist.destroy_process_group()
"""


def test_processes_give_the_same_bits(tmp_path: Path) -> None:
    """DistributedDataParallel within the captured step and without; both have the same weights."""
    meet = tmp_path / "meet"
    started = [
        subprocess.Popen(
            [*python(), "-c", PROCESS, str(rank), str(meet), str(ROOT)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        output, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, output
    first, second = (torch.load(f"{meet}-{rank}", weights_only=True) for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
