"""The CUDA engine in the simulator, on networks of every shape: each precision against the float64 reference.

What a GPU alone can show (memory ordering, speed) is left to benchmarks on one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seemore_fast import load
from seemore_fast.engines import cuda_engine
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.errors import BackendError
from seemore_fast.image import read
from seemore_fast.network import fold, reference
from tests.support import cudasim, golden
from tests.support.golden import run, twice_half
from tests.support.repository import ROOT

pytestmark = pytest.mark.usefixtures("compiler")

LIMIT = 1e-5
"""Largest relative L2 error of fp32 against float64."""

WIDE = 72
"""Channels of a network that the fused kernels do not hold: those of csrc/cuda/engine/wide.cuh run it."""

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 12, "lr_space": "exp", "topk": 1}


def networks(**config) -> tuple[reference.SeemoRe, reference.SeemoRe]:
    """One in float32, and the oracle."""
    config = {**SMALL, **config}
    return (
        golden.fill(reference.SeemoRe(**config), 11).eval(),
        golden.fill(reference.SeemoRe(**config), 11).double().eval(),
    )


def experts_of(network: reference.SeemoRe, x: Tensor) -> list[int]:
    """The expert that each layer likes best for an image."""
    found: list[int] = []
    routers = [module for module in network.modules() if isinstance(module, reference.Router)]
    hooks = [r.register_forward_hook(lambda _, __, out: found.append(int(out.argmax()))) for r in routers]
    run(network, x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    "config",
    [
        {"num_experts": 6, "topk": 2, "lr_space": "linear"},
        {"num_experts": 1},
        {"global_kernel_size": 1},
        {"global_kernel_size": 31},
        {"global_kernel_size": 255},
        {"embedding_dim": 1},
        {"embedding_dim": 44, "use_shuffle": True},
        {"recursive": 1, "num_layers": 2},
        {"scale": 1, "in_chans": 1},
        {"scale": 3, "in_chans": 4},
        {"num_layers": 0},
        {"img_range": 255.0, "mean": (0.1, 0.5, 0.9)},
        {"embedding_dim": 49, "num_layers": 2, "recursive": 1, "global_kernel_size": 31},
        {"embedding_dim": 64, "num_experts": 1, "global_kernel_size": 1, "scale": 3, "in_chans": 4},
        {"embedding_dim": 100, "num_experts": 6, "topk": 2, "lr_space": "linear"},
        {"embedding_dim": 130, "use_shuffle": True, "img_range": 255.0, "mean": (0.1, 0.5, 0.9)},
        {"embedding_dim": WIDE, "num_layers": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_configurations(config, precision):
    network, oracle = networks(**config)
    x = torch.rand(1, config.get("in_chans", 3), 19, 18)
    got = cudasim.Simulated(network, precision)(x)
    want = run(oracle, x.double())
    assert golden.relative_l2(got, want) <= (LIMIT if precision == "fp32" else twice_half(network, x, want))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("channels", [40, 48, 64])
def test_widths(channels, precision, compiler):
    """Those that kernels are compiled for, with the constructor's other defaults."""
    if compiler == "g++" and channels == 64 and precision in ("tf32", "bf16"):
        pytest.skip("compiled by nvcc alone (CMakeLists.txt), whose turn is in the full tier")
    network, oracle = networks(embedding_dim=channels, num_experts=6, topk=2, lr_space="linear")
    x = torch.rand(1, 3, 17, 18)
    got = cudasim.Simulated(network, precision)(x)
    limit = {"fp32": LIMIT, "bf16": 5e-2}.get(precision, 1e-2)
    assert golden.relative_l2(got, run(oracle, x.double())) <= limit


def test_more_tiles_than_lanes(compiler):
    """rme's tiles, of 16 x 32 pixels at most, leave more router logits than a warp has lanes to add them."""
    network, oracle = networks(num_layers=1, recursive=1)
    x = torch.rand(1, 3, 132, 100)
    got = cudasim.Simulated(network, "fp16")(x, check=compiler == "nvcc")
    want = run(oracle, x.double())
    assert golden.relative_l2(got, want) <= twice_half(network, x, want)


