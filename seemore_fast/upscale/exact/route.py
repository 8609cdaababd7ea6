"""The router's decision for a whole image, from the sums of its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seemore_fast.network import reference


class Routing(NamedTuple):
    """The experts of one image, most probable first, and their weights."""

    experts: list[int]
    weights: list[float]


@dataclass
class Pooled:
    """What the tiles of one image have told so far."""

    sums: Tensor  # [C], float64: of the router's features
    aggregated: Tensor  # a map of the whole image; what maps look like is the stages' own affair


@dataclass(frozen=True)
class Whole:
    """What a group must know of the whole image."""

    routing: Routing
    map: Tensor  # what is added to k, at low resolution


def pooled(channels: int, aggregated: Tensor) -> Pooled:
    return Pooled(torch.zeros(channels, dtype=torch.float64), aggregated)


def route(layer: reference.MoRE, sums: Tensor, pixels: int) -> Routing:
    """The top-k experts for an image of ``pixels`` whose features add up to ``sums`` [C] (float64).

    In float64, for probabilities are nearly equal at times; of equal ones the first.
    """
    linear: Any = layer.gate.body["2"]
    weight = linear.weight.detach().to("cpu", torch.float64)
    probabilities, experts = (weight @ (sums / pixels)).softmax(0).sort(descending=True, stable=True)
    return Routing(experts[: layer.topk].tolist(), probabilities[: layer.topk].tolist())
