"""The network's differentiable op on the CPU, beyond what test_fused.py asks of training."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from seemore_fast import SeemoRe, load
from seemore_fast.backends import native
from seemore_fast.engines import cpu_training, one_op
from seemore_fast.network import reference, variants
from tests.support import golden, rounded
from tests.support.isas import HAS_BF16

needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")

ENDS = [(1, 1, 1), (3, 2, 2), (2, 3, 1)]
"""Of colours, scale and layers."""


def network(variant: str = "t-x2", **changes) -> SeemoRe:
    small = {"num_layers": 1, "embedding_dim": 12}
    return golden.fill(SeemoRe(**{**variants.config(variant), **small, **changes}), seed=5)


def oracle(model: SeemoRe) -> reference.SeemoRe:
    exact = reference.SeemoRe(**model.config).double()
    exact.load_state_dict(model.state_dict())
    return exact


def gradients(model: torch.nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad((model(x) * cotangent.to(x.dtype)).sum(), [x, *wanted.values()])
    return dict(zip(["x", *wanted], found, strict=True))


@pytest.mark.parametrize("name", ["t-x2", "t-x4"])
def test_twice_pytorchs_error_at_most(name: str, isas: list[str]) -> None:
    """Of gradients, and of results with and without them, against float64, on every instruction set.

    The ratio for one tensor and draw is luck: the geometric mean counts, of a kind's in all layers and draws.
    """
    ours = load(name, backend="cpu")
    plain = reference.SeemoRe(**ours.config)
    plain.load_state_dict(ours.state_dict())

    def results(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
        leaf = x.to(dtype, copy=True).requires_grad_()
        training = model(leaf).detach()
        return {"inference": training, "training": training, **gradients(model, leaf, cotangent)}

    logarithms = defaultdict(list)
    for _ in range(6):
        x, side = torch.rand(1, 3, 32, 32), 32 * ours.config["scale"]
        cotangent = torch.randn(1, 3, side, side)
        exact, theirs = results(oracle(ours), torch.float64), results(plain, torch.float32)
        for isa in isas:
            native.require().set_isa(isa)
            found = results(ours, torch.float32)
            with torch.no_grad():
                found["inference"] = ours(x)
            for key, value in exact.items():
                # A kind's name is a weight's without the numbers of layers and experts.
                of_ours, of_theirs = (max(golden.relative_l2(of[key], value), 1e-9) for of in (found, theirs))
                logarithms[isa, re.sub(r"\d+\.", "", key)].append(math.log(of_ours / of_theirs))
    ratios = {key: math.exp(statistics.mean(found)) for key, found in logarithms.items()}
    assert max(ratios.values()) <= 2, ratios
    for isa in isas:
        assert ratios[isa, "training"] <= 1.25  # 1.5 and more where nine taps' products are one sum


@pytest.mark.parametrize(("colours", "scale", "layers"), ENDS)
@pytest.mark.parametrize("variant", ["t-x2", "b-x2"])
def test_any_ends(isa, variant: str, colours: int, scale: int, layers: int) -> None:
    model = network(variant, in_chans=colours, scale=scale, num_layers=layers, img_range=2.0)
    x, cotangent = torch.rand(2, colours, 17, 19), torch.randn(2, colours, 17 * scale, 19 * scale)
    got = gradients(model, x.requires_grad_(), cotangent)
    want = gradients(oracle(model), x.detach().double().requires_grad_(), cotangent.double())
    for name, exact in want.items():
        assert golden.relative_l2(got[name], exact) <= 2e-5 or exact.norm() < 1e-10 > got[name].norm(), name


def test_no_layers() -> None:
    model = network(num_layers=0)
    x, cotangent = torch.rand(1, 3, 16, 16), torch.randn(1, 3, 32, 32)
    got = gradients(model, x.requires_grad_(), cotangent)
    want = gradients(oracle(model), x.detach().double().requires_grad_(), cotangent)
    assert all(golden.relative_l2(got[name], exact) <= 1e-5 for name, exact in want.items())


def test_threads_and_places_in_the_batch_do_not_matter() -> None:
    """More images than gradients are kept apart for; their outputs and input gradients are each one's own."""
    model, cotangent = network(), torch.randn(19, 3, 32, 34)
    x = torch.rand(19, 3, 16, 17).requires_grad_()
    found = []
    for threads in (1, 2, 8):
        torch.set_num_threads(threads)
        found.append(gradients(model, x, cotangent))
    assert all(
        torch.equal(a, b) for f in found[1:] for a, b in zip(found[0].values(), f.values(), strict=True)
    )
    alone = gradients(model, x.detach()[7:8].requires_grad_(), cotangent[7:8])
    assert torch.equal(alone["x"], found[0]["x"][7:8])
    want = gradients(oracle(model), x.detach().double().requires_grad_(), cotangent)
    assert all(golden.relative_l2(found[0][name], exact) <= 2e-5 for name, exact in want.items())


