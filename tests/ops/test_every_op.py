"""What holds for all ops alike: sizes, layouts, NaN, registration with torch, gradients, backends."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from seemore_fast.backends import choice, native
from seemore_fast.errors import BackendError
from tests.support.operators import OPS, call, convert, make_args, outputs
from tests.support.repository import ROOT


def tensors(args):
    return {name: value for name, value in args.items() if isinstance(value, Tensor)}


def on_cpu(name, args):
    return outputs(name, args, backend="cpu")


SIZES = [(1, 1), (1, 67), (67, 1), (2, 33), (131, 17), (16, 16), (130, 259), (5, 1025)]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(op_name, size, isa, check_op):
    check_op(op_name, (2, 6, *size))


def test_every_tail(op_name, isa, check_op):
    for width in range(1, 34):
        check_op(op_name, (1, 3, 2, width))


@pytest.mark.parametrize("channels", [1, 7, 36, 48])
def test_channels(op_name, channels, isa, check_op):
    check_op(op_name, (1, channels, 9, 19))


def test_empty_batch(op_name, make):
    assert on_cpu(op_name, make(op_name, (0, 4, 3, 3)))[0].shape == (0, 4, 3, 3)


def test_permuted_and_strided_inputs(op_name, isa, make):
    args = make(op_name, (2, 6, 13, 21))
    want = on_cpu(op_name, args)
    for name, value in tensors(args).items():
        permuted = value.movedim(0, -1).contiguous().movedim(-1, 0)
        strided = torch.stack([value, torch.full_like(value, torch.nan)], dim=-1)[..., 0]
        for layout in (permuted, strided):
            got = on_cpu(op_name, {**args, name: layout})
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name
            assert got[0].is_contiguous()


def test_nothing_outside_the_tensor_is_read_or_written(op_name, isa, make):
    """x (and out, which copies its layout in memory) are surrounded by values that would show."""
    args = make(op_name, (1, 3, 5, 19))
    want = on_cpu(op_name, args)
    for name, value in tensors(args).items():
        framed = torch.full((value.numel() + 128,), torch.nan)
        inside = framed[64 : 64 + value.numel()].view(value.shape).copy_(value)
        got = on_cpu(op_name, {**args, name: inside})
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name


def gradients_hash() -> str:
    """Of the bits of all operators' outputs and gradients, on two images that end within a vector."""
    digest = hashlib.sha256()
    for name in OPS:
        torch.manual_seed(3)
        args = convert(make_args(name, (2, 6, 17, 21)), Tensor.requires_grad_)
        out, *saved = on_cpu(name, args)
        found = torch.autograd.grad(out.square().sum(), list(tensors(args).values()))
        for value in (out, *saved, *found):
            digest.update(value.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc fills fresh memory on wish")
def test_scratch_memory_is_not_read_before_it_is_written():
    """The same bits in a process that gets its memory full of 3e38."""
    code = "import runpy; print(runpy.run_path('tests/ops/test_every_op.py')['gradients_hash']())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MALLOC_PERTURB_": "128"},  # fills with what is left of 255
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == gradients_hash(), found.stderr


def test_nan_and_infinity_propagate(op_name, isa, make, assert_close):
    # PyTorch's GELU(-inf) is NaN (-inf * 0), ours the limit 0: infinities go without it.
    without_gelu = op_name in ("layer_norm2d", "low_rank_experts", "mix_experts", "striped_conv2d")
    for value in (torch.nan, torch.inf, -torch.inf) if without_gelu else (torch.nan,):
        args = make(op_name, (1, 4, 12, 40), gelu=value != value)
        x = args["x"].clone()
        x[0, 1, 6, 37] = value
        got = on_cpu(op_name, {**args, "x": x})[0]
        want = outputs(op_name, {**args, "x": x}, backend="reference")[0]
        assert torch.equal(got.isfinite(), want.isfinite())
        assert torch.equal(got.isnan(), want.isnan())
        finite = want.isfinite()
        assert not finite.all()
        if finite.any():
            assert_close(got[finite], want[finite], 3e-6)


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(op_name, grad, make):
    op = getattr(torch.ops.seemore_fast, op_name).default
    args = make(op_name, (2, 4, 5, 7))
    layouts = [
        args["x"],
        args["x"].transpose(2, 3).contiguous().transpose(2, 3),
        torch.randn(2, 4, 5, 14)[..., ::2],
    ]
    for x in layouts[: 1 if grad else 3]:
        inputs = {k: v.detach().requires_grad_(grad) if isinstance(v, Tensor) else v for k, v in args.items()}
        inputs["x"] = x.detach().requires_grad_(grad)
        torch.library.opcheck(op, (*inputs.values(), "cpu"))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(op_name, dynamic, make):
    """Forward and backward."""
    torch._dynamo.reset()
    args = make(op_name, (2, 4, 8, 9))
    args["x"].requires_grad_()

    def step(args):
        return outputs(op_name, args)[0]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    got, want = compiled(args), step(args)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    direction = torch.randn_like(want)
    slopes = [torch.autograd.grad(out, args["x"], direction)[0] for out in (got, want)]
    torch.testing.assert_close(*slopes, rtol=0, atol=0)


