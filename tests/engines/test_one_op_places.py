"""Where torch.compile meets one operator for inference, and where PyTorch's or those that have gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from seemore_fast.backends import choice, native
from seemore_fast.errors import BackendError
from tests.support import golden
from tests.support.compiled import OP, Compiled, pixels, small

pytestmark = pytest.mark.skipif(choice.missing("cpu") is not None, reason=f"no CPU engine: {native.error}")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


class Larger(nn.Module):
    """A network with ours inside."""

    def __init__(self, trained: bool):
        super().__init__()
        self.before, self.ours, self.after = nn.Conv2d(3, 3, 3, padding=1), small(), nn.Conv2d(3, 2, 1)
        self.ours.requires_grad_(trained)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.before(x).sigmoid()
        return self.after(self.ours(x)).clamp(0, 1)


@pytest.mark.parametrize("trained", [False, True])
def test_inside_a_larger_model_that_is_trained(trained):
    """Frozen, ours is one operator; where it learns, too, it is the one that has gradients."""
    torch.manual_seed(3)
    model = Larger(trained)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = pixels(2, 3, 12, 15)
    got, want = compiled(x), model(x)
    torch.testing.assert_close(got, want)
    learn = [p for p in model.parameters() if p.requires_grad][2:]  # nothing reaches `before`
    slopes = [torch.autograd.grad(out.square().sum(), learn) for out in (got, want)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)
    counted = Compiled(model)
    counted(x)
    assert (OP in counted.called()) == (not trained)
    assert (torch.ops.seemore_fast.train.default in counted.called()) == trained


def test_with_gradients_of_the_input():
    model = small().requires_grad_(False)
    compiled = Compiled(model)
    x = pixels(1, 3, 17, 19).requires_grad_()
    (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
    (want,) = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(got, want)
    assert OP not in compiled.called()
    with torch.no_grad():
        compiled(x)
    assert compiled.called() == [OP]


def test_float64_stays_with_pytorch():
    model, compiled = small().double(), Compiled(small().double())
    x = pixels(1, 3, 17, 19, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    assert OP not in compiled.called()


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.full)])
def test_export_keeps_standard_operators(strict):
    model, x = small(), pixels(2, 3, 40, 50)
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=strict)
        assert golden.relative_l2(program.module()(x), model(x)) <= 1e-5
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert targets
    assert not [target for target in targets if "seemore" in target]


def test_tracing_keeps_standard_operators():
    model, x = small(), pixels(1, 3, 16, 16)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = str(torch.jit.trace(model, x, check_trace=False).inlined_graph)
    assert "convolution" in graph
    assert "seemore_fast::" not in graph


def test_a_network_beyond_the_engines_limits_is_compiled_as_before():
    model, compiled = small(recursive=0), Compiled(small(recursive=0))
    x = pixels(1, 3, 12, 13)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        assert OP not in compiled.called()
        model.backend = "cpu"
        with pytest.raises(BackendError, match="recursive must lie in"):
            torch.compile(model, backend="eager")(x)
