"""The loss: a sum of weighted terms, each by its group's name in the option file."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seemore_fast.options.schema import FFTLoss, PixelLoss, Training

_CHARBONNIER_EPS = 1e-12


def charbonnier(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """sqrt((x - target)^2 + 1e-12), a smooth L1; shapes as `torch.nn.functional.l1_loss`."""
    value = torch.sqrt((x - target).square() + _CHARBONNIER_EPS)
    return value.mean() if reduction == "mean" else value.sum()


def fft_l1(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """L1 between real and imaginary parts of the spectra (rfft2, not normalised) of (N, C, H, W) pictures."""
    # The transform is linear: one of the difference does for two.
    spectrum = torch.view_as_real(torch.fft.rfft2(x - target)).abs()
    return spectrum.mean() if reduction == "mean" else spectrum.sum()


_FORMULAS: dict[str, Callable[..., Tensor]] = {
    "L1Loss": F.l1_loss,
    "MSELoss": F.mse_loss,
    "CharbonnierLoss": charbonnier,
    "FFTLoss": fft_l1,
}


class Criterion:
    """The terms of ``train: pixel_opt`` and ``fft_opt`` that are given, called ``l_pix`` and ``l_fft``.

    ``criterion(out, gt)`` takes (N, C, H, W) pictures in [0, 1] and returns the terms, weighted, in float32;
    the loss is their sum.
    """

    def __init__(self, training: Training):
        self._terms: dict[str, PixelLoss | FFTLoss] = {}
        if training.pixel_opt is not None:
            self._terms["l_pix"] = training.pixel_opt
        if training.fft_opt is not None:
            self._terms["l_fft"] = training.fft_opt

    @property
    def names(self) -> list[str]:
        """The terms' names, in the order of their values."""
        return list(self._terms)

    def __call__(self, out: Tensor, gt: Tensor) -> Tensor:
        """[number of terms]"""
        wide = out.float()
        return torch.stack(
            [
                loss.loss_weight * _FORMULAS[loss.type](wide, gt, reduction=loss.reduction)
                for loss in self._terms.values()
            ]
        )
