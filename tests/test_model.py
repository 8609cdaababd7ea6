"""The drop-in class: constructor, keys, inputs of any kind and size, and everything people do to modules."""

from __future__ import annotations

import copy
import inspect
import io
import os
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seemore_fast
from seemore_fast import SeemoRe, accelerate, load
from seemore_fast.backends import native
from seemore_fast.errors import BackendError, CheckpointError
from seemore_fast.network import checkpoint, reference
from tests.support import golden

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 8, "lr_space": "exp", "topk": 1}

BACKENDS = ["reference", *(["cpu"] if native.lib else [])]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def small(backend: str = "auto", **config) -> SeemoRe:
    return golden.fill(SeemoRe(**{**SMALL, **config}, backend=backend), seed=5).eval()


def plain(model: reference.SeemoRe) -> reference.SeemoRe:
    """The reference with the same weights, in their dtype."""
    twin = reference.SeemoRe(**model.config)
    twin.load_state_dict(model.state_dict())
    return twin.to(model.conv_1.weight.dtype).eval()


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def equal(got: Tensor, want: Tensor, limit: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert golden.relative_l2(got, want.detach()) <= limit


# ---- Construction ----------------------------------------------------------------------------------------


def test_the_constructor_is_the_official_one():
    names = ["scale", "in_chans", "num_experts", "num_layers", "embedding_dim", "img_range", "use_shuffle"]
    names += ["global_kernel_size", "recursive", "lr_space", "topk"]
    defaults = (4, 3, 6, 6, 64, 1.0, False, 11, 2, "linear", 2)
    parameters = list(inspect.signature(SeemoRe).parameters.values())
    assert [p.name for p in parameters[: len(names)]] == names
    assert tuple(p.default for p in parameters[: len(names)]) == defaults
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(names) :])
    values = (2, 1, 3, 1, 8, 255.0, True, 5, 1, "exp", 2)
    config = SeemoRe(*values).config
    assert tuple(config[name] for name in names) == values


def test_state_dict_keys_are_the_references():
    ours, want = SeemoRe(**SMALL), reference.SeemoRe(**SMALL)
    assert list(ours.state_dict()) == list(want.state_dict())
    ours.load_state_dict(want.state_dict(), strict=True)


def test_t_x4_has_386_keys():
    assert len(load("t-x4").state_dict()) == 386


def test_evaluation_and_training_modes_give_the_same(backend):
    model, x = small(backend), torch.rand(1, 3, 17, 19)
    assert torch.equal(run(model.train(), x), run(model.eval(), x))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("scale", 0),
        ("in_chans", 0),
        ("num_experts", 0),
        ("num_layers", -1),
        ("embedding_dim", 0),
        ("recursive", -1),
        ("global_kernel_size", 4),
        ("topk", 7),
        ("img_range", 0.0),
        ("lr_space", "log"),
        ("mean", (0.5,)),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=argument):
        SeemoRe(**{argument: value})


def test_bad_inputs_are_named(backend):
    model = small(backend)
    for shape in ((3, 16, 16), (1, 4, 16, 16), (1, 3, 16, 16, 1)):
        with pytest.raises(ValueError, match=r"x must be \(N, 3, H, W\), got"):
            run(model, torch.rand(shape))
    for shape in ((1, 3, 0, 16), (1, 3, 16, 0)):
        with pytest.raises(ValueError, match="x must have at least one pixel"):
            run(model, torch.rand(shape))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=f"x must be floating-point or uint8, got {dtype}"):
            run(model, torch.zeros(1, 3, 16, 16, dtype=dtype))


# ---- Inputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (40, 1), (2, 3), (15, 15), (15, 16), (16, 15), (7, 33)], ids=str
)
def test_small_images_are_extended_by_their_edge(size, backend):
    h, w = size
    x = torch.rand(2, 3, h, w)
    model = small(backend)
    extended = F.pad(x, (0, max(0, 16 - w), 0, max(0, 16 - h)), mode="replicate")
    want = run(plain(model).double(), extended.double())[..., : 2 * h, : 2 * w]
    equal(run(model, x), want)


