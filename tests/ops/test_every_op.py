"""What holds for all ops alike: sizes, layouts, NaN, registration with torch, gradients, backends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seemore_fast import _native, ops
from seemore_fast.errors import BackendError


def tensors(args):
    return {name: value for name, value in args.items() if isinstance(value, Tensor)}


def native(name, args):
    result = getattr(ops, name)(**args, backend="cpu")
    return result if isinstance(result, tuple) else (result,)


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
    assert native(op_name, make(op_name, (0, 4, 3, 3)))[0].shape == (0, 4, 3, 3)


def test_permuted_and_strided_inputs(op_name, isa, make):
    args = make(op_name, (2, 6, 13, 21))
    want = native(op_name, args)
    for name, value in tensors(args).items():
        permuted = value.movedim(0, -1).contiguous().movedim(-1, 0)
        strided = torch.stack([value, torch.full_like(value, torch.nan)], dim=-1)[..., 0]
        for layout in (permuted, strided):
            got = native(op_name, {**args, name: layout})
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name
            assert got[0].is_contiguous()


def test_nothing_outside_the_tensor_is_read_or_written(op_name, isa, make):
    """x (and out, which copies its layout in memory) are surrounded by values that would show."""
    args = make(op_name, (1, 3, 5, 19))
    want = native(op_name, args)
    for name, value in tensors(args).items():
        framed = torch.full((value.numel() + 128,), torch.nan)
        inside = framed[64 : 64 + value.numel()].view(value.shape).copy_(value)
        got = native(op_name, {**args, name: inside})
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name


def test_nan_and_infinity_propagate(op_name, isa, make, assert_close):
    for value in (torch.nan, torch.inf, -torch.inf):
        # PyTorch's GELU(-inf) is NaN (-inf * 0), ours the limit 0: infinities go without it.
        args = make(op_name, (1, 4, 12, 40), gelu=value != value)
        x = args["x"].clone()
        x[0, 1, 6, 37] = value
        got = native(op_name, {**args, "x": x})[0]
        want = getattr(ops, op_name)(**{**args, "x": x}, backend="reference")
        want = want[0] if isinstance(want, tuple) else want
        assert torch.equal(got.isfinite(), want.isfinite())
        assert torch.equal(got.isnan(), want.isnan())
        finite = want.isfinite()
        assert not finite.all()
        if finite.any():
            assert_close(got[finite], want[finite], 3e-6)


def test_opcheck(op_name, make):
    op = getattr(torch.ops.seemore_fast, op_name).default
    args = make(op_name, (2, 4, 5, 7))
    if op_name == "layer_norm2d":
        args["eps"] = 1e-6
    torch.library.opcheck(op, tuple(args.values()))
    permuted = {**args, "x": args["x"].transpose(2, 3).contiguous().transpose(2, 3)}
    torch.library.opcheck(op, tuple(permuted.values()))
    strided = {**args, "x": torch.randn(2, 4, 5, 14)[..., ::2]}
    torch.library.opcheck(op, tuple(strided.values()))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(op_name, dynamic, make):
    args = make(op_name, (2, 4, 8, 9))
    compiled = torch.compile(getattr(ops, op_name), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    got, want = compiled(**args), getattr(ops, op_name)(**args)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_gradients_come_from_the_formula(op_name, make):
    args = make(op_name, (2, 4, 5, 7))
    leaves = [value.requires_grad_() for value in tensors(args).values()]
    result = getattr(ops, op_name)(**args)
    out = result[0] if isinstance(result, tuple) else result
    direction = torch.randn_like(out)
    got = torch.autograd.grad(out, leaves, direction)

    double = {
        name: value.detach().double().requires_grad_() if isinstance(value, Tensor) else value
        for name, value in args.items()
    }
    result = getattr(ops, op_name)(**double)
    out = result[0] if isinstance(result, tuple) else result
    want = torch.autograd.grad(out, list(tensors(double).values()), direction.double())
    for name, a, b in zip(tensors(args), got, want, strict=True):
        assert (a - b).norm() <= 2e-4 * b.norm(), name


def test_the_raw_op_refuses_backward(op_name, make):
    args = make(op_name, (1, 4, 5, 7))
    args["x"].requires_grad_()
    if op_name == "layer_norm2d":
        args["eps"] = 1e-6
    result = getattr(torch.ops.seemore_fast, op_name)(*args.values())
    out = result[0] if isinstance(result, tuple) else result
    with pytest.raises(NotImplementedError, match=f"seemore_fast.ops.{op_name}"):
        out.sum().backward()


def test_default_backend_is_the_native_kernel(op_name, make):
    args = make(op_name, (1, 4, 5, 7))
    default = getattr(ops, op_name)(**args)
    default = default if isinstance(default, tuple) else (default,)
    assert all(torch.equal(a, b) for a, b in zip(default, native(op_name, args), strict=True))


def test_no_grad_allows_the_native_kernel(op_name, make):
    args = make(op_name, (1, 4, 5, 7))
    args["x"].requires_grad_()
    with pytest.raises(BackendError, match="no gradients"):
        native(op_name, args)
    with torch.no_grad():
        assert native(op_name, args)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_use_the_formula(op_name, dtype, make):
    args = {
        name: value.to(dtype) if isinstance(value, Tensor) else value
        for name, value in make(op_name, (1, 4, 5, 7)).items()
    }
    result = getattr(ops, op_name)(**args)
    assert (result[0] if isinstance(result, tuple) else result).dtype == dtype
    with pytest.raises(BackendError, match="float32"):
        native(op_name, args)


def test_unknown_backend(op_name, make):
    with pytest.raises(ValueError, match="backend must be"):
        getattr(ops, op_name)(**make(op_name, (1, 4, 5, 7)), backend="cuda9")


def test_missing_library_is_told(op_name, make, monkeypatch):
    monkeypatch.setattr(_native, "lib", None)
    monkeypatch.setattr(_native, "error", ImportError("no such file"))
    args = make(op_name, (1, 4, 5, 7))
    getattr(ops, op_name)(**args)  # the formula needs none
    with pytest.raises(BackendError, match="no such file"):
        native(op_name, args)


def test_each_tensor_is_checked(op_name, make):
    args = make(op_name, (2, 6, 5, 7))
    for name, value in tensors(args).items():
        call = getattr(ops, op_name)
        with pytest.raises(TypeError, match=rf"^{name} must be a tensor"):
            call(**{**args, name: value.tolist()})
        with pytest.raises(ValueError, match=rf"^{name} must"):
            call(**{**args, name: value[None]})
        if name == "x":
            with pytest.raises(TypeError, match=r"^x must have a floating dtype"):
                call(**{**args, name: value.int()})
            continue
        with pytest.raises(TypeError, match=rf"^{name} must have the dtype of x"):
            call(**{**args, name: value.double()})
        with pytest.raises(ValueError, match=rf"^{name} must be on the device of x"):
            call(**{**args, name: value.to("meta")})
        with pytest.raises(ValueError, match=rf"^{name} must have shape"):
            call(**{**args, name: torch.cat([value, value], dim=-1)})
