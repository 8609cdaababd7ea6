"""A captured step, by a stand-in for CUDA graphs: replays on the memory of one call."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from seemore_fast import SeemoRe
from seemore_fast.errors import SeemoreError
from seemore_fast.options.schema import Training
from seemore_fast.train import capture
from seemore_fast.train.network import Trainee
from seemore_fast.train.processes import Processes
from seemore_fast.train.sampling import Batch

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 8, "recursive": 1, "topk": 1}


class _Stream:
    def wait_stream(self, other: _Stream) -> None:
        pass


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tensors of the CPU count as a GPU's; a list with an entry for each replay."""
    counted: list[int] = []

    def graph(step, inputs, stream):
        output = step(*inputs)  # real ones leave no results yet

        def replay() -> None:
            counted.append(len(counted))
            output.copy_(step(*inputs))

        return replay, output

    monkeypatch.setattr(capture, "_on_gpu", lambda inputs: True)
    monkeypatch.setattr(capture, "_capture", graph)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    return counted


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


@pytest.mark.parametrize("change", [{}, {"precision": "bf16", "grad_clip": 0.1, "ema_decay": 0.9}], ids=str)
def test_training_gives_the_same_bits(replays, change):
    """In two parts, with a rate that changes: what is not captured comes at its turn."""
    fields = {
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "MultiStepLR", "milestones": [3, 13], "gamma": 0.5},
        "total_iter": 20,
        "pixel_opt": {"type": "L1Loss"},
        "fft_opt": {"type": "FFTLoss", "loss_weight": 0.1},
    }
    start = SeemoRe(**SMALL).state_dict()
    steps = capture.WARM_UP + 4
    batches = [
        Batch(torch.randint(0, 256, (4, 3, 8, 8)).byte(), torch.randint(0, 256, (4, 3, 16, 16)).byte())
        for _ in range(steps)
    ]
    found = []
    for cuda_graph in (False, True):
        options = TypeAdapter(Training).validate_python({**fields, **change, "cuda_graph": cuda_graph})
        model = SeemoRe(**SMALL)
        model.load_state_dict(start)
        trainee = Trainee(model, options, torch.device("cpu"), Processes(), parts=2)
        terms = [trainee.step(i + 1, batch) for i, batch in enumerate(batches)]
        found.append([*terms, *(t for weights in trainee.weights().values() for t in weights.values())])
    assert len(replays) == 4
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