def test_images_of_a_batch_do_not_see_each_other(backend):
    model, x = small(backend, num_layers=2), torch.rand(3, 3, 18, 21)
    x[1] *= 0.1
    equal(run(model, x), torch.cat([run(model, image[None]) for image in x]), 1e-6)


def test_an_empty_batch(backend):
    assert run(small(backend), torch.rand(0, 3, 16, 20)).shape == (0, 3, 32, 40)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every_other": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    "flipped_twice": lambda x: x.flip(2).flip(2),
    "offset": lambda x: torch.cat([torch.zeros(1, 3, *x.shape[2:]), x])[1:],
    "negated_view": lambda x: (-x)._neg_view(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout, backend):
    model, x = small(backend), torch.rand(2, 3, 17, 19)
    view = LAYOUTS[layout](x)
    assert torch.equal(view, x)
    equal(run(model, view), run(model, x), 1e-6)


def test_expanded_input(backend):
    model, x = small(backend), torch.rand(1, 1, 17, 19)
    equal(run(model, x.expand(2, 3, 17, 19)), run(model, x.repeat(2, 3, 1, 1)), 1e-6)


def test_the_input_is_left_alone(backend):
    model, x = small(backend), torch.rand(1, 3, 17, 19)
    before = x.clone()
    result = run(model, x)
    assert torch.equal(x, before)
    assert not torch.equal(run(model, x * 0.5), result)
    assert torch.equal(result, run(model, x)), "a later call must not write into an earlier result"


def test_bytes(backend):
    model, x = small(backend), torch.randint(0, 256, (1, 3, 17, 9), dtype=torch.uint8)
    got, want = (
        run(model, x),
        run(plain(model).double(), F.pad(x / 255.0, (0, 7, 0, 0), mode="replicate").double()),
    )
    want = (want[..., :18] * 255).round().clamp(0, 255)
    assert got.dtype == torch.uint8
    assert (got - want).abs().max() <= 1
    assert (got != want).float().mean() < 1e-3, "more than ties differ"


# ---- Dtypes ----------------------------------------------------------------------------------------------


