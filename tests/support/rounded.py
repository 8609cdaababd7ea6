"""What a training with operands in bfloat16 may err by: its layers' products in float64, of rounded operands.

Those that training on the CPU rounds (docs/training.md), and nothing else.  Native errors come out the same
within a few per cent for one layer; further on roundings are others, for some values lie between two.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seemore_fast.network.accuracy import relative_l2

_LAYERS = re.compile(r"body\.\d+\..*(block\.(conv_1\.[02]|to_qv\.0|proj)|ffn\.fn_[12]\.0)$")


def of(network: nn.Module) -> nn.Module:
    """A copy in float64 whose products, forward and backward, are of rounded operands."""
    twin = copy.deepcopy(network).double()
    for name, module in twin.named_modules():
        if _LAYERS.match(name):
            module.forward = _Rounded(module)  # type: ignore[method-assign]
    return twin


def gradients(network: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    """Of sum(network(x) * cotangent) in float64: x's, then the parameters'."""
    x = x.double().requires_grad_()
    loss = (network(x) * cotangent.double()).sum()
    return torch.autograd.grad(loss, [x, *network.parameters()])


def limits(network: nn.Module, x: Tensor, cotangent: Tensor) -> list[float]:
    """1.5 times the relative errors that rounding makes, and float32's; 0 where there is no gradient.

    Of the result, then as `gradients` has them.
    """
    exact, low = copy.deepcopy(network).double(), of(network)
    with torch.no_grad():
        results = [net(x.double()) for net in (low, exact)]
    pairs = zip(*(gradients(net, x, cotangent) for net in (low, exact)), strict=True)
    return [1.5 * float(relative_l2(a, b)) + 1e-5 if b.norm() > 0 else 0.0 for a, b in (results, *pairs)]


def _round(x: Tensor) -> Tensor:
    return x.bfloat16().double()


class _Rounded:
    def __init__(self, conv: Any):
        self._conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        out = _Product.apply(x, self._conv.weight, self._conv.padding)
        return out + self._conv.bias[:, None, None]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        x, weight = _round(x), _round(weight)
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad = _round(grad)
        of_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, padding=ctx.padding)
        return of_x, torch.nn.grad.conv2d_weight(x, weight.shape, grad, padding=ctx.padding), None
