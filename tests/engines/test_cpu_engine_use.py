"""The native CPU engine in a process: weights that change, memory, threads, fork, Ctrl-C, bfloat16."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from seemore_fast import SeemoRe
from seemore_fast.backends import native
from seemore_fast.network import reference, variants
from tests.support import golden
from tests.support.isas import HAS_BF16, ISAS
from tests.support.warm import python

pytestmark = pytest.mark.usefixtures("isas")

needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no BF16")

SMALL = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 12, "lr_space": "exp", "topk": 1}


def small(**config) -> SeemoRe:
    return golden.fill(SeemoRe(**{**SMALL, **config}, backend="cpu"), seed=11).eval()


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def oracle_of(model: SeemoRe) -> reference.SeemoRe:
    """The float64 reference with the weights and the mean that the model has now."""
    oracle = reference.SeemoRe(**model.config)
    oracle.load_state_dict(model.state_dict())
    oracle.mean = model.mean.clone()
    return oracle.double().eval()


# ---- Weights ---------------------------------------------------------------------------------------------


def add_in_place(model: SeemoRe) -> None:
    with torch.no_grad():
        model.body[0].local_block.block.proj.bias.add_(0.5)


def add_in_inference_mode(model: SeemoRe) -> None:
    with torch.inference_mode():
        model.norm.bias.add_(0.5)


def load_others(model: SeemoRe) -> None:
    golden.fill(model, seed=12)


def assign_others(model: SeemoRe) -> None:
    state = golden.fill(SeemoRe(**model.config), seed=12).state_dict()
    model.load_state_dict(state, assign=True)


def optimize(model: SeemoRe) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model(torch.rand(1, 3, 16, 16)).square().mean().backward()
    optimizer.step()


def replace(model: SeemoRe) -> None:
    model.conv_2.bias = nn.Parameter(model.conv_2.bias.detach() + 0.5)


def move_the_mean(model: SeemoRe) -> None:
    model.mean += 0.25


def round_to_half(model: SeemoRe) -> None:
    model.half().float()


def freeze_and_add(model: SeemoRe) -> None:
    model.requires_grad_(False)
    model.upsampler[0].bias.mul_(2)


@pytest.mark.parametrize(
    "change",
    [
        add_in_place,
        add_in_inference_mode,
        load_others,
        assign_others,
        optimize,
        replace,
        move_the_mean,
        round_to_half,
        freeze_and_add,
    ],
)
def test_changed_weights_are_seen(change: Callable[[SeemoRe], None]):
    model = small()
    x = torch.rand(1, 3, 17, 19)
    before = run(model, x)
    change(model)
    after = run(model, x)
    assert not torch.equal(after, before)
    assert golden.relative_l2(after, run(oracle_of(model), x.double())) <= 1e-5


def test_changed_weights_are_seen_where_they_keep_no_version():
    """Parameters made in inference mode have no version counter."""
    with torch.inference_mode():
        model = small()
        x = torch.rand(1, 3, 17, 19)
        before = model(x)
        assert torch.equal(model(x), before)
        load_others(model)
        after = model(x)
    assert not torch.equal(after, before)
    oracle = golden.fill(reference.SeemoRe(**model.config), seed=12).double().eval()
    assert golden.relative_l2(after, run(oracle, x.double())) <= 1e-5


def test_writing_through_data_needs_invalidate():
    model = small()
    x = torch.rand(1, 3, 17, 19)
    run(model, x)
    model.conv_2.bias.data.add_(0.5)
    model.invalidate()
    assert golden.relative_l2(run(model, x), run(oracle_of(model), x.double())) <= 1e-5


@pytest.mark.parametrize("made_in_inference_mode", [False, True])
def test_unchanged_weights_are_packed_once(made_in_inference_mode):
    with torch.inference_mode(made_in_inference_mode):
        model = small()
    x = torch.rand(1, 3, 16, 16)
    run(model, x)
    packed = model.engine.packed(model, False)
    run(model, x)
    assert model.engine.packed(model, False) is packed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_parameters_are_taken_as_they_are(dtype):
    model = small().to(dtype)
    native.require().set_isa(ISAS[0])
    x = torch.rand(1, 3, 17, 19)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bfloat16 parameters ask for bf16 products, which are not there
        got = run(model, x)
    assert got.dtype == torch.float32
    assert golden.relative_l2(got, run(oracle_of(model), x.double())) <= 1e-5


# ---- Memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "limit"), [("t", 550), ("b", 650), ("l", 650)])
@pytest.mark.parametrize("size", [(180, 320), (360, 640)], ids=str)
def test_workspace_per_pixel(name, limit, size):
    """Bytes per pixel of the input, float32, two threads."""
    model = SeemoRe(**{**variants.config(f"{name}-x2"), "num_layers": 1})
    native = model.engine.packed(model, False)
    assert native.workspace(*size, 2, 0) / (size[0] * size[1]) <= limit


def test_workspace_limit():
    """It is kept to, by all means there are, and the least that is possible is named and possible."""
    model = small(embedding_dim=36)
    native = model.engine.packed(model, False)
    size, threads = (40, 700), 8
    wanted = native.workspace(*size, threads, 0)
    with pytest.raises(MemoryError, match=r"^workspace_limit of 1000 bytes .* at least \d+$") as caught:
        native.workspace(*size, threads, 1000)
    least = int(str(caught.value).split()[-1])
    for limit in (wanted, wanted - 1, (wanted + least) // 2, least):
        assert native.workspace(*size, threads, limit) <= limit
    with pytest.raises(MemoryError, match=f"at least {least}$"):
        native.workspace(*size, threads, least - 4)
    x = torch.rand(1, 3, *size)
    torch.set_num_threads(threads)
    want = run(model, x)
    model.invalidate()
    model.workspace_limit = least
    assert torch.equal(run(model, x), want)
    assert sum(workspace.numel() for workspace in model.engine._workspaces) <= least


def test_workspaces_are_kept_but_not_many():
    model = small()
    x = torch.rand(1, 3, 64, 64)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: run(model, x), range(40)))
    assert 1 <= len(model.engine._workspaces) <= 2
    (kept, *_) = model.engine._workspaces
    run(model, torch.rand(1, 3, 16, 16))
    assert any(workspace is kept for workspace in model.engine._workspaces), "the larger one serves, too"


def test_poisoned_memory(poisoned_memory):
    """Workspaces and outputs fresh from torch.empty hold NaN."""
    for size in ((16, 16), (17, 401)):
        x = torch.rand(1, 3, *size)
        model = small()
        assert golden.relative_l2(run(model, x), run(oracle_of(model), x.double())) <= 1e-5


# ---- Threads, processes, signals -------------------------------------------------------------------------


def test_eight_python_threads_share_a_model():
    """Of images of different sizes, while the weights are packed by whoever comes first."""
    sizes = [(16 + i, 24 - i) for i in range(8)]
    images = [torch.rand(1 + i % 2, 3, *size) for i, size in enumerate(sizes)]
    model = small(num_layers=2)
    want = [run(model, x) for x in images]
    model.invalidate()

    def work(i: int) -> bool:
        torch.set_num_threads(1 + i % 3)
        return all(torch.equal(run(model, images[i]), want[i]) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def child(code: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*python(), "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        **options,
    )


def test_the_engine_survives_fork():
    code = (
        "import os, torch; from seemore_fast import SeemoRe\n"
        "torch.set_num_threads(3)\n"
        "m = SeemoRe(num_layers=1, embedding_dim=12, backend='cpu').eval()\n"
        "x = torch.rand(1, 3, 40, 50)\n"
        "with torch.inference_mode():\n"
        "    want = m(x)\n"
        "    child = os.fork()\n"
        # Not torch.equal, which may wait in the child for OpenMP's threads of the parent.
        "    same = m(x).numpy().tobytes() == want.numpy().tobytes()\n"
        "if child == 0: os._exit(0 if same else 3)\n"
        "assert os.waitpid(child, 0)[1] == 0 and same"
    )
    process = child(code)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error


# `team`: the threads that PyTorch's OpenMP has started, one less than `cpus`.
OPENMP = (
    "import os, signal, torch; from seemore_fast import SeemoRe, ops\n"
    "def threads(): return set(os.listdir('/proc/self/task'))\n"
    "cpus = max(2, len(os.sched_getaffinity(0)))\n"
    "torch.set_num_threads(cpus)\n"
    "before = threads()\n"
    "double = torch.ones(1 << 20).mul_(2)\n"
    "team = threads() - before\n"
    "assert len(team) == cpus - 1, team\n"
    "x, weight = torch.rand(2, 8, 100, 100), torch.ones(8)\n"
    "def normalise(): return ops.layer_norm2d(x, weight, weight, backend='cpu').numpy().tobytes()\n"
)
needs_openmp = pytest.mark.skipif(
    sys.platform != "linux" or "parallel backend: OpenMP" not in torch.__config__.parallel_info(),
    reason="PyTorch works without OpenMP, or not on Linux",
)


def ends_well(code: str) -> None:
    """In a process that no other has forked: `child` would not do."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@needs_openmp