def test_float64_is_computed_in_float64(backend):
    model = small(backend).double()
    x = torch.rand(1, 3, 17, 19, dtype=torch.float64)
    got = run(model, x)
    assert got.dtype == torch.float64
    equal(got, run(plain(model), x), 1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_models_and_inputs(dtype, backend):
    model = small(backend, topk=3).to(dtype)
    x = torch.rand(1, 3, 17, 19).to(dtype)
    got = run(model, x)
    assert got.dtype == dtype
    exact = run(plain(model).double(), x.double())
    assert golden.relative_l2(got, exact) <= max(2 * golden.relative_l2(run(plain(model), x), exact), 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_references_output_dtype(dtype, backend):
    model, x = small(backend), torch.rand(1, 3, 17, 19).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert run(model, x).dtype == run(plain(model), x).dtype


# ---- What people do to modules ---------------------------------------------------------------------------


def saved_whole(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_whole],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_duplicates_share_nothing(duplicate, backend):
    model, x = small(backend), torch.rand(1, 3, 17, 19)
    model.workspace_limit = 10**9
    want = run(model, x)
    twin = duplicate(model)
    assert (twin.backend, twin.workspace_limit, twin.config) == (backend, 10**9, model.config)
    assert torch.equal(run(twin, x), want)
    golden.fill(twin, seed=6)
    assert not torch.equal(run(twin, x), want)
    assert torch.equal(run(model, x), want)


def test_a_shallow_copy_follows_the_shared_weights(backend):
    model, x = small(backend), torch.rand(1, 3, 17, 19)
    twin = copy.copy(model)
    golden.fill(model, seed=6)
    assert torch.equal(run(twin, x), run(model, x))


def test_to_meta_and_back():
    model = small().to("meta")
    model = golden.fill(model.to_empty(device="cpu"), seed=5)
    model.mean.copy_(torch.tensor(reference.RGB_MEAN)[:, None, None])
    x = torch.rand(1, 3, 17, 19)
    equal(run(model, x), run(small(), x), 1e-6)


def test_inference_mode(backend):
    model, x = small(backend), torch.rand(1, 3, 17, 19)
    want = run(model, x)
    with torch.inference_mode():
        assert torch.equal(model(x), want)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_equal_the_references(frozen, backend):
    """Also of the input alone, where the weights are frozen; on a small image through its extension."""
    model = small(backend, topk=2).requires_grad_(not frozen)
    oracle = plain(model).double()
    for size in ((17, 19), (16, 16)):
        x, cotangent = (
            torch.rand(2, 3, *size, requires_grad=True),
            torch.randn(2, 3, 2 * size[0], 2 * size[1]),
        )
        wide = x.detach().double().requires_grad_()
        (model(x) * cotangent).sum().backward()
        (oracle(wide) * cotangent).sum().backward()
        equal(x.grad, wide.grad, 2e-4)
    if not frozen:
        for (name, got), want in zip(model.named_parameters(), oracle.parameters(), strict=True):
            assert golden.relative_l2(got.grad, want.grad) <= 2e-4, name


def test_second_derivatives(backend):
    """A gradient penalty, as GAN training takes it."""
    model, x = small(backend), torch.rand(1, 3, 16, 16)
    oracle = plain(model).double()

    def penalty(network: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().mean(), network.conv_2.weight)[0]

    equal(penalty(model, x), penalty(oracle, x.double()), 2e-4)


def test_transforms_of_torch_func(backend):
    """Under no_grad, too: it turns reverse mode off, not these."""
    model = small(backend).requires_grad_(False)
    oracle, x, direction = plain(model).double(), torch.rand(2, 3, 16, 17), torch.rand(2, 3, 16, 17)
    _, want = torch.func.jvp(oracle, (x.double(),), (direction.double(),))
    with torch.no_grad():
        equal(torch.func.jvp(model, (x,), (direction,))[1], want, 2e-4)
        with torch.autograd.forward_ad.dual_level():
            dual = model(torch.autograd.forward_ad.make_dual(x, direction))
            equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, want, 2e-4)
        stacked = torch.func.vmap(model)(x[:, None])
    equal(stacked, run(model, x)[:, None])


def test_functional_call_takes_the_weights_it_is_given(backend):
    model, x = small(backend), torch.rand(1, 3, 16, 16)
    want = run(model, x)
    others = {name: value.detach() for name, value in small().state_dict().items()}
    golden_others = golden.fill(SeemoRe(**SMALL), seed=6)
    with torch.no_grad():
        got = torch.func.functional_call(model, dict(golden_others.state_dict()), (x,))
        equal(got, run(golden_others, x))
        assert torch.equal(torch.func.functional_call(model, others, (x,)), want)
    assert torch.equal(run(model, x), want)


@pytest.mark.parametrize(("compiler", "grad"), [("eager", False), ("aot_eager", True)])
def test_compiles_to_one_graph(compiler, grad):
    torch._dynamo.reset()
    model = small()
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    with torch.set_grad_enabled(grad):
        for size in ((17, 19), (5, 40)):
            x = torch.rand(1, 3, *size)
            equal(compiled(x), run(model, x))


@pytest.mark.full
def test_inductor():
    torch._dynamo.reset()
    model = small(num_experts=1, embedding_dim=4)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.rand(1, 3, 16, 16)
    exact = reference.SeemoRe(**model.config).double()
    exact.load_state_dict(model.state_dict())
    want = exact.eval()(x.double())
    assert golden.relative_l2(run(compiled, x), want) <= 1e-5
    assert golden.relative_l2(run(model, x), want) <= 1e-5


def test_torch_export():
    # The example must be larger than 2 px at the lowest resolution: export takes sizes of 1 as fixed.
    model, x = small(), torch.rand(2, 3, 40, 50)
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=32), 3: torch.export.Dim("w", min=32)}
    program = torch.export.export(model, (x,), dynamic_shapes=(sizes,))
    for shape in ((2, 3, 40, 50), (3, 3, 33, 70)):
        other = torch.rand(shape)
        equal(run(program.module(), other), run(model, other))


