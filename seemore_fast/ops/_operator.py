"""What an operator is: its tensors, options and formula, from which all else about it is derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from seemore_fast.network.parameters import Leaf, leaves


@dataclass(frozen=True)
class Operator:
    """``name(images, weights, options)``, whose result has the shape and dtype of the first image.

    * ``images``: names of tensors (N, C, H, W); ``weights``: a part of `seemore_fast.network.parameters`;
    * ``options``: torch's type of each, by name;
    * ``formula(*images, *weights, *options)``: (out, *saved) in plain PyTorch;
    * ``saved``: what the backward needs beside the inputs, with its shape: as the notes of weights, and of N,
      H and W.  What is no image has the router's dtype.
    """

    name: str
    images: tuple[str, ...]
    weights: Any
    options: Mapping[str, str]
    formula: Callable[..., tuple[Tensor, ...]]
    saved: Mapping[str, str] = field(default_factory=dict)
    leaves: tuple[Leaf, ...] = field(init=False)
    kept: tuple[tuple[str, ...], ...] = field(init=False)
    found: Mapping[str, tuple[int, int]] = field(init=False)
    """Which of `leaves`, and which of its dimensions, says what a letter of the shapes stands for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "leaves", leaves(self.weights))
        dims = [
            (symbol, (i, dim))
            for i, leaf in enumerate(self.leaves)
            for dim, (factor, symbol) in enumerate(leaf.dims)
            if symbol not in ("", "C") and factor == 1
        ]
        object.__setattr__(self, "found", dict(reversed(dims)))
        object.__setattr__(self, "kept", tuple(tuple(shape.split()) for shape in self.saved.values()))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all input tensors."""
        return *self.images, *(leaf.name for leaf in self.leaves)

    @property
    def arguments(self) -> str:
        """Inputs, as torch's schemas have them."""
        tensors = [f"Tensor {name}" for name in self.tensors]
        return ", ".join([*tensors, *(f"{kind} {name}" for name, kind in self.options.items())])

    def split(self, inputs: Sequence[Any]) -> tuple[list[Tensor], dict[str, Any]]:
        """Tensors, and options by name."""
        count = len(self.images) + len(self.leaves)
        return list(inputs[:count]), dict(zip(self.options, inputs[count:], strict=True))

    def sizes(self, tensors: Sequence[Tensor]) -> dict[str, int]:
        """What the shapes' letters stand for."""
        n, c, h, w = tensors[0].shape
        first = len(self.images)
        return {
            **{"N": n, "C": c, "H": h, "W": w},
            **{symbol: tensors[first + i].shape[dim] for symbol, (i, dim) in self.found.items()},
        }

    def empty_saved(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Memory for `saved`."""
        if not self.kept:
            return []
        x, sizes = tensors[0], self.sizes(tensors)
        shapes = [[sizes[symbol] for symbol in shape] for shape in self.kept]
        return [x.new_empty(s, dtype=x.dtype if len(s) == 4 else routing_dtype(x)) for s in shapes]

    def differentiate(
        self, grad: Tensor, tensors: Sequence[Tensor], options: Sequence[Any], needs: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor]]:
        """The result, and the gradients asked for, of the formula by PyTorch; zeros where it has none."""
        own = [t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
        return _differentiate(lambda *own: self.formula(*own, *options)[0], grad, own, needs)


def _differentiate(
    formula: Callable[..., Tensor],
    grad: Tensor,
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
    twice: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """``twice``: the gradients are to be differentiated again."""
    with torch.enable_grad():
        out = formula(*tensors)
        wanted = [t for t, needed in zip(tensors, needs, strict=True) if needed]
        gradients = torch.autograd.grad(
            out, wanted, grad, create_graph=twice, allow_unused=True, materialize_grads=True
        )
    return out, list(gradients)


def differentiate_twice(
    formula: Callable[..., Tensor],
    grad: Tensor,
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """From gradients of the gradients that ``needs`` names, those of ``grad`` and the tensors.

    By the formula: slow, but the same for every backend.
    """
    further = torch.is_grad_enabled()  # third derivatives are wanted: the graph must reach the inputs
    with torch.enable_grad():
        # Views, so that a tensor that stands for two inputs is told apart.
        own = [
            t.view_as(t) if further and t.requires_grad else t.detach().requires_grad_()
            for t in (grad, *tensors)
        ]
        _, first = _differentiate(formula, own[0], own[1:], needs, twice=True)
        pairs = [(f, g) for f, g in zip(first, grads, strict=True) if f.requires_grad and g is not None]
        return torch.autograd.grad(
            [f for f, _ in pairs], own, [g for _, g in pairs], create_graph=further, allow_unused=True
        )


def routing_dtype(x: Tensor) -> torch.dtype:
    """A top-1 probability is about 0.4: in low precision a near tie would flip."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class Kernels(Protocol):
    """What computes operators: forward returns (out, *saved), backward the gradients that are needed."""

    def forward(self, op: Operator, inputs: Sequence[Any], /) -> Sequence[Tensor]: ...

    def backward(
        self,
        op: Operator,
        grad: Tensor,
        saved: Sequence[Tensor],
        inputs: Sequence[Any],
        needs: Sequence[bool],
        /,
    ) -> list[Tensor]: ...