def test_idle_threads_of_openmp_end():
    """There are no processors for them beside ours.  PyTorch starts others."""
    code = OPENMP + (
        "model = SeemoRe(num_layers=1, embedding_dim=12, backend='cpu').eval()\n"
        "with torch.inference_mode(): model(torch.ones(1, 3, 40, 50))\n"
        "assert not team & threads(), team\n"
        "assert torch.equal(torch.ones(1 << 20).mul_(2), double)"
    )
    ends_well(code)


@needs_openmp
@pytest.mark.parametrize("before", ["normalise(); torch.ones(1 << 20).mul_(2)", ""], ids=["known", "new"])
def test_a_child_does_not_wait_for_openmp_threads_that_its_parent_has(before):
    """Whether the library was at work before fork() or not."""
    code = OPENMP + (
        f"{before}\n"
        "assert len(threads()) >= cpus\n"
        "child = os.fork()\n"
        "if child == 0: signal.alarm(60); normalise(); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0"
    )
    ends_well(code)


@pytest.mark.parametrize(
    ("threads", "shape"), [(1, (8, 3, 400, 400)), (3, (8, 3, 400, 400)), (3, (999, 3, 99, 99))]
)
def test_ctrl_c_stops_a_forward(threads, shape):
    """In the middle of an image that takes many seconds, or of many small ones; the model still works."""
    code = (
        "import signal, torch; from seemore_fast import SeemoRe\n"
        # Tests that a shell runs in the background inherit an ignored Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"torch.set_num_threads({threads})\n"
        "m = SeemoRe(embedding_dim=128, num_layers=12, backend='cpu').eval()\n"
        "x = torch.rand(1, 3, 16, 16)\n"
        "with torch.no_grad():\n"
        "    want = m(x)\n"
        "    print('ready', flush=True)\n"
        f"    try: m(torch.zeros{shape})\n"
        "    except KeyboardInterrupt: print('stopped', torch.equal(m(x), want), flush=True)\n"
    )
    process = child(code)
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):  # it has begun, and is not done
            process.wait(1)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=5)
    finally:
        process.kill()
    assert out == "stopped True\n", error


