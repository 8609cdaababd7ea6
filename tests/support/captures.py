"""A stand-in for CUDA graphs of training steps: replays on the memory of one call, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from pydantic import TypeAdapter

from seemore_fast import SeemoRe
from seemore_fast.options.schema import Training
from seemore_fast.train import capture, network
from seemore_fast.train.network import Trainee
from seemore_fast.train.processes import Processes
from seemore_fast.train.sampling import Batch

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 8, "recursive": 1, "topk": 1}

STEPS = capture.WARM_UP + 4


class _Stream:
    def wait_stream(self, other: _Stream) -> None:
        pass


def stand_in(setattr: Callable[[Any, str, Any], None]) -> list[int]:
    """Tensors of the CPU count as a GPU's; a list with an entry for each replay.

    fp16 has bf16's arithmetic, for the CPU's own takes minutes, and its scaler.
    """
    counted: list[int] = []

    def graph(step, inputs, stream):
        output = step(*inputs)  # real ones leave no results yet

        def replay() -> None:
            counted.append(len(counted))
            output.copy_(step(*inputs))

        return replay, output

    def autocast(device_type: str, precision: str) -> torch.autocast:
        return torch.autocast(device_type, torch.bfloat16, enabled=precision != "fp32")

    for owner, name, value in (
        (network, "autocast", autocast),
        (capture, "_on_gpu", lambda inputs: True),
        (capture, "_capture", graph),
        (torch.cuda, "Stream", _Stream),
        (torch.cuda, "stream", lambda stream: nullcontext()),
        (torch.cuda, "current_stream", _Stream),
    ):
        setattr(owner, name, value)
    return counted


def train(cuda_graph: bool, processes: Processes, change: dict[str, Any]) -> list[torch.Tensor]:
    """STEPS steps in two parts, with a rate that changes, on batches by ``processes.rank``.

    The losses' terms, then all weights.
    """
    fields = {
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "MultiStepLR", "milestones": [3, 13], "gamma": 0.5},
        "total_iter": 20,
        "pixel_opt": {"type": "L1Loss"},
        "fft_opt": {"type": "FFTLoss", "loss_weight": 0.1},
    }
    options = TypeAdapter(Training).validate_python({**fields, **change, "cuda_graph": cuda_graph})
    torch.manual_seed(0)
    model = SeemoRe(**SMALL)
    torch.manual_seed(1 + processes.rank)
    batches = [
        Batch(torch.randint(0, 256, (4, 3, 8, 8)).byte(), torch.randint(0, 256, (4, 3, 16, 16)).byte())
        for _ in range(STEPS)
    ]
    trainee = Trainee(model, options, torch.device("cpu"), processes, parts=2)
    terms = [trainee.step(i + 1, batch) for i, batch in enumerate(batches)]
    return [*terms, *(t for weights in trainee.weights().values() for t in weights.values())]
