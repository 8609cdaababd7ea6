"""The native CPU engine through the public class: right numbers everywhere, the same bits always.

What surrounds it (caching, threads, memory, signals, bf16) is in test_cpu_engine_use.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from seemore_fast import SeemoRe
from seemore_fast.backends import native
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.network import fold, reference
from tests.support import golden
from tests.support.isas import ISAS

LIMIT = 1e-5
"""Largest relative L2 error against float64."""

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 12, "lr_space": "exp", "topk": 1}

pytestmark = pytest.mark.usefixtures("isas")


def pair(**config) -> tuple[SeemoRe, reference.SeemoRe]:
    """The class under test on the CPU engine, and the float64 oracle with the same weights."""
    config = {**SMALL, **config}
    ours = golden.fill(SeemoRe(**config, backend="cpu"), seed=11).eval()
    return ours, golden.fill(reference.SeemoRe(**config), seed=11).double().eval()


def run(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def hold_to_reference(x: Tensor, **config) -> None:
    """The engine's output on every instruction set against the float64 reference."""
    ours, oracle = pair(**config)
    want = run(oracle, x.double())
    for isa in ISAS:
        native.require().set_isa(isa)
        error = golden.relative_l2(run(ours, x), want)
        assert error <= LIMIT, f"{isa}: relative L2 error {error:.3g}"


@pytest.mark.parametrize("dim", [8, 48])
def test_no_more_than_pytorchs_error_by_much(dim):
    """With features as small as an untrained network's: GELU's error is seen as a share of them."""
    torch.manual_seed(2)
    config = {**SMALL, "num_layers": 6, "embedding_dim": dim, "scale": 4}
    ours, plain = SeemoRe(**config, backend="cpu").eval(), reference.SeemoRe(**config).eval()
    plain.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 48, 64)
    theirs, exact = run(plain, x), run(plain.double(), x.double())
    for isa in ISAS:
        native.require().set_isa(isa)
        ratio = golden.relative_l2(run(ours, x), exact) / golden.relative_l2(theirs, exact)
        assert ratio <= 1.5, f"{isa}: {ratio:.2f} times"


def test_weights_that_do_not_fit_are_refused():
    network = float32_arrays(fold.fold_network(reference.SeemoRe(**SMALL)))
    (group,) = network["groups"]
    with pytest.raises(ValueError, match=r"groups\[0\] must have \d+ arrays, got 2"):
        native.require().Engine({**network, "groups": [group[:2]]}, False)
    with pytest.raises(ValueError, match=r"groups\[0\]\[1\] must have 12 elements, got 11"):
        native.require().Engine({**network, "groups": [[group[0], group[1][1:], *group[2:]]]}, False)
    with pytest.raises(ValueError, match="groups must have num_layers entries"):
        native.require().Engine({**network, "groups": []}, False)


@pytest.mark.parametrize("name", golden.EVALUATION)
def test_golden(isa, name):
    """Alone, and as one of a batch whose other image is routed on its own."""
    case = golden.load(name)
    ours = case.fill(SeemoRe(**case.config, backend="cpu"))
    x = case.x.float()
    other = x.flip(3) * torch.tensor([1.0, 0.2, 0.0])[:, None, None]
    alone, other_alone = run(ours, x), run(ours, other)
    assert golden.relative_l2(alone, case.expected["output"]) <= LIMIT
    assert torch.equal(run(ours, torch.cat([other, x])), torch.cat([other_alone, alone]))
    oracle = case.fill(reference.SeemoRe(**case.config)).double()
    assert golden.relative_l2(other_alone, run(oracle, other.double())) <= LIMIT


@pytest.mark.parametrize(
    "config",
    [
        *({"topk": k, "lr_space": space} for k in (2, 3) for space in ("linear", "double", "exp")),
        {"num_experts": 1},
        {"num_experts": 6, "topk": 4, "lr_space": "linear"},
        *({"global_kernel_size": k} for k in (1, 3, 5, 31, 41)),
        *({"embedding_dim": c, "use_shuffle": True} for c in (4, 36, 48, 50, 64, 96)),
        *(
            {"embedding_dim": c} for c in (1, 3, 7, 13)
        ),  # not 2: where they are nearly equal, float32 is not enough
        {"recursive": 1, "num_layers": 2, "use_shuffle": True},
        *({"scale": s} for s in (1, 3, 4)),
        *({"in_chans": c} for c in (1, 4)),
        {"num_layers": 0},
        {"num_layers": 3},
        {"img_range": 255.0},
        {"mean": (0.1, 0.5, 0.9)},
    ],
    ids=str,
)
def test_configurations(config):
    hold_to_reference(torch.rand(1, config.get("in_chans", 3), 19, 37), **config)


