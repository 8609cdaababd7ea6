"""The router's decision for a whole image, from the sums of its tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seemore_fast.network import reference


class Routing(NamedTuple):
    """The experts of one image, most probable first, and their weights."""

    experts: list[int]
    weights: list[float]


def route(layer: reference.MoRE, sums: Tensor, pixels: int) -> Routing:
    """The top-k experts for an image of ``pixels`` whose features add up to ``sums`` [C] (float64).

    In float64, for probabilities are nearly equal at times; of equal ones the first.
    """
    linear: Any = layer.gate.body["2"]
    weight = linear.weight.detach().to("cpu", torch.float64)
    probabilities, experts = (weight @ (sums / pixels)).softmax(0).sort(descending=True, stable=True)
    return Routing(experts[: layer.topk].tolist(), probabilities[: layer.topk].tolist())