@pytest.mark.parametrize("learns", ["body.1", "body.2.global_block.ffn", "conv_2", "conv_1"])
def test_what_lies_before_the_first_gradient_is_left_out(learns: str) -> None:
    model, x, cotangent = network(num_layers=3), torch.rand(2, 3, 16, 16), torch.randn(2, 3, 32, 32)
    want = gradients(model, x.requires_grad_(), cotangent)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(learns))
    (model(x.detach()) * cotangent).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith(learns):
            assert torch.equal(parameter.grad, want[name]), name
        else:
            assert parameter.grad is None


@pytest.mark.parametrize("with_x", [False, True])
def test_a_mean_that_learns(with_x: bool) -> None:
    model = network()
    exact = oracle(model)
    x, cotangent = torch.rand(2, 3, 16, 17), torch.randn(2, 3, 32, 34)
    found = []
    for net, dtype in ((model, torch.float32), (exact, torch.float64)):
        net.mean.requires_grad_()
        given = x.to(dtype, copy=True).requires_grad_(with_x)
        (net(given) * cotangent.to(dtype)).sum().backward()
        found.append([net.mean.grad, net.conv_1.weight.grad, *([given.grad] if with_x else [])])
    assert all(golden.relative_l2(a, b) <= 1e-5 for a, b in zip(*found, strict=True))