@pytest.mark.parametrize("seeds", [(2,), pytest.param((3, 4, 5), marks=pytest.mark.full)], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_wide_networks(precision, seeds):
    """As above: exact in fp32, else within twice PyTorch's own error; any order gives the same bits."""
    network, oracle = networks(embedding_dim=WIDE, use_shuffle=True)
    x = torch.rand(1, 3, 18, 17, generator=torch.Generator().manual_seed(5))
    want = run(oracle, x.double())
    engine = cudasim.Simulated(network, precision)
    first = engine(x, seed=1)
    if precision == "fp32":
        allowed = LIMIT
    else:
        allowed = twice_half(network, x, want, torch.bfloat16 if precision == "bf16" else torch.float16)
    assert golden.relative_l2(first, want) <= allowed
    for seed in seeds:
        assert torch.equal(engine(x, seed=seed, check=False), first), f"seed {seed}"


def test_bf16_keeps_what_becomes_the_picture():
    """Head and last LayerNorm compute more finely than in 8 bits, or the error were twice as large."""
    model = load("t-x2")
    network = reference.SeemoRe(**model.config).eval()
    network.load_state_dict(model.state_dict())
    pixels = read(ROOT / "examples/cat.png").pixels[60:92, 60:100]
    x = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    want = run(network, x)
    got = cudasim.Simulated(network, "bf16")(x, check=False)
    assert golden.relative_l2(got, want) <= 0.35 / 2 * twice_half(network, x, want, torch.bfloat16)


@pytest.mark.parametrize("channels", [12, WIDE])
def test_three_levels_of_aggregation(channels):
    network, oracle = networks(recursive=3, embedding_dim=channels)
    x = torch.rand(1, 3, 65, 70)
    got = cudasim.Simulated(network, "fp16")(x, check=False)
    want = run(oracle, x.double())
    assert golden.relative_l2(got, want) <= twice_half(network, x, want)


@pytest.mark.parametrize("wide", [False, True])
def test_a_batch_is_its_images(wide):
    """Each routed on its own: to the bit what it gives alone."""
    case = golden.load("t_x4")
    config = {**case.config, "embedding_dim": WIDE, "num_layers": 2} if wide else case.config
    network = case.fill(reference.SeemoRe(**config))
    engine = cudasim.Simulated(network, "fp16")
    x = golden.crop(case.x)
    other = x * torch.tensor([1.0, 0.2, 0.0])[:, None, None]
    assert experts_of(network, x) != experts_of(network, other)
    alone = [engine(image, check=False) for image in (other, x)]
    assert torch.equal(engine(torch.cat([other, x]), check=False), torch.cat(alone))


@pytest.mark.parametrize(
    ("multiprocessors", "shared"), [(4, 48 << 10), (1, 99 << 10), (108, 163 << 10), (1000, 227 << 10)]
)
@pytest.mark.parametrize(
    "size",
    [(17, 66), *(pytest.param(size, marks=pytest.mark.full) for size in [(16, 16), (33, 17)])],
    ids=str,
)
def test_tiles_of_other_gpus(multiprocessors, shared, size):
    """Shared memory and the number of multiprocessors decide on the tiles, hardly on the numbers; 48 KiB hold
    none, so wide networks' kernels run."""
    network, oracle = networks(embedding_dim=40)
    x = torch.rand(1, 3, *size)
    with cudasim.pretended(multiprocessors, shared):
        got = cudasim.Simulated(network)(x)
    assert golden.relative_l2(got, run(oracle, x.double())) <= LIMIT


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.full)])
@pytest.mark.parametrize("channels", [40, 48])
def test_blocks_of_twice_the_threads(precision, channels):
    """One to a multiprocessor, in 16 bit, with the tallest tiles; another GPU's give nearly the same."""
    network, oracle = networks(embedding_dim=channels)
    x = torch.rand(1, 3, 50, 67)
    got = []
    for multiprocessors in (1, 1000):
        with cudasim.pretended(multiprocessors, 227 << 10):
            engine = cudasim.Simulated(network, precision)
            got.append(engine(x))
            assert torch.equal(engine(x, seed=2, check=False), got[-1])
    want = run(oracle, x.double())
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    assert max(golden.relative_l2(one, want) for one in got) <= golden.twice_half(network, x, want, dtype)


