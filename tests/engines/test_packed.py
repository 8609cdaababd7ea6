"""Packed weights follow the model's, however these are changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from seemore_fast import SeemoRe
from seemore_fast.engines import packed
from seemore_fast.engines.packed import PackedWeights

pytestmark = pytest.mark.usefixtures("which")


@pytest.fixture(params=["by address", "in Python"])
def which(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to see a change, the fast one and the one for any torch."""
    if request.param == "in Python":
        monkeypatch.setattr(packed, "_functions", lambda: None)
    elif packed._functions() is None or packed.native.lib is None:
        pytest.skip("this torch does not name the functions, or there is no native library")
    return request.param


@pytest.fixture
def model() -> SeemoRe:
    return SeemoRe(scale=2, num_layers=1, embedding_dim=8)


class Made:
    """How often weights were packed."""

    def __init__(self, model: nn.Module):
        self.weights, self.model, self.count = PackedWeights(), model, 0

    def __call__(self, key: str = "") -> int:
        def make() -> int:
            self.count += 1
            return self.count

        return self.weights.get(key, self.model, make)


def step(model: SeemoRe) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model.conv_1.weight.grad = torch.ones_like(model.conv_1.weight)
    optimiser.step()


def replace(model: SeemoRe) -> None:
    model.body[0].local_block.block.proj.bias = nn.Parameter(torch.zeros(8))


def swap(model: SeemoRe) -> None:
    torch.utils.swap_tensors(model.norm.weight, nn.Parameter(torch.zeros(8)))


CHANGES: dict[str, Callable[[SeemoRe], object]] = {
    "in place": lambda model: nn.init.zeros_(model.upsampler[0].bias),
    "load_state_dict": lambda model: model.load_state_dict(model.state_dict()),
    "assigned": lambda model: model.load_state_dict(
        {name: value.clone() for name, value in model.state_dict().items()}, assign=True
    ),
    "optimiser": step,
    "a parameter replaced": replace,
    "a module replaced": lambda model: setattr(model, "conv_2", nn.Conv2d(8, 8, 3, padding=1)),
    "storage replaced": lambda model: setattr(model.norm.weight, "data", torch.zeros(8)),
    "dtype": lambda model: model.bfloat16(),
    "swapped": swap,
    "a parameter gone": lambda model: setattr(model.norm, "bias", None),
    "a buffer added": lambda model: model.register_buffer("more", torch.zeros(1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen_once(model, name):
    made = Made(model)
    assert [made(), made()] == [1, 1]
    CHANGES[name](model)
    assert [made(), made()] == [2, 2]


def test_what_reads_changes_nothing(model):
    made = Made(model)
    made()
    model(torch.rand(1, 3, 16, 16)).sum().backward()
    model.eval()
    model.state_dict()
    [parameter.detach() for parameter in model.parameters()]
    assert made() == 1


def test_every_form_is_stale_after_a_change(model):
    made = Made(model)
    assert [made("a"), made("b"), made("a")] == [1, 2, 1]
    nn.init.zeros_(model.conv_1.bias)
    assert [made("b"), made("a"), made("b")] == [3, 4, 3]


def test_where_packing_is_refused_the_next_call_tries_again(model):
    made = Made(model)
    made()
    nn.init.zeros_(model.conv_1.bias)

    def refuse() -> None:
        raise ValueError("not now")

    for _ in range(2):
        with pytest.raises(ValueError, match="not now"):
            made.weights.get("", model, refuse)
    assert made() == 2


def test_inference_tensors(model):
    with torch.inference_mode():
        inferred = SeemoRe(scale=2, num_layers=1, embedding_dim=8)
    made = Made(inferred)
    assert [made(), made()] == [1, 1]
    with torch.inference_mode():
        inferred.conv_1.weight.mul_(2)
    assert made() == 2
