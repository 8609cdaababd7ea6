"""The CUDA engine's self-check: planted faults are found, and what failed is not used."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from seemore_fast import SeemoRe
from seemore_fast.engines import cuda_engine, self_check
from seemore_fast.errors import BackendError, DeviceError
from tests.support import cudasim
from tests.support.on_cuda import watch_launches


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The simulator for a GPU, nothing verified yet; the launches' shapes."""
    cudasim.stand_in_for_a_gpu(monkeypatch)
    monkeypatch.delenv("SEEMORE_SELF_CHECK")
    monkeypatch.setattr(self_check, "verdicts", {})
    monkeypatch.setattr(self_check, "SIZE", (16, 20))  # for the simulator's time
    return watch_launches(monkeypatch)


def plant(monkeypatch: pytest.MonkeyPatch, fault) -> None:
    launch = cuda_engine.launch

    def wrong(native, x: Tensor, out: Tensor, workspace: Tensor, stream: int) -> None:
        launch(native, x, out, workspace, stream)
        fault(out)

    monkeypatch.setattr(cuda_engine, "launch", wrong)


def small(backend: str = "auto") -> SeemoRe:
    torch.manual_seed(0)
    return SeemoRe(scale=2, num_layers=1, embedding_dim=8, backend=backend).eval()


def run(model: SeemoRe) -> Tensor:
    with torch.no_grad():
        return model(torch.rand(1, 3, 17, 19, generator=torch.Generator().manual_seed(1)))


def test_once_for_a_kind_of_network(checked):
    model, other = small(), small()
    for network in (model, model, other):
        run(network)
    assert checked.count((1, 3, 16, 20)) == 1
    assert checked.count((1, 3, 17, 19)) == 3
    assert [verdict.why for verdict in self_check.verdicts.values()] == [None]
    model.half()
    run(model)
    assert checked.count((1, 3, 16, 20)) == 2, "another precision"


def leaks(out: Tensor) -> None:
    out[..., 0] *= 1 + 1e-3


FAULTS = {
    "a wrong border": leaks,
    "NaN": lambda out: out[..., 5, 5].fill_(torch.nan),
    "nothing written": lambda out: out.zero_(),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_fails_is_not_used(monkeypatch, caplog, name):
    want = run(small("reference"))
    plant(monkeypatch, FAULTS[name])
    model = small()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(run(model), want)
        assert torch.equal(run(model), want)
        assert torch.equal(run(small()), want), "nor by others of its kind"
    assert caplog.text.count("self-check failed: relative error") >= 1
    assert caplog.text.count("Please report this") == 1
    with pytest.raises(BackendError, match="the CUDA engine's self-check failed: relative error"):
        run(small("cuda"))


def test_a_launch_that_fails(monkeypatch):
    want = run(small("reference"))

    def fail(*arguments) -> None:
        raise BackendError("CUDA: starting the kernel head: unspecified launch failure")

    monkeypatch.setattr(cuda_engine, "launch", fail)
    assert torch.equal(run(small()), want)
    with pytest.raises(BackendError, match="unspecified launch failure"):
        run(small("cuda"))
    assert not self_check.verdicts, "it may have been a passing one"


def test_a_passing_error_of_the_driver_is_not_held_against_the_engine(monkeypatch, caplog):
    launch, tries = cuda_engine.launch, []

    def fail_once(*arguments) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise DeviceError("CUDA: starting the kernel head: out of memory")
        launch(*arguments)

    monkeypatch.setattr(cuda_engine, "launch", fail_once)
    model = small()
    want = run(small("reference"))
    assert torch.equal(run(model), want), "by PyTorch"
    assert "backend cuda cannot run for now: CUDA: starting the kernel head: out of memory" in caplog.text
    got = run(model)
    assert not torch.equal(got, want)
    assert torch.allclose(got, want, atol=1e-4)
    assert len(tries) == 3, "the check, and the call"


def test_it_can_be_left_out(monkeypatch, checked):
    monkeypatch.setenv("SEEMORE_SELF_CHECK", "0")
    run(small())
    assert checked == [(1, 3, 17, 19)]