@pytest.mark.parametrize(
    ("precision", "channels", "size"),
    [
        ("fp16", 40, (45, 32)),
        ("fp16", 40, (30, 16)),
        ("fp16", 48, (18, 32)),
        pytest.param("bf16", 40, (30, 64), marks=pytest.mark.full),
        pytest.param("bf16", 48, (36, 64), marks=pytest.mark.full),
        pytest.param("fp32", 64, (18, 16), marks=pytest.mark.full),
    ],
    ids=str,
)
def test_tiles_as_high_as_pictures(precision, channels, size):
    """Of the feed-forward, no multiples of 8: tests/cuda/test_plan.py has them."""
    network, oracle = networks(embedding_dim=channels)
    x = torch.rand(1, 3, *size)
    with cudasim.pretended(1, 227 << 10):
        got = cudasim.Simulated(network, precision)(x)
    want = run(oracle, x.double())
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    most = golden.twice_half(network, x, want, dtype) if dtype else LIMIT
    assert golden.relative_l2(got, want) <= most


@pytest.mark.parametrize(
    ("precision", "channels", "fused"),
    [("fp32", 64, True), ("tf32", 64, True), ("fp16", 64, True), ("fp32", 72, False)],
)
def test_which_kernels_fit_a_geforce(precision, channels, fused):
    """A block may ask for 99 KiB of shared memory there, at capabilities 8.6, 8.9 and 12.0."""
    lib = cudasim.library()
    arrays = float32_arrays(fold.fold_network(networks(embedding_dim=channels)[0]))
    with cudasim.pretended(128, 99 << 10):
        programs = lib.cuda_network_programs(arrays, cuda_engine.PRECISIONS.index(precision), 0, 0)
    assert ("engine/rme" in {source for source, *_ in programs}) == fused


def test_stripes_of_64_channels_on_a_geforce():
    """Its blocks have no room for stripes as matrix products: they run in rounds, on weights of their own."""
    network, oracle = networks(embedding_dim=64)
    x = torch.rand(1, 3, 18, 21)
    with cudasim.pretended(1, 99 << 10):
        got = cudasim.Simulated(network, "fp16")(x)
    want = run(oracle, x.double())
    assert golden.relative_l2(got, want) <= golden.twice_half(network, x, want, torch.float16)


@pytest.mark.parametrize("channels", [12, WIDE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_pixels_in_other_formats(dtype, channels):
    """Converted at the two ends: the same as converting before and after."""
    engine = cudasim.Simulated(networks(embedding_dim=channels)[0])
    if dtype == torch.uint8:
        x = torch.randint(0, 256, (1, 3, 17, 18), dtype=dtype)
        exact = engine(x / 255, check=False) * 255
        assert (exact < 0).any(), "the output must leave the range for clamping to be seen"
        want = exact.round().clamp(0, 255).to(dtype)
    else:
        x = torch.rand(1, 3, 17, 18).to(dtype)
        want = engine(x.float(), check=False).to(dtype)
    assert torch.equal(engine(x), want)


@pytest.mark.parametrize("channels", [12, WIDE])
def test_nan_reaches_the_whole_image_and_no_other(channels):
    engine = cudasim.Simulated(networks(embedding_dim=channels)[0], "bf16")
    x = torch.rand(2, 3, 17, 18)
    clean = engine(x, check=False)
    x[0, 1, 4, 5] = torch.nan
    got = engine(x, check=False)
    assert got[0].isnan().all()
    assert torch.equal(got[1], clean[1])


@pytest.mark.parametrize("channels", [12, WIDE])
def test_an_expert_that_was_not_chosen_may_overflow(channels):
    """In float16 its products would be infinite: they count for nothing."""
    network, oracle = networks(embedding_dim=channels)
    x = torch.rand(1, 3, 17, 18)
    (chosen,) = experts_of(network, x)
    allowed = twice_half(network, x, run(oracle, x.double()))
    for model in (network, oracle):
        for e, expert in enumerate(model.body[0].local_block.block.moe_layer.experts):
            if e != chosen:
                expert.conv_1.bias.data.fill_(1e30)
    got = cudasim.Simulated(network, "fp16")(x, check=False)
    assert golden.relative_l2(got, run(oracle, x.double())) <= allowed


def test_refusals():
    network, _ = networks(num_experts=65, lr_space="linear")
    with pytest.raises(BackendError, match=r"num_experts must lie in 1\.\.64 for the CUDA engine, got 65"):
        cudasim.Simulated(network)
    engine = cudasim.Simulated(networks()[0])
    with pytest.raises(ValueError, match=r"image height and width must lie in 16\.\..*, got 15 x 16"):
        engine(torch.rand(1, 3, 15, 16))