def gradients(name, args, direction, **options):
    """Of all tensors."""
    leaves = {k: v.detach().requires_grad_() for k, v in tensors(args).items()}
    out = outputs(name, {**args, **leaves}, **options)[0]
    found = torch.autograd.grad(out, list(leaves.values()), direction, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def double(args):
    return {k: v.double() if isinstance(v, Tensor) else v for k, v in args.items()}


@pytest.mark.parametrize("size", [(5, 7), (17, 33), (1, 40), (20, 1)])
def test_gradients_against_float64(op_name, size, isa, make):
    args = make(op_name, (3, 6, *size))
    direction = torch.randn(3, 6, *size)
    want = gradients(op_name, double(args), direction.double(), backend="reference")
    torch.set_num_threads(1)
    got = gradients(op_name, args, direction, backend="cpu")
    for name in want:
        assert (got[name] - want[name]).norm() <= 1e-5 * want[name].norm().clamp_min(1e-3), name
    torch.set_num_threads(2)
    again = gradients(op_name, args, direction, backend="cpu")
    assert all(torch.equal(got[name], again[name]) for name in got)


def test_gradients_of_what_needs_them_only(op_name, make):
    args = make(op_name, (2, 6, 17, 18))
    direction = torch.randn(2, 6, 17, 18)
    every = gradients(op_name, args, direction, backend="cpu")
    for name, value in tensors(args).items():
        leaf = value.detach().requires_grad_()
        out = outputs(op_name, {**args, name: leaf}, backend="cpu")[0]
        torch.testing.assert_close(torch.autograd.grad(out, leaf, direction)[0], every[name], rtol=0, atol=0)


def test_second_derivatives(op_name, make, assert_close):
    """A gradient penalty, by x and the first weight."""

    def penalty(args, **options):
        names = list(tensors(args))[:2]
        leaves = [args[name].detach().requires_grad_() for name in names]
        out = outputs(op_name, {**args, **dict(zip(names, leaves, strict=True))}, **options)[0]
        (slope,) = torch.autograd.grad(out.square().sum(), leaves[0], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), leaves)

    args = make(op_name, (2, 4, 6, 7), k=3)
    for a, b in zip(penalty(args), penalty(double(args), backend="reference"), strict=True):
        assert_close(a, b, 2e-5)


def test_third_derivatives(op_name, make, assert_close):
    """By x, whose part in the second is itself computed from x."""

    def third(args, **options):
        x = args["x"].detach().requires_grad_()
        value = outputs(op_name, {**args, "x": x}, **options)[0].square().mean()
        for _ in range(2):
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            value = slope.square().sum()
        return torch.autograd.grad(value, x)[0]

    args = make(op_name, (2, 4, 6, 7), k=3)
    assert_close(third(args), third(double(args), backend="reference"), 1e-4)


def test_second_derivatives_of_one_tensor_as_two_inputs(make, assert_close):
    def penalty(args, x):
        (slope,) = torch.autograd.grad(
            outputs("low_rank_experts", {**args, "x": x, "k": x})[0].square().sum(), x, create_graph=True
        )
        return torch.autograd.grad(slope.square().sum(), x, create_graph=True)[0]

    args = make("low_rank_experts", (1, 4, 3, 5))
    found = penalty(args, args["x"].requires_grad_())
    args = double(args)
    assert_close(found, penalty(args, args["x"].detach().requires_grad_()), 1e-5)


def test_autocast_takes_any_dtypes(op_name, make):
    """As PyTorch's layers do; the native kernels compute in float32, gradients have their tensors' dtypes."""
    args = make(op_name, (2, 4, 5, 7))
    names = list(tensors(args))
    for halves in (names, names[:1], names[1:]):
        given = {name: args[name].to(torch.bfloat16 if name in halves else torch.float32) for name in names}
        leaves = {name: value.requires_grad_() for name, value in given.items()}
        with torch.autocast("cpu", torch.bfloat16):
            out = on_cpu(op_name, {**args, **leaves})[0]
        want = on_cpu(op_name, {**args, **{name: leaf.detach().float() for name, leaf in leaves.items()}})[0]
        assert torch.equal(out, want)
        found = torch.autograd.grad(out.sum(), list(leaves.values()))
        assert [slope.dtype for slope in found] == [leaf.dtype for leaf in leaves.values()]


