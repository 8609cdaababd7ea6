"""In float32 operators' results and gradients err at most twice as much as PyTorch's, against float64."""

import pytest
import torch
from torch import Tensor

from seemore_fast.backends import native
from seemore_fast.network.accuracy import relative_l2
from tests.support.operators import convert, make_args, outputs

# Large enough for sums over the image to show, and small ones with other widths.
SHAPES = [(1, 36, 64, 64), (3, 12, 17, 33)]

DRAWS = 6
"""All in one vector: a single one is a matter of luck, most of all the router's gradient, a few numbers."""

ROUNDING = 2.0**-25
"""Of float32 values, which the error of both may be below."""


def results(name, args, direction, backend):
    """The result, and the gradients of all tensors, by name."""
    leaves = {
        key: value.detach().requires_grad_() for key, value in args.items() if isinstance(value, Tensor)
    }
    out = outputs(name, {**args, **leaves}, backend=backend)[0]
    slopes = torch.autograd.grad(out, list(leaves.values()), direction, materialize_grads=True)
    return {"the result": out.detach(), **dict(zip(leaves, slopes, strict=True))}


@pytest.mark.parametrize("shape", SHAPES)
def test_twice_pytorchs_error_at_most(op_name, shape, isas):
    """On every instruction set that works here."""
    found: dict[str, list[dict[str, Tensor]]] = {who: [] for who in ("exact", "PyTorch", *isas)}
    for _ in range(DRAWS):
        args, direction = make_args(op_name, shape), torch.randn(shape)
        wide = convert(args, Tensor.double), direction.double()
        found["exact"].append(results(op_name, *wide, "reference"))
        found["PyTorch"].append(results(op_name, args, direction, "reference"))
        for isa in isas:
            native.require().set_isa(isa)
            found[isa].append(results(op_name, args, direction, "cpu"))

    def error(who: str, key: str) -> float:
        got, want = (torch.cat([draw[key].flatten() for draw in found[w]]) for w in (who, "exact"))
        return relative_l2(got, want)

    for key in found["exact"][0]:
        allowed = 2 * max(error("PyTorch", key), ROUNDING)
        for isa in isas:
            assert error(isa, key) <= allowed, f"{key} on {isa}: {2 * error(isa, key) / allowed:.2f} times"
