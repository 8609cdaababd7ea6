"""Losses, learning rates and the moving average against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional as F

from seemore_fast.options.schema import Training
from seemore_fast.train.losses import Criterion, charbonnier, fft_l1
from seemore_fast.train.schedule import learning_rate


def training(**changes) -> Training:
    fields = {
        "optim_g": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "MultiStepLR", "milestones": [3, 5, 5], "gamma": 0.5},
        "total_iter": 10,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 2.0},
    }
    return TypeAdapter(Training).validate_python({**fields, **changes})


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_fft_loss_is_l1_of_both_parts_of_both_spectra(reduction: str) -> None:
    a, b = torch.rand(2, 2, 3, 8, 10, dtype=torch.float64)
    parts = [torch.stack([torch.fft.rfft2(x).real, torch.fft.rfft2(x).imag], -1) for x in (a, b)]
    torch.testing.assert_close(fft_l1(a, b, reduction), F.l1_loss(*parts, reduction=reduction))


def test_charbonnier_is_a_smooth_l1() -> None:
    a, b = torch.rand(2, 2, 3, 8, 10, dtype=torch.float64)
    torch.testing.assert_close(charbonnier(a, b), ((a - b) ** 2 + 1e-12).sqrt().mean())
    torch.testing.assert_close(charbonnier(a, b, "sum"), ((a - b) ** 2 + 1e-12).sqrt().sum())


@pytest.mark.parametrize(("kind", "formula"), [("L1Loss", F.l1_loss), ("MSELoss", F.mse_loss)])
def test_criterion_weighs_its_terms(kind: str, formula) -> None:
    a, b = torch.rand(2, 2, 3, 8, 8)
    group = {"type": kind, "loss_weight": 3.0, "reduction": "sum"}
    criterion = Criterion(training(pixel_opt=group, fft_opt={"type": "FFTLoss", "loss_weight": 0.25}))
    assert criterion.names == ["l_pix", "l_fft"]
    expected = torch.stack([3 * formula(a, b, reduction="sum"), fft_l1(a, b) / 4])
    torch.testing.assert_close(criterion(a, b), expected)
    low = criterion(a.bfloat16(), b)
    assert low.dtype == torch.float32


def test_multistep_halves_after_each_milestone() -> None:
    asked = training()
    rates = [learning_rate(asked, i) for i in range(1, 8)]
    assert rates == [1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 1.25e-4, 1.25e-4]


def test_warm_up_rises_linearly() -> None:
    asked = training(warmup_iter=4)
    assert [learning_rate(asked, i) for i in (1, 2, 3)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4])
    assert learning_rate(asked, 4) == 5e-4  # the schedule has counted on meanwhile


def test_cosine_restarts() -> None:
    group = {
        "type": "CosineAnnealingRestartLR",
        "periods": [4, 8],
        "restart_weights": [1, 0.5],
        "eta_min": 1e-5,
    }
    asked = training(scheduler=group)

    def cosine(done: int, period: int, weight: float) -> float:
        return 1e-5 + weight * (1e-3 - 1e-5) * (1 + math.cos(math.pi * done / period)) / 2

    assert learning_rate(asked, 1) == 1e-3
    assert learning_rate(asked, 3) == pytest.approx(cosine(2, 4, 1))
    assert learning_rate(asked, 5) == pytest.approx(1e-5)
    assert learning_rate(asked, 6) == pytest.approx(cosine(1, 8, 0.5))
    assert learning_rate(asked, 13) == pytest.approx(1e-5)
    assert learning_rate(asked, 99) == pytest.approx(1e-5)


def test_cosine_without_restarts_is_pytorchs() -> None:
    group = {"type": "CosineAnnealingRestartLR", "periods": [50], "eta_min": 1e-6}
    asked = training(scheduler=group)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, 1e-6)
    for iteration in range(1, 51):
        assert learning_rate(asked, iteration) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