# ---- bfloat16 --------------------------------------------------------------------------------------------


@needs_bf16
@pytest.mark.parametrize("dim", [36, 48, 50, 7])
@pytest.mark.parametrize("size", [(32, 48), (17, 353)], ids=str)
def test_bf16_errs_no_more_than_pytorch(dim, size):
    """RMS error against float64 at most twice that of autocast; all experts chosen, so none can flip."""
    config = {"num_layers": 4, "embedding_dim": dim, "topk": 3, "use_shuffle": dim % 2 == 0}
    model = small(**config)
    x = torch.rand(1, 3, *size)
    want = run(oracle_of(model), x.double())
    plain = golden.fill(reference.SeemoRe(**model.config), seed=11).eval()
    with torch.autocast("cpu", torch.bfloat16):
        allowed = golden.relative_l2(run(plain, x), want)
        got = run(model, x)
    assert got.dtype == torch.float32
    error = golden.relative_l2(got, want)
    assert error <= 2 * allowed
    assert error > 1e-4, "this was not computed in bfloat16"


@needs_bf16
def test_bf16_parameters_select_bf16():
    model = small(num_layers=2, topk=3).bfloat16()
    x = torch.rand(1, 3, 20, 24)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = run(model.float(), x)
    assert torch.equal(run(model.bfloat16(), x), under_autocast)
    assert run(model, x.bfloat16()).dtype == torch.bfloat16


@needs_bf16
@pytest.mark.parametrize("size", [(16, 16), (37, 53), (17, 401)], ids=str)
def test_bf16_gives_the_same_bits_for_any_number_of_threads(size):
    model = small(embedding_dim=20, num_layers=2, topk=2)
    x = torch.rand(2, 3, *size)
    with torch.autocast("cpu", torch.bfloat16):
        torch.set_num_threads(1)
        want = run(model, x)
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(run(model, x), want), f"{threads} threads"


@pytest.mark.parametrize("isa", [isa for isa in ISAS if not isa.endswith("bf16")])
def test_bf16_falls_back_with_a_warning(isa):
    model = small()
    x = torch.rand(1, 3, 16, 16)
    native.require().set_isa(isa)
    want = run(model, x)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.warns(UserWarning, match="no BF16 .*: computing in float32"),
    ):
        assert torch.equal(run(model, x), want)


@needs_bf16
def test_an_isa_without_bf16_is_heeded_after_packing():
    model = small()
    x = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        run(model, x)
        native.require().set_isa(ISAS[-2])
        with pytest.warns(UserWarning, match="no BF16"):
            assert golden.relative_l2(run(model, x), run(oracle_of(model), x.double())) <= 1e-5


def test_autocast_to_float16_is_computed_in_float32():
    model = small()
    x = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(run(model, x), run(model, x).float())
    assert golden.relative_l2(run(model, x), run(oracle_of(model), x.double())) <= 1e-5
