"""The relative error that everything is judged by."""

from __future__ import annotations

import math

import pytest
import torch

from seemore_fast.network.accuracy import relative_l2


def test_it_is_the_share_of_the_norm_that_is_wrong() -> None:
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_l2(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)
    assert relative_l2(exact.half(), exact) == 0
    assert relative_l2(torch.zeros(2), torch.zeros(2)) == 0


@pytest.mark.parametrize(
    ("found", "exact"),
    [
        ([1.0, math.nan], [1.0, 2.0]),
        ([1.0, math.inf], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, math.nan]),
        ([math.inf, 1.0], [math.inf, 1.0]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_what_passes_no_gate(found: list[float], exact: list[float]) -> None:
    assert relative_l2(torch.tensor(found), torch.tensor(exact)) == math.inf


def test_zeros_are_right_only_as_zeros() -> None:
    assert relative_l2(torch.tensor([1e-30]), torch.zeros(1)) > 1e200