@pytest.mark.parametrize("recursive", [1, 2, 3])
def test_the_least_size_of_each_depth(recursive):
    side = 4**recursive
    hold_to_reference(torch.rand(1, 3, side, side), recursive=recursive)
    hold_to_reference(torch.rand(1, 3, side + 1, side + 3), recursive=recursive)


@pytest.mark.parametrize(
    "size",
    [
        *[(131, 17), (17, 131), (16, 16), (64, 64), (18, 30)],
        *((17, w) for w in (31, 32, 33, 47, 48, 49, 63, 65, 79, 81)),  # tails of 1, 15, 16, 17 columns
        *((h, 17) for h in range(18, 24)),  # every phase of pairs and fours of rows
        *((16, w) for w in (319, 320, 321, 333, 352, 353, 640, 641, 672, 1000, 1300)),  # one to five strips
    ],
    ids=str,
)
def test_sizes(size):
    hold_to_reference(torch.rand(1, 3, *size))


@pytest.mark.parametrize("config", [{"global_kernel_size": 151}, {"recursive": 1}, {"in_chans": 1}], ids=str)
@pytest.mark.parametrize("size", [(17, 97), (33, 200)], ids=str)
def test_narrow_strips(config, size):
    """Strips down to the least width, much narrower than the widest stripe's halo."""
    ours, oracle = pair(**config)
    x = torch.rand(1, config.get("in_chans", 3), *size)
    want = run(oracle, x.double())
    for isa in ISAS:
        native.require().set_isa(isa)
        ours.workspace_limit = least_workspace(ours, x)
        error = golden.relative_l2(run(ours, x), want)
        assert error <= LIMIT, f"{isa}: relative L2 error {error:.3g}"


def least_workspace(model: SeemoRe, x: Tensor) -> int:
    """The figure in the message that refuses a limit of one byte."""
    limit, model.workspace_limit = model.workspace_limit, 1
    with pytest.raises(
        MemoryError, match=r"workspace_limit of 1 bytes is too small .* at least \d+$"
    ) as caught:
        run(model, x)
    model.workspace_limit = limit
    return int(str(caught.value).split()[-1])