class _Upscaled(torch.utils.data.Dataset):
    """Images enlarged where they are loaded."""

    def __init__(self, model: SeemoRe, images: Tensor):
        self.model, self.images = model, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return run(self.model, self.images[index : index + 1])[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_in_data_loader_workers(backend):
    model, images = small(backend), torch.rand(4, 3, 17, 19)
    data = _Upscaled(model, images)
    want = torch.stack([data[i] for i in range(4)])
    loader = torch.utils.data.DataLoader(
        data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    equal(torch.cat(list(loader)), want, 1e-6)


# ---- load and accelerate ---------------------------------------------------------------------------------


def test_load_by_name_and_by_file(tmp_path):
    model = load("t-x4")
    assert not model.training
    assert model.config["scale"] == 4
    path = tmp_path / "copy.safetensors"
    checkpoint.save(model, path)
    x = torch.rand(1, 3, 17, 19)
    assert torch.equal(run(load(path), x), run(model, x))
    torch.save({"params": model.state_dict()}, tmp_path / "net_g.pth")
    assert torch.equal(
        run(load(str(tmp_path / "net_g.pth"), backend="reference"), x),
        run(load("t-x4", backend="reference"), x),
    )
    assert load(tmp_path / "net_g.pth", topk=3).config["topk"] == 3


def test_load_refuses(tmp_path):
    with pytest.raises(CheckpointError, match=r"^t-x9: neither a file nor bundled weights \(.*t-x4.*\)$"):
        load("t-x9")
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        load(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="'depth' is no argument of SeemoRe"):
        load("t-x4", depth=3)
    with pytest.raises(BackendError, match="onednn"):
        load("t-x4", backend="onednn")


class Foreign(nn.Module):
    """The official class as `accelerate` meets it: its modules and attributes, nothing of ours on top."""

    def __init__(self, in_chans: int = 3, **config):
        super().__init__()
        ours = golden.fill(reference.SeemoRe(in_chans=in_chans, **config), seed=5)
        self.scale, self.img_range = ours.scale, ours.img_range
        self.mean = torch.tensor([0.4, 0.5, 0.6][:in_chans]).view(
            1, in_chans, 1, 1
        )  # neither parameter nor buffer
        for name in ("conv_1", "body", "norm", "conv_2", "upsampler"):
            setattr(self, name, getattr(ours, name))
        for group in self.body:
            experts = group.local_block.block.moe_layer
            experts.num_expert = experts.__dict__.pop("topk")


FOREIGN = {
    **{"scale": 3, "num_experts": 4, "num_layers": 2, "embedding_dim": 8, "img_range": 2.0, "topk": 3},
    **{"use_shuffle": True, "recursive": 1, "lr_space": "double", "global_kernel_size": 5},
}


def test_accelerate_finds_the_configuration_and_shares_the_parameters():
    foreign = Foreign(**FOREIGN).eval()
    model = accelerate(foreign)
    assert type(model) is seemore_fast.SeemoRe
    assert {name: model.config[name] for name in FOREIGN} == FOREIGN
    assert model.config["mean"] == pytest.approx((0.4, 0.5, 0.6))
    assert not model.training
    for (name, mine), theirs in zip(model.named_parameters(), foreign.parameters(), strict=True):
        assert mine is theirs, name
    x = torch.rand(1, 3, 17, 19)
    before = run(model, x)
    equal(before, run(plain(model).double(), x.double()))
    with torch.no_grad():
        foreign.conv_2.bias.add_(0.5)
    assert not torch.equal(run(model, x), before)


def test_accelerate_takes_descriptors_overrides_and_the_mode():
    class Descriptor:  # as spandrel's
        def __init__(self, model: nn.Module):
            self.model = model

    foreign = Foreign(**FOREIGN).double().train()
    model = accelerate(Descriptor(foreign), backend="reference", topk=1, mean=(0.1, 0.2, 0.3))
    assert model.training
    assert (model.backend, model.config["topk"], model.config["mean"]) == ("reference", 1, (0.1, 0.2, 0.3))
    assert run(model, torch.rand(1, 3, 16, 16, dtype=torch.float64)).dtype == torch.float64


def test_accelerate_refuses():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got dict"):
        accelerate({})
    with pytest.raises(CheckpointError, match=r"not a SeemoRe state dict: lacks conv_1\.weight"):
        accelerate(nn.Linear(2, 2))
