"""In float32 operators' results and gradients err at most twice as much as PyTorch's, against float64."""

import pytest
import torch
from torch import Tensor

from tests.support.operators import convert, make_args, outputs

# Large enough for sums over the image to show, and small ones with other widths.
SHAPES = [(1, 36, 64, 64), (3, 12, 17, 33)]


def results(name, args, direction, backend):
    """The result, and the gradients of all tensors, by name."""
    leaves = {
        key: value.detach().requires_grad_() for key, value in args.items() if isinstance(value, Tensor)
    }
    out = outputs(name, {**args, **leaves}, backend=backend)[0]
    slopes = torch.autograd.grad(out, list(leaves.values()), direction, materialize_grads=True)
    return {"the result": out.detach(), **dict(zip(leaves, slopes, strict=True))}


@pytest.mark.parametrize("shape", SHAPES)
def test_twice_pytorchs_error_at_most(op_name, shape):
    own, theirs = {}, {}  # sums of squared relative errors over the draws: one alone is a matter of luck
    for _ in range(4):
        args, direction = make_args(op_name, shape), torch.randn(shape)
        want = results(op_name, convert(args, Tensor.double), direction.double(), "reference")
        for backend, errors in (("cpu", own), ("reference", theirs)):
            for key, value in results(op_name, args, direction, backend).items():
                error = (value - want[key]).norm() / want[key].norm().clamp_min(1e-30)
                errors[key] = errors.get(key, 0) + error.square().item()
    rounding = 4 * (2.0**-25) ** 2  # of the draws' float32 values
    for key in own:
        assert own[key] <= 4 * (theirs[key] + rounding), f"{key}: {(own[key] / theirs[key]) ** 0.5:.2f} times"