def test_strips_do_not_show():
    """The engine's own choice, halves of it and the narrowest strips give the same bits."""
    ours, _ = pair(num_layers=2, embedding_dim=36)
    x = torch.rand(1, 3, 20, 701)
    for isa in ISAS:
        native.require().set_isa(isa)
        ours.workspace_limit = 0
        wide, least = run(ours, x), least_workspace(ours, x)
        for limit in (2 * least, least * 3 // 2, least):
            ours.workspace_limit = limit
            assert torch.equal(run(ours, x), wide), f"{isa}: {limit} bytes"


def test_a_chosen_isa_from_the_environment():
    """SEEMORE_ISA alone, as a user sets it."""
    code = (
        "import torch; from seemore_fast import SeemoRe; from seemore_fast.backends.native import lib\n"
        "torch.manual_seed(3); x = torch.rand(1, 3, 17, 35)\n"
        "m = SeemoRe(num_experts=2, num_layers=1, embedding_dim=12, backend='cpu').eval()\n"
        "with torch.no_grad(): got = m(x); m.backend = 'reference'; want = m(x)\n"
        "assert (got - want).abs().max() < 1e-5\n"
        "print(lib.isa())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SEEMORE_ISA": ISAS[0]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ISAS[0]


# ---- Bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (37, 53), (17, 401)], ids=str)
def test_the_same_bits_for_any_number_of_threads(isa, size):
    ours, _ = pair(embedding_dim=20, num_layers=2, topk=2)
    x = torch.rand(2, 3, *size)
    torch.set_num_threads(1)
    want = run(ours, x)
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(run(ours, x), want), f"{threads} threads"


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_same_bits_in_any_batch(isa, n):
    """Small images have a thread each, and what is left over has them all; larger ones are cut into bands."""
    ours, _ = pair(embedding_dim=20, num_layers=2, topk=2)
    for size in ((33, 40), (65, 260)):
        x = torch.rand(n, 3, *size) * torch.linspace(0.2, 1, n)[:, None, None, None]
        torch.set_num_threads(1)
        want = torch.cat([run(ours, image[None]) for image in x])
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(run(ours, x), want), f"{threads} threads"


def test_images_at_once_keep_to_their_memory():
    """NaN in all of it changes nothing, nothing beyond it is touched, and a limit leaves fewer at once."""
    ours, _ = pair(embedding_dim=20)
    native, x = native_of(ours), torch.rand(7, 3, 33, 40)
    want, alone = run(ours, x), native.workspace(33, 40, 1, 0)
    together = native.workspace(33, 40, 3, 0, 7)
    assert 3 * alone <= together <= 3 * (alone + 64)
    memory = torch.full((together // 4 + 4096,), torch.nan)
    assert torch.equal(call(native, x, memory[: together // 4], 3), want)
    assert memory[together // 4 :].isnan().all()
    for limit in (alone, 2 * alone + 128):
        assert native.workspace(33, 40, 3, limit, 7) <= limit
        ours.workspace_limit = limit
        torch.set_num_threads(3)
        assert torch.equal(run(ours, x), want)


def test_the_same_bits_whatever_memory_held(isa):
    """NaN, infinity or zeros in the workspace and the output change nothing."""
    ours, _ = pair(embedding_dim=20, num_layers=2, topk=2)
    x = torch.rand(1, 3, 23, 51)
    want = run(ours, x)
    native, size = native_of(ours), (23, 51)
    for value in (float("nan"), float("inf"), 0.0, -3e38):
        for threads in (1, 3):
            workspace = torch.full((native.workspace(*size, threads, 0) // 4,), value)
            assert torch.equal(call(native, x, workspace, threads, value), want), f"memory of {value}"


def test_the_workspace_is_as_large_as_told(isa):
    """Not a float beyond it changes, and one byte less is refused."""
    for size in ((16, 16), (17, 401), (49, 50)):
        ours, _ = pair(embedding_dim=20, global_kernel_size=3)
        x = torch.rand(1, 3, *size)
        native = native_of(ours)
        for threads in (1, 3):
            floats = native.workspace(*size, threads, 0) // 4
            guard = 4096
            memory = torch.full((guard + floats + guard,), 7.25)
            call(native, x, memory[guard : guard + floats], threads)
            assert (memory[:guard] == 7.25).all()
            assert (memory[guard + floats :] == 7.25).all()
            with pytest.raises(ValueError, match="workspace_bytes must be at least"):
                call(native, x, memory[: floats - 1], threads)


def native_of(model: SeemoRe):
    """The packed network that the model's engine would make."""
    return model.engine.packed(model, False)


def call(native, x: Tensor, workspace: Tensor, threads: int, poison: float = float("nan")) -> Tensor:
    """The binding itself, on memory of the test's own."""
    n, c, h, w = x.shape
    out = torch.full((n, c, 2 * h, 2 * w), poison)
    native.forward(
        input=x.data_ptr(),
        output=out.data_ptr(),
        u8=False,
        n=n,
        h=h,
        w=w,
        threads=threads,
        limit=0,
        workspace=workspace.data_ptr(),
        workspace_bytes=4 * workspace.numel(),
    )
    return out


# ---- Values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bytes_are_rounded_floats(isa, scale):
    ours, _ = pair(scale=scale, img_range=2.0)
    pixels = torch.randint(0, 256, (2, 3, 18, 35), dtype=torch.uint8)
    got = run(ours, pixels)
    exact = run(ours, pixels / 255).double() * 255
    assert got.dtype == torch.uint8
    assert (exact < 0).any(), "the output must leave the range for clamping to be seen"
    assert (exact > 255).any()
    tie = ((exact - exact.floor()) - 0.5).abs() < 1e-3  # there the last bit of x / 255 decides
    assert torch.equal(got[~tie], exact.round().clamp(0, 255).to(torch.uint8)[~tie])
    assert tie.float().mean() < 0.01


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("at", [(0, 0), (9, 20), (17, 34)], ids=str)
def test_nan_comes_out_where_the_reference_has_it(isa, layers, at):
    """Everywhere with groups, for routing asks the whole image; without, around the pixel.

    There a few rows more have it, but no column: convolutions make groups of rows from sums of them.
    """
    ours, oracle = pair(num_layers=layers)
    x = torch.rand(1, 3, 40, 35)
    x[0, 1, at[0], at[1]] = float("nan")
    got, want = run(ours, x), run(oracle, x.double())
    assert got.isnan()[want.isnan()].all()
    assert torch.equal(got.isnan().any(2), want.isnan().any(2))
    finite = ~got.isnan()
    if layers == 0:
        assert finite.float().mean() > 0.8
        assert golden.relative_l2(got[finite], want[finite]) <= LIMIT
    clean = torch.rand(1, 3, 40, 35)
    assert torch.equal(run(ours, torch.cat([x, clean]))[1:], run(ours, clean)), "the other image is untouched"


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e4], ids=str)
def test_flat_images(isa, value):
    """LayerNorm of what hardly varies, and far outside the usual range."""
    ours, oracle = pair()
    x = torch.full((1, 3, 17, 19), value)
    assert golden.relative_l2(run(ours, x), run(oracle, x.double())) <= LIMIT
