"""Cases for tests/native/case_driver.cc: networks, training, operators, with what they give in float64."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seemore_fast.engines import cpu_training
from seemore_fast.network import fold, reference
from seemore_fast.network.accuracy import relative_l2
from seemore_fast.network.parameters import flatten
from seemore_fast.ops._register import OPERATORS
from tests.support import golden, rounded
from tests.support.operators import Case, normal

LIMIT = 1e-5
GRADIENT_LIMIT = 2e-4
"""Largest relative L2 errors, as tests/engines and tests/ops have them."""


def network(path: Path, config: Mapping[str, Any], shape: tuple[int, int, int], seed: int = 11) -> Path:
    """A network of random weights on random images: shape (N, H, W)."""
    n, h, w = shape
    torch.manual_seed(seed)
    x = torch.rand(n, config.get("in_chans", 3), h, w)
    return _network(path, golden.fill(reference.SeemoRe(**config), seed), x)


def golden_network(path: Path, name: str) -> Path:
    """A golden file's network on a corner of its picture, for emulators are slow.

    With the error that bf16 may have, twice that of PyTorch's own.
    """
    case = golden.load(name)
    model = case.fill(reference.SeemoRe(**case.config))
    x = golden.crop(case.x)
    want = golden.run(copy.deepcopy(model).double(), x.double())
    with torch.autocast("cpu", torch.bfloat16):
        error = relative_l2(golden.run(model, x), want)
    return _network(path, model, x, want, bf16_limit=[2 * float(error)])


def _network(path: Path, model: nn.Module, x: Tensor, want: Tensor | None = None, **more: Any) -> Path:
    model = model.eval()
    folded = fold.fold_network(model)
    names = ("scale", "in_chans", "num_experts", "num_layers", "dim", "kernel", "recursive", "topk")
    if want is None:
        with torch.no_grad():
            want = model.double()(x.double())
    arrays = {
        "network": [*(folded[name] for name in names), folded["img_range"]],
        "shape": [x.shape[0], *x.shape[2:]],
        "input": x,
        "want": want,
        "limit": [LIMIT],
        "ranks": folded["ranks"],
        "ends": _flat(folded["ends"]),
        **{f"groups[{i}]": _flat(group) for i, group in enumerate(folded["groups"])},
        **more,
    }
    return _write(path, arrays)


def operator(path: Path, case: Case, shape: tuple[int, int, int, int]) -> Path:
    """An operator, its result and all gradients."""
    torch.manual_seed(3)
    op = OPERATORS[case.name]
    tensors, options = op.split(case.inputs(shape, torch.float32, torch.float32, normal))
    exact = [t.double().requires_grad_() for t in tensors]
    out, *_ = op.formula(*exact, *options.values())
    grad = torch.randn(out.shape)
    gradients = torch.autograd.grad(out, exact, grad.double())
    sizes = op.sizes(tensors)
    numbers = [sizes.get("k", 1), sizes.get("R", 1), options.get("topk", 1), options.get("recursive", 0)]
    flags = [options.get("gelu", 0), options.get("shuffle", 0), options.get("eps", 1e-6)]
    arrays = {
        f"op:{op.name}": [],
        "shape": shape,
        "options": [*numbers, *flags],
        "ranks": options.get("ranks", []),
        "saved": [s.numel() for s in op.empty_saved(tensors)],
        "grad": grad,
        "want": out,
        "limit": [LIMIT],
        "grad_limit": [GRADIENT_LIMIT],
    }
    for i, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        arrays |= {f"input[{i}]": tensor, f"want_grad[{i}]": gradient}
    return _write(path, arrays)


def training(path: Path, config: Mapping[str, Any], shape: tuple[int, int, int], seed: int = 11) -> Path:
    """The network's operator, its result and all gradients, on random images: shape (N, H, W)."""
    n, h, w = shape
    torch.manual_seed(seed)
    model = golden.fill(reference.SeemoRe(**config), seed)
    exact = copy.deepcopy(model).double()
    x = torch.rand(n, exact.config["in_chans"], h, w)
    want = golden.run(exact, x.double())
    grad = torch.randn(want.shape)
    parameters = list(model.parameters())
    gradients = rounded.gradients(exact, x, grad)
    out_limit, *limits = rounded.limits(model, x, grad)
    given = exact.config
    sizes = [given[name] for name in ("global_kernel_size", "topk", "recursive", "use_shuffle")]
    ends = [given[name] for name in ("num_layers", "in_chans", "scale", "img_range")]
    c, ranks = given["embedding_dim"], reference.expert_ranks(given["num_experts"], given["lr_space"])
    arrays = {
        "train": [*sizes, reference.LN_EPS, *ends],
        "shape": [n, c, h, w],
        "ranks": ranks,
        "mean": model.mean,
        "saved": [kept.numel() for kept in cpu_training._outputs(x, json.dumps(given))[1:]],
        "grad": grad,
        "want": want,
        "limit": [LIMIT],
        "grad_limit": [GRADIENT_LIMIT],
        "bf16_limit": [out_limit],
        "bf16_grad_limit": limits,
    }
    for i, (tensor, gradient) in enumerate(zip((x, *parameters), gradients, strict=True)):
        arrays |= {f"input[{i}]": tensor, f"want_grad[{i}]": gradient}
    return _write(path, arrays)


def _flat(part: tuple[Any, ...]) -> Tensor:
    """A part's weights one after the other, in their order (csrc/weights.h)."""
    return torch.cat([tensor.flatten() for tensor in flatten(part)])


def _write(path: Path, arrays: Mapping[str, Any]) -> Path:
    with path.open("wb") as file:
        for name, values in arrays.items():
            flat = np.asarray(
                values.detach() if isinstance(values, Tensor) else values, dtype=np.float32
            ).ravel()
            file.write(struct.pack("<I", len(name)) + name.encode() + struct.pack("<I", flat.size))
            file.write(flat.tobytes())
    return path
