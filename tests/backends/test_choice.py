"""Choice of the backend: per model, globally, by the environment; refusals that say why."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

from seemore_fast import SeemoRe
from seemore_fast.backends import choice, native
from seemore_fast.errors import BackendError

needs_native = pytest.mark.skipif(native.lib is None, reason=f"no native library: {native.error}")


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SEEMORE_BACKEND", raising=False)
    monkeypatch.setattr(choice, "_default", None)
    yield
    if native.lib:
        native.lib.set_isa(None)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extension module had not been built."""
    monkeypatch.setattr(native, "lib", None)
    monkeypatch.setattr(native, "error", ImportError("cannot open shared object file"))


class Ran:
    """Which implementation a model's forward takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options):
        self.model = SeemoRe(scale=2, num_layers=1, embedding_dim=8, **options).eval()
        forward, self.calls = self.model.engine.forward, 0

        def counted(*arguments):
            self.calls += 1
            return forward(*arguments)

        monkeypatch.setattr(self.model.engine, "forward", counted)

    def __call__(self) -> str:
        before = self.calls
        with torch.no_grad():
            self.model(torch.rand(1, 3, 16, 16))
        return "cpu" if self.calls > before else "reference"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    return Ran(monkeypatch)


@needs_native
def test_auto_is_the_engine(ran):
    assert ran.model.backend == "auto"
    assert ran() == "cpu"


@needs_native
def test_a_models_own_choice(ran, monkeypatch):
    ran.model.backend = "reference"
    assert ran() == "reference"
    ran.model.backend = "cpu"
    assert ran() == "cpu"
    assert Ran(monkeypatch, backend="reference")() == "reference"


@needs_native
def test_the_environment(ran, monkeypatch):
    monkeypatch.setenv("SEEMORE_BACKEND", "reference")
    assert ran() == "reference"
    monkeypatch.setenv("SEEMORE_BACKEND", "cpu")
    assert ran() == "cpu"
    monkeypatch.setenv("SEEMORE_BACKEND", "")
    assert ran() == "cpu"


@needs_native
def test_model_before_default_before_environment(ran, monkeypatch):
    monkeypatch.setenv("SEEMORE_BACKEND", "reference")
    choice.set_default("cpu")
    assert ran() == "cpu"
    ran.model.backend = "reference"
    assert ran() == "reference"
    choice.set_default("auto")
    ran.model.backend = "auto"
    assert ran() == "cpu", "a default of auto hides the environment, too"


def test_unknown_names(monkeypatch):
    says = r"unknown backend 'onednn'; there are auto, reference, cpu, cuda, triton"
    with pytest.raises(BackendError, match=says):
        SeemoRe(backend="onednn")
    with pytest.raises(BackendError, match=says):
        choice.set_default("onednn")
    model = SeemoRe(num_layers=0)
    with pytest.raises(BackendError, match=says):
        model.backend = "onednn"
    assert model.backend == "auto"
    monkeypatch.setenv("SEEMORE_BACKEND", "onednn")
    with pytest.raises(BackendError, match=says), torch.no_grad():
        model(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_backends_that_are_not_there(name):
    reason = choice.missing(name)
    if reason is None:
        pytest.skip(f"{name} is available here")
    with pytest.raises(BackendError, match=re.escape(f"backend '{name}' is not available: {reason}")):
        SeemoRe(backend=name)


def test_without_the_library_auto_is_the_reference(no_library):
    assert choice.resolve("auto", "cpu") == "reference"
    model = SeemoRe(scale=2, num_layers=1, embedding_dim=8).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 16, 16)).shape == (1, 3, 32, 32)


def test_without_the_library_auto_says_once_why_it_is_slow(no_library, caplog):
    choice._say_once.cache_clear()
    for _ in range(2):
        choice.resolve("auto", "cpu")
    (record,) = caplog.records
    assert record.message.startswith("plain PyTorch computes, which is slower: the native library")


def test_without_the_library_cpu_is_refused_with_the_reason(no_library):
    with pytest.raises(BackendError, match=r"'cpu' is not available: .*cannot open shared object file"):
        SeemoRe(backend="cpu")


@needs_native
def test_without_a_usable_isa_cpu_is_refused_with_the_reason(ran, monkeypatch):
    monkeypatch.setenv("SEEMORE_ISA", "v9")
    native.require().set_isa(None)
    with pytest.raises(BackendError, match="'cpu' is not available: SEEMORE_ISA 'v9' is unknown"):
        SeemoRe(backend="cpu")
    assert ran() == "reference"
    monkeypatch.delenv("SEEMORE_ISA")
    native.require().set_isa(None)
    assert ran() == "cpu"


def way(requested: str, device: str, *, needs_grad: bool = False) -> tuple[str, str]:
    """Of a network on such a device, with all backends there."""
    x = OnDevice(device)
    with torch.set_grad_enabled(needs_grad):
        return choice.choose_way(requested, x, x, lambda: needs_grad)


class OnDevice(torch.Tensor):
    """Says that it is there, whether there is one or not."""

    def __new__(cls, device: str):
        return torch.zeros(1, 3, 16, 16).as_subclass(cls)

    def __init__(self, device: str):
        self.kind = torch.device(device)

    device = property(lambda self: self.kind)


@pytest.fixture
def all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "missing", lambda name: None)
    monkeypatch.setattr(choice, "_recorded", lambda x: False)


@pytest.mark.parametrize(
    ("requested", "device", "inference", "training"),
    [
        ("auto", "cpu", ("engine", "cpu"), ("operators", "cpu")),
        ("cpu", "cpu", ("engine", "cpu"), ("operators", "cpu")),
        ("reference", "cpu", ("plain", "reference"), ("plain", "reference")),
        ("auto", "cuda", ("engine", "cuda"), ("operators", "triton")),
        ("cuda", "cuda", ("engine", "cuda"), ("operators", "triton")),
        ("triton", "cuda", ("operators", "triton"), ("operators", "triton")),
        ("reference", "cuda", ("plain", "reference"), ("plain", "reference")),
        ("auto", "meta", ("plain", "reference"), ("plain", "reference")),
        ("reference", "meta", ("plain", "reference"), ("plain", "reference")),
    ],
)
def test_what_runs_where(requested, device, inference, training, all_there):
    assert way(requested, device) == inference
    assert way(requested, device, needs_grad=True) == training


def test_what_serves_inference():
    assert choice.resolve("reference", "meta") == "reference"
    assert choice.resolve("auto", "meta") == "reference"


@pytest.mark.parametrize("needs_grad", [False, True])
def test_a_backend_computes_on_its_own_device_only(needs_grad, all_there):
    for name, device, home in (("cpu", "cuda", "cpu"), ("triton", "cpu", "cuda"), ("cuda", "cpu", "cuda")):
        with pytest.raises(BackendError, match=f"'{name}' computes on {home}, but the input is on {device}"):
            way(name, device, needs_grad=needs_grad)


def test_what_is_missing_serves_nobody(all_there, monkeypatch):
    monkeypatch.setattr(choice, "missing", lambda name: "it is not there")
    for device in ("cpu", "cuda"):
        assert way("auto", device) == way("auto", device, needs_grad=True) == ("plain", "reference")


@needs_native
@pytest.mark.parametrize(
    "config", [{"recursive": 0}, {"global_kernel_size": 257}, {"num_experts": 65, "topk": 1}], ids=str
)
def test_beyond_the_engines_limits(config, monkeypatch):
    """The class accepts these: auto runs them on the reference, cpu refuses, naming the argument."""
    config = {"scale": 2, "num_layers": 1, "embedding_dim": 4, **config}
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert SeemoRe(**config).eval()(x).shape == (1, 3, 32, 32)
        with pytest.raises(BackendError, match=r"\w+ must lie in .* for the native engine, got \d+"):
            SeemoRe(**config, backend="cpu").eval()(x)
        monkeypatch.setenv("SEEMORE_BACKEND", "cpu")
        with pytest.raises(BackendError, match="for the native engine"):
            SeemoRe(**config).eval()(x)


def test_a_gpu_without_kernels_is_said_once(caplog):
    class Library:
        cuda_devices = staticmethod(lambda: 1)
        cuda_capability = staticmethod(lambda device: 35)

    why = "there are no kernels for compute capability 3.5, and NVRTC is not found"
    choice._say_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("WARNING"):
        patch.setattr(native, "lib", Library)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(choice.cuda_programs, "obstacle", lambda capability: why)
        assert [choice.missing("cuda") for _ in range(3)] == [why] * 3
    assert caplog.text.count(f"the CUDA engine cannot run on this GPU: {why}") == 1