def test_gradients_of_gradients() -> None:
    model, x = network(), torch.rand(1, 3, 16, 16)

    def penalty(of: torch.nn.Module, x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(of(x).square().sum(), x, create_graph=True)
        return slope.square().sum()

    parameters = list(model.parameters())
    got = torch.autograd.grad(penalty(model, x.requires_grad_()), parameters, allow_unused=True)
    exact = oracle(model)
    wide = x.detach().double().requires_grad_()
    want = torch.autograd.grad(penalty(exact, wide), list(exact.parameters()), allow_unused=True)
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert golden.relative_l2(a, b) <= 2e-4 or b.norm() < 1e-10


@pytest.mark.parametrize("channels", [12, 13])
def test_no_part_of_what_is_kept_is_left_undefined(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose rows and channels are padded: compiled and eager runs are compared in all of it."""
    model = network(embedding_dim=channels)
    weights = one_op.weights_of(model, one_op.tree_of(model._text))
    x, found = torch.rand(2, 3, 16, 17), []
    for value in (1.0, torch.nan):
        monkeypatch.setattr(
            torch.Tensor, "new_empty", lambda of, size, value=value: torch.full(size, value, dtype=of.dtype)
        )
        found.append(torch.ops.seemore_fast.train.default(x, weights, model._text, False))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("bf16", [False, True])
def test_opcheck(bf16: bool) -> None:
    """Schema, fakes and autograd are what torch.library asks for."""
    model = network()
    text = json.dumps(model.config)
    weights = one_op.weights_of(model, one_op.tree_of(text))
    x = torch.rand(2, 3, 16, 17).requires_grad_()
    torch.library.opcheck(torch.ops.seemore_fast.train.default, (x, weights, text, bf16))


def test_no_images() -> None:
    model = network()
    weights = one_op.weights_of(model, one_op.tree_of(model._text))
    out = cpu_training.forward(torch.rand(0, 3, 16, 16), weights, model._text)
    assert out.shape == (0, 3, 32, 32)
    out.sum().backward()
    assert all(not p.grad.any() for p in model.parameters())


def test_tensors_of_another_network_are_refused() -> None:
    """Nothing is read or written."""
    model = network()
    weights = one_op.weights_of(model, one_op.tree_of(model._text))
    with pytest.raises(ValueError, match=r"inputs must be the image and \d+ weights"):
        cpu_training.forward(torch.rand(1, 3, 16, 16), weights[:-1], model._text)
    with pytest.raises(ValueError, match=r"h and w must be at least 4\^recursive"):
        cpu_training.forward(torch.rand(1, 3, 16, 15), weights, model._text)


ODD = {"embedding_dim": 7, "topk": 2}
"""Channels that make no pairs, and two experts; of L's kind, for T and B shuffle."""


def under_autocast(model: SeemoRe, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """The result and all gradients."""
    given = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(given)
    assert out.dtype == torch.float32
    wanted = dict(model.named_parameters())
    found = torch.autograd.grad((out * cotangent).sum(), [given, *wanted.values()])
    return dict(zip(["out", "x", *wanted], (out.detach(), *found), strict=True))


@pytest.mark.parametrize(("variant", "changes"), [("t-x2", {}), ("l-x2", ODD)], ids=["even", "odd"])
@pytest.mark.parametrize(("h", "w"), [(16, 16), (19, 17), (9, 33)])
def test_autocast_rounds_operands_where_the_isa_multiplies_bfloat16(
    isa, variant: str, changes: dict, h: int, w: int
) -> None:
    """Errors are what rounding them costs; elsewhere it changes nothing."""
    model = network(variant, **{"recursive": 1} | changes)
    x, cotangent = torch.rand(2, 3, h, w), torch.randn(2, 3, 2 * h, 2 * w)
    low = under_autocast(model, x, cotangent)
    plain = {"out": model(x).detach(), **gradients(model, x.clone().requires_grad_(), cotangent)}
    if not isa.endswith("bf16"):
        assert all(torch.equal(low[name], value) for name, value in plain.items())
        return
    exact = oracle(model)
    want = {"out": exact(x.double()).detach(), **gradients(exact, x.double().requires_grad_(), cotangent)}
    limits = dict(zip(want, rounded.limits(exact, x, cotangent), strict=True))
    for name, limit in limits.items():
        assert golden.relative_l2(low[name], want[name]) <= limit, name
        assert golden.relative_l2(plain[name], want[name]) <= 2e-5 or limit == 0, name
    assert golden.relative_l2(low["x"], want["x"]) > limits["x"] / 3  # they are rounded


def test_autocast_trains_the_bundled_weights() -> None:
    """On any machine: all gradients together err at most 1.5 times as much as rounding operands costs."""
    model = load("t-x2").train()
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(32, 32), mode="bicubic").clamp(0, 1)
    cotangent = torch.randn(1, 3, 64, 64)
    low = under_autocast(model, x, cotangent)
    assert all(value.isfinite().all() for value in low.values())
    del low["out"]
    exact = oracle(model)
    want, may = (rounded.gradients(net, x, cotangent) for net in (exact, rounded.of(exact)))
    got, want, may = (torch.cat([t.double().flatten() for t in found]) for found in (low.values(), want, may))
    limit = golden.relative_l2(may, want)
    assert limit <= 5e-3
    assert golden.relative_l2(got, want) <= 1.5 * limit


@needs_bf16
def test_threads_do_not_matter_in_bfloat16() -> None:
    model, x, cotangent = network(), torch.rand(5, 3, 16, 17), torch.randn(5, 3, 32, 34)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(under_autocast(model, x, cotangent))
    assert all(torch.equal(found[0][name], f[name]) for f in found[1:] for name in f)


@needs_bf16
def test_nan_and_infinity_in_bfloat16_spoil_their_image_alone() -> None:
    model, x, cotangent = network(), torch.rand(3, 3, 16, 17), torch.randn(3, 3, 32, 34)
    want = under_autocast(model, x, cotangent)
    for bad in (torch.nan, torch.inf):
        spoilt = x.clone()
        spoilt[1, 0, 3, 4] = bad
        got = under_autocast(model, spoilt, cotangent)
        assert all(torch.equal(got[name][::2], want[name][::2]) for name in ("out", "x"))
        assert all(got[name].isnan().any() for name in ("out", "body.0.local_block.block.conv_1.0.weight"))
