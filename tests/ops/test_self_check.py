"""The check of an operator's kernels before they are trusted, on stand-ins for them with planted faults."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from seemore_fast.ops import _register, _self_check
from seemore_fast.ops._operator import Operator

SIZES = {"N": 2, "C": 8, "H": 40, "W": 50, "R": 6, "E": 2, "k": 5}

OPTIONS: dict[str, Any] = {
    "gelu": True,
    "ranks": [2, 4],
    "topk": 1,
    "shuffle": True,
    "recursive": 1,
    "eps": 1e-6,
}

Fault = Callable[[Tensor], Tensor]


class Kernels:
    """The formula, but for a fault in the result or in the last gradient."""

    def __init__(self, result: Fault = Tensor.clone, gradient: Fault = Tensor.clone):
        self.result, self.gradient, self.runs = result, gradient, 0

    def forward(self, op: Operator, inputs: Sequence[Any]) -> list[Tensor]:
        self.runs += 1
        out, *saved = op.formula(*inputs)
        return [self.result(out), *saved]

    def backward(
        self,
        op: Operator,
        grad: Tensor,
        saved: Sequence[Tensor],
        inputs: Sequence[Any],
        needs: Sequence[bool],
    ) -> list[Tensor]:
        tensors, options = op.split(inputs)
        _, found = op.differentiate(grad, tensors, list(options.values()), needs)
        return [*found[:-1], self.gradient(found[-1])]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_self_check, "verdicts", {})
    monkeypatch.delenv("SEEMORE_SELF_CHECK", raising=False)
    monkeypatch.setattr(_self_check.choice, "INTERPRETED", False)


def why(kernels: Kernels, name: str = "gated_ffn", dtype: torch.dtype = torch.float32) -> str | None:
    op = _register.OPERATORS[name]
    missing = set(op.options) - set(OPTIONS)
    assert not missing, f"give the test a value of {missing}"
    options = [OPTIONS[option] for option in op.options]
    return _self_check.obstacle(kernels, op, SIZES, options, ("cpu", dtype))


@pytest.mark.parametrize("name", sorted(_register.OPERATORS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_kernels_are_trusted_once_for_all(name, dtype):
    kernels = Kernels()
    assert why(kernels, name, dtype) is None
    runs = kernels.runs
    assert runs <= 3
    assert why(kernels, name, dtype) is None
    assert kernels.runs == runs


FAULTS: dict[str, Fault] = {
    "a wrong border": lambda t: torch.cat([t[..., :1] * 1.1, t[..., 1:]], -1),
    "NaN": lambda t: t.clone().index_fill_(0, torch.tensor(0), torch.nan),
    "nothing written": torch.zeros_like,
}


@pytest.mark.parametrize("where", ["result", "gradient"])
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_kernels_are_not_used(where, fault, caplog):
    kernels = Kernels(**{where: FAULTS[fault]})
    with caplog.at_level(logging.WARNING):
        found = why(kernels)
        assert found is not None
        assert "the kernels' self-check failed: relative error" in found
        assert why(Kernels()) == found, "the verdict holds for the process"
    assert caplog.text.count("Please report this") == 1
    assert why(Kernels(), "layer_norm2d") is None, "of this operator alone"


def test_kernels_that_do_not_start():
    def fail(t: Tensor) -> Tensor:
        raise RuntimeError("Triton Error [CUDA]: invalid argument\nand a trace")

    found = "the kernels' self-check failed: RuntimeError: Triton Error [CUDA]: invalid argument"
    assert why(Kernels(result=fail)) == found
    assert why(Kernels(gradient=fail), "layer_norm2d") == found


def test_a_refusal_of_memory_is_no_verdict():
    def refuse(t: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert why(Kernels(result=refuse)) is None
    assert "self-check failed" in str(why(Kernels(result=torch.zeros_like)))


def test_it_can_be_left_out(monkeypatch):
    monkeypatch.setenv("SEEMORE_SELF_CHECK", "0")
    assert why(kernels := Kernels(result=torch.zeros_like)) is None
    assert kernels.runs == 0