def test_gradcheck_of_the_formula(op_name, make):
    args = double(make(op_name, (1, 2, 4, 5), k=3, ranks=(1, 2), topk=1))
    names = list(tensors(args))
    leaves = [args[name].detach().requires_grad_() for name in names]

    def formula(*values):
        return outputs(op_name, {**args, **dict(zip(names, values, strict=True))}, backend="reference")[0]

    assert torch.autograd.gradcheck(formula, leaves)


def test_torch_func_takes_the_formula(op_name, make, assert_close):
    args = make(op_name, (2, 4, 5, 6))

    def total(x):
        return outputs(op_name, {**args, "x": x})[0].square().sum()

    want = torch.autograd.grad(total(args["x"].requires_grad_()), args["x"])[0]
    assert_close(torch.func.grad(total)(args["x"].detach()), want, 1e-5)
    with pytest.raises(BackendError, match=r"torch\.func"):
        torch.func.grad(lambda x: outputs(op_name, {**args, "x": x}, backend="cpu")[0].sum())(args["x"])


def test_default_backend_is_the_native_kernel(op_name, make):
    args = make(op_name, (1, 4, 5, 7))
    default = outputs(op_name, args)
    assert all(torch.equal(a, b) for a, b in zip(default, on_cpu(op_name, args), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_use_the_formula(op_name, dtype, make):
    args = {
        name: value.to(dtype) if isinstance(value, Tensor) else value
        for name, value in make(op_name, (1, 4, 5, 7)).items()
    }
    assert outputs(op_name, args)[0].dtype == dtype
    with pytest.raises(BackendError, match="float32"):
        on_cpu(op_name, args)


def test_unknown_backend(op_name, make):
    with pytest.raises(
        BackendError, match="unknown backend 'cuda9'; there are auto, reference, cpu, cuda, triton"
    ):
        call(op_name, make(op_name, (1, 4, 5, 7)), backend="cuda9")


def test_the_default_and_the_environment_hold_for_operators(op_name, make, monkeypatch):
    """None and auto take what they name, a call's own choice goes before."""
    args = make(op_name, (1, 4, 5, 7))
    formula, native_result = (outputs(op_name, args, backend=b)[0] for b in ("reference", "cpu"))
    assert not torch.equal(formula, native_result)
    monkeypatch.setattr(choice, "_default", None)
    monkeypatch.setenv("SEEMORE_BACKEND", "reference")
    for backend, want in ((None, formula), ("auto", formula), ("cpu", native_result)):
        assert torch.equal(outputs(op_name, args, backend=backend)[0], want)
    choice.set_default("cpu")
    assert torch.equal(outputs(op_name, args)[0], native_result)
    with pytest.raises(BackendError, match="'cpu' cannot do this: its kernels take float32, not float64"):
        outputs(op_name, double(args))
    choice.set_default("auto")
    assert torch.equal(outputs(op_name, args)[0], native_result), (
        "a default of auto hides the environment, too"
    )
    monkeypatch.setattr(choice, "_default", None)
    monkeypatch.setenv("SEEMORE_BACKEND", "cuda9")
    with pytest.raises(BackendError, match="unknown backend 'cuda9'"):
        outputs(op_name, args)


def test_missing_library_is_told(op_name, make, monkeypatch):
    monkeypatch.setattr(native, "lib", None)
    monkeypatch.setattr(native, "error", ImportError("no such file"))
    args = make(op_name, (1, 4, 5, 7))
    call(op_name, args)  # the formula needs none
    with pytest.raises(BackendError, match="no such file"):
        on_cpu(op_name, args)


def test_each_tensor_is_checked(op_name, make):
    args = make(op_name, (2, 6, 5, 7))
    for name, value in tensors(args).items():
        with pytest.raises(TypeError, match=rf"^{name} must be a tensor"):
            call(op_name, {**args, name: value.tolist()})
        with pytest.raises(ValueError, match=rf"^{name} must"):
            call(op_name, {**args, name: value[None]})
        if name == "x":
            with pytest.raises(TypeError, match=r"^x must have a floating dtype"):
                call(op_name, {**args, name: value.int()})
            continue
        with pytest.raises(TypeError, match=rf"^{name} must have the dtype of x"):
            call(op_name, {**args, name: value.double()})
        with pytest.raises(ValueError, match=rf"^{name} must be on the device of x"):
            call(op_name, {**args, name: value.to("meta")})
        with pytest.raises(ValueError, match=rf"^{name} must have shape"):
            call(op_name, {**args, name: torch.cat([value, value], dim=-1)})
