"""Inference under torch.compile: one operator, the same bits as without, no graph breaks, no recompiling."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import utils as inductor_utils

from seemore_fast import SeemoRe
from seemore_fast.backends import choice, native
from seemore_fast.engines import cpu_engine, one_op
from tests.support import cudasim, golden
from tests.support.compiled import OP, Compiled, pixels, small

pytestmark = pytest.mark.skipif(choice.missing("cpu") is not None, reason=f"no CPU engine: {native.error}")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="this CPU .* has no AVX512-BF16")
        yield


# ---- The same as without ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [
        (torch.no_grad, torch.float32),
        (torch.inference_mode, torch.float32),
        (torch.no_grad, torch.uint8),
        (torch.inference_mode, torch.bfloat16),
    ],
)
def test_the_same_bits_in_one_operator(mode, dtype):
    model, compiled = small(), Compiled(small(), dynamic=True)
    with mode():
        for size in ((1, 3, 17, 19), (1, 3, 2, 3), (1, 3, 30, 8)):
            x = pixels(*size, dtype=dtype)
            got, want = compiled(x), model(x)
            assert got.dtype == want.dtype
            assert torch.equal(got, want)
            assert compiled.called() == [OP]


def test_the_same_bits_through_autograds_compiler():
    model = small()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for x in (pixels(2, 3, 17, 19), pixels(2, 3, 40, 3).transpose(2, 3)):
            got = compiled(x)
            assert torch.equal(got, model(x))
            assert got.is_contiguous()


@pytest.mark.parametrize("inside", [False, True])
def test_autocast(inside, monkeypatch):
    """Compiled code runs outside of autocast: the precision travels with the call."""
    seen = []
    packed = cpu_engine.Engine.packed
    monkeypatch.setattr(
        cpu_engine.Engine, "packed", lambda self, model, bf16: seen.append(bf16) or packed(self, model, bf16)
    )
    model = small()

    def step(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if inside else nullcontext():
            return model(x)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x = pixels(1, 3, 17, 19)
    with torch.no_grad(), nullcontext() if inside else torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(x), step(x))
    assert seen == [True, True]
    if not inside:
        with torch.no_grad():
            assert torch.equal(compiled(x), model(x))
        assert seen == [True, True, False, False]


def test_an_empty_batch():
    with torch.no_grad():
        assert Compiled(small())(pixels(0, 3, 17, 19)).shape == (0, 3, 34, 38)


def test_bad_input_is_named():
    with torch.no_grad(), pytest.raises(Exception, match=r"x must be \(N, 3, H, W\), got"):
        torch.compile(small(), backend="eager")(pixels(1, 4, 17, 19))


# ---- Compiling once --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [None, True])
def test_new_sizes_do_not_recompile(dynamic):
    model, compiled = small(), Compiled(small(), dynamic)
    sizes = [(2, 17, 19), (4, 23, 31), (3, 40, 9), (5, 3, 2), (2, 64, 48)]
    with torch.no_grad():
        for i, (n, *size) in enumerate(sizes):
            x = pixels(n, 3, *size)
            with torch._dynamo.config.patch(error_on_recompile=i > (0 if dynamic else 1)):
                assert torch.equal(compiled(x), model(x))
    assert len(compiled.graphs) == (1 if dynamic else 2)


def test_a_changed_choice_of_backend_is_followed():
    model = small()
    compiled = Compiled(model)
    x = pixels(1, 3, 17, 19)
    with torch.no_grad():
        compiled(x)
        assert compiled.called() == [OP]
        model.backend = "reference"
        torch.testing.assert_close(compiled(x), model(x))
        assert OP not in compiled.called()
        model.backend = "cpu"
        compiled(x)
        assert compiled.called() == [OP]


# ---- Weights ---------------------------------------------------------------------------------------------


def replace(model: SeemoRe) -> None:
    model.conv_2.bias = nn.Parameter(model.conv_2.bias.detach() + 0.5)


def share_memory(model: SeemoRe) -> None:
    """Another parameter over the same memory, which counts writes of its own."""
    model.conv_2.bias = nn.Parameter(model.conv_2.bias.data)
    nn.init.constant_(model.conv_2.bias, 0.25)


def step(model: SeemoRe) -> None:
    model.conv_1.weight.grad = torch.ones_like(model.conv_1.weight)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


CHANGES: dict[str, Callable[[SeemoRe], Any]] = {
    "in place": lambda model: nn.init.constant_(model.upsampler[0].bias, 0.5),
    "load_state_dict": lambda model: golden.fill(model, seed=6),
    "assigned": lambda model: model.load_state_dict(small(scale=2).half().float().state_dict(), assign=True),
    "an optimiser's step": step,
    "a parameter replaced": replace,
    "the first parameter replaced": lambda model: setattr(
        model.conv_1, "weight", nn.Parameter(model.conv_1.weight.detach() * 2)
    ),
    "a parameter over the same memory": share_memory,
    "a module replaced": lambda model: setattr(model, "conv_2", nn.Conv2d(8, 8, 3, padding=1)),
    "storage replaced": lambda model: setattr(model.norm.bias, "data", torch.full((8,), 0.5)),
    "the mean": lambda model: model.mean.add_(0.25),
    "dtype": lambda model: model.half(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_seen(change):
    """By the operator, which is given those that the model has at each call."""
    model, x = small(), pixels(1, 3, 17, 19)

    def call() -> Tensor:
        with torch.no_grad():
            return OP(x, one_op.weights_of(model, model._tree), model._text, "auto", None, 0)

    before = call()
    CHANGES[change](model)
    assert not torch.equal(call(), before)
    with torch.no_grad():
        assert torch.equal(call(), model(x))


@pytest.mark.parametrize("change", ["in place", "a module replaced", "storage replaced"])
def test_changed_weights_are_seen_by_compiled_code(change):
    model = small()
    compiled = Compiled(model)
    x = pixels(1, 3, 17, 19)
    with torch.no_grad():
        before = compiled(x)
        CHANGES[change](model)
        after = compiled(x)
        assert not torch.equal(after, before)
        assert torch.equal(after, model(x))


def test_weights_changed_in_the_same_graph():
    """What is written before the call is seen by it, what after is not."""
    model, other = small(), small()

    def run(model: SeemoRe, x: Tensor) -> Tensor:
        model.norm.bias.add_(0.5)
        out = model(x)
        model.norm.bias.add_(0.5)
        return out

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    x = pixels(1, 3, 17, 19)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(compiled(model, x), run(other, x))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """The networks that run in place of the models."""
    networks = []
    twin = one_op._Twin

    def spy(network: Any, *more: Any) -> Any:
        networks.append(weakref.ref(network))
        return twin(network, *more)

    monkeypatch.setattr(one_op, "_Twin", spy)
    return networks


@pytest.mark.parametrize(
    ("compiler", "mode"), [("eager", torch.inference_mode), ("aot_eager", torch.no_grad)], ids=str
)
def test_unchanged_weights_are_packed_once(compiler, mode, made):
    model = small()
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    with mode():
        for size in ((17, 19), (20, 24), (30, 9)):
            compiled(pixels(1, 3, *size))
    assert len(made) == 1


def test_weights_of_inference_mode(made):
    with torch.inference_mode():
        model = small()
        compiled = Compiled(model)
        x = pixels(1, 3, 17, 19)
        before = compiled(x)
        assert torch.equal(before, model(x))
        compiled(x)
        golden.fill(model, seed=6)
        after = compiled(x)
        assert torch.equal(after, model(x))
    assert not torch.equal(after, before)
    assert len(made) == 1


def test_nothing_outlives_the_model(made):
    model = small()
    compiled = Compiled(model)
    with torch.no_grad():
        compiled(pixels(1, 3, 17, 19))
    assert made[0]() is not None
    torch._dynamo.reset()
    del model, compiled
    gc.collect()
    assert made[0]() is None


def test_threads_with_models_of_their_own():
    models = [small(), golden.fill(small(), seed=6)]
    x = pixels(1, 3, 17, 19)
    with torch.no_grad():
        want = [model(x) for model in models]
    wrong = []

    def work(i: int) -> None:
        model = models[i % 2]
        weights = one_op.weights_of(model, model._tree)
        for _ in range(20):
            if not torch.equal(OP(x, weights, model._text, "auto", None, 0), want[i % 2]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


# ---- Surroundings ----------------------------------------------------------------------------------------


def arguments(shape: tuple[int, ...] = (1, 3, 17, 19), **more: Any) -> tuple[Any, ...]:
    model = small().requires_grad_(False)
    given = {"x": pixels(*shape), "backend": "auto", "autocast": None, "limit": 0, **more}
    weights = one_op.weights_of(model, model._tree)
    return given["x"], weights, model._text, given["backend"], given["autocast"], given["limit"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"shape": (2, 3, 2, 3)},
        {"x": pixels(1, 3, 8, 9, dtype=torch.uint8).transpose(2, 3)},
        {"x": pixels(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)[..., ::2]},
        {"x": pixels(1, 3, 8, 9, dtype=torch.bfloat16), "autocast": torch.bfloat16, "backend": "cpu"},
    ],
    ids=["plain", "smaller than the least", "bytes, transposed", "strided", "bfloat16"],
)
def test_opcheck(more):
    torch.library.opcheck(OP, arguments(**more))


def test_the_default_generator_is_left_alone():
    one_op._takes.cache_clear()
    one_op.tree_of.cache_clear()
    model = small(embedding_dim=6)
    before = torch.get_rng_state()
    with torch.no_grad():
        Compiled(model)(torch.zeros(1, 3, 17, 19))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_limit_of_memory_reaches_the_engine():
    model = small()
    compiled = Compiled(model)
    x = pixels(1, 3, 17, 19)
    with torch.no_grad():
        want = compiled(x)
        model.workspace_limit = 1000
        with pytest.raises(MemoryError, match="workspace_limit of 1000 bytes is too small"):
            compiled(x)
        model.workspace_limit = 0
        assert torch.equal(compiled(x), want)


def test_ctrl_c_comes_through(monkeypatch):
    model = small()
    compiled = Compiled(model)
    x = pixels(1, 3, 17, 19)

    def interrupted(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    with torch.no_grad():
        compiled(x)
        monkeypatch.setattr(cpu_engine.Engine, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compiled(x)


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this torch has no such tag")
def test_graphs_of_other_captures_leave_it_out():
    """Replayed by mode="reduce-overhead", it would compute with the weights of the capture."""
    compiled = Compiled(small())
    with torch.no_grad():
        compiled(pixels(1, 3, 17, 19))
    (graph,) = compiled.graphs
    kept = inductor_utils.get_first_incompatible_cudagraph_node(graph)
    assert kept is not None
    assert kept.target is OP


def test_on_a_gpu_it_runs_the_cuda_engine(monkeypatch):
    """In the simulator."""
    with torch.no_grad():  # Dynamo looks for GPUs at its first network: now, as there is none
        Compiled(small())(pixels(1, 3, 9, 10))
    cudasim.stand_in_for_a_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: None)
    one_op._takes.cache_clear()
    model = small()
    x = pixels(1, 3, 9, 10)
    with torch.no_grad():
        compiled = Compiled(model)
        got = compiled(x)
        assert compiled.called() == [OP]
        assert torch.equal(got, model(x))
        compiled(x)
        nn.init.constant_(model.norm.bias, 0.5)
        after = compiled(x)
        assert torch.equal(after, model(x))
    assert not torch.equal(after, got)
    one_op._takes.cache_clear()


@pytest.mark.full
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_inductor(mode, frozen):
    model = small()
    compiled = torch.compile(lambda x: model(x * 2 - 0.5).clamp(0, 1) * 3, fullgraph=True, mode=mode)
    with torch.no_grad(), torch._inductor.config.patch(freezing=frozen):
        for size in ((17, 19), (24, 9), (30, 31)):
            x = pixels(1, 3, *size)
            torch.testing.assert_close(compiled(x), model(x * 2 - 0.5).clamp(0, 1) * 3)
        if not frozen:
            golden.fill(model, seed=6)
            torch.testing.assert_close(compiled(x), model(x * 2 - 0.5).clamp(0, 1) * 3)
