"""Every launch beside the simulator's, which here stands for the GPU, too; faults are planted in memory."""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor

from benchmarks.contact import launches, smoke
from benchmarks.contact.bare import Bare
from seemore_fast.engines import cuda_engine
from tests.support import cudasim


@pytest.fixture(scope="module")
def simulator():
    lib = cudasim.library()
    with cudasim.pretended(*launches.PRETENDED):
        lib.configure(seed=2, check=False)
        yield lib


@dataclass
class Device:
    """As `launches.Stages`: what the launches of a device have left; an exception is raised."""

    parts: list[launches.Part]
    found: list[dict[str, Tensor] | Exception]

    def after(self, number: int) -> dict[str, Tensor]:
        found = self.found[number - 1]
        if isinstance(found, Exception):
            raise found
        return found


def device(lib: ModuleType, precision: str) -> Device:
    stages = launches.Stages(lib, precision, "cpu")
    return Device(stages.parts, [stages.after(number + 1) for number in range(len(launches.KERNELS))])


@pytest.fixture(scope="module")
def simulated(simulator) -> Device:
    return device(simulator, "fp16")


@pytest.fixture
def gpu(simulated) -> Device:
    """One whose memory a test may change."""
    return copy.deepcopy(simulated)


def compared(gpu: Device, precision: str = "fp16") -> list[launches.Row]:
    return list(launches.compare(gpu, precision, launches.load(precision)))


def holds(found: list[launches.Row], precision: str) -> None:
    assert [row["kernel"] for row in found] == list(launches.KERNELS)
    for row in found:
        assert row["passed"], launches.tell(row)
        assert row["error"] <= launches.GATES[precision] / 10, "roundings of compilers alone"
        assert "other_size" not in row


def test_the_files_are_what_the_simulator_computes(gpu):
    """`python -m benchmarks.contact.launches write` stores others, after kernels have changed."""
    holds(compared(gpu), "fp16")


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_other_files(simulator, precision):
    holds(compared(device(simulator, precision), precision), precision)


@pytest.mark.parametrize(
    ("launch", "part", "place", "fault"),
    [
        (5, "stream 1", (40 * (33 * 3 + 7) + 9), 100.0),
        (4, "stream 0", 0, torch.nan),
        (4, "skip", 40 * 33 * 17 - 1, 100.0),  # which mix_ffn must leave alone
    ],
)
def test_a_wrong_value_names_its_launch(gpu, launch, part, place, fault):
    for values in gpu.found[launch - 1 :]:
        values[part][place] = fault
    found = compared(gpu)
    assert [row["passed"] for row in found].index(False) == launch - 1
    wrong = found[launch - 1]
    assert (wrong["kernel"], wrong["part"]) == (launches.KERNELS[launch - 1], part)
    pixel = place // 40
    where = f"row {pixel // 33}, column {pixel % 33}, channel {place % 40}: {fault:.6g} for"
    assert f"1 of {40 * 17 * 33} values, the first at {where}" in wrong["where"]
    assert "WRONG" in launches.tell(wrong)


def test_a_launch_that_fails_is_one_row(gpu):
    gpu.found[1] = RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
    found = compared(gpu)
    assert [row["passed"] for row in found] == [True, False, *[True] * 6]
    assert launches.tell(found[1]).endswith("FAILED: CUDA error: an illegal memory access was encountered")


def test_another_plan_is_said(gpu):
    """A GPU with other multiprocessors may take other tiles, which have other partial sums of logits."""
    gpu.parts = [(name, at, size - 16 * (name == "partial")) for name, at, size in gpu.parts]
    for values in gpu.found:
        values["partial"] = values["partial"][4:]
    assert all(row["passed"] and row["other_size"] == ["partial"] for row in compared(gpu))


def test_fewer_launches_than_all(simulator):
    """What the engine is told of how far to go; and its parts cover the workspace."""
    bare = Bare(simulator, launches.network(1), "fp16", "cpu")
    x = launches.picture(*launches.SIZE)
    whole, _ = bare.run(x, poison=True)
    number = len(launches.KERNELS)
    assert whole.isfinite().all()
    assert torch.equal(bare.run(x, number, poison=True)[0], whole)
    assert bare.run(x, number - 1, poison=True)[0].isnan().all()
    parts = bare.native.parts(1, *launches.SIZE)
    assert parts[0][1] == 0
    assert all(b[1] == (a[1] + a[2] + 255) // 256 * 256 for a, b in itertools.pairwise(parts))
    assert parts[-1][1] + parts[-1][2] <= bare.native.workspace(1, *launches.SIZE)


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        (0, "fp32"),
        (1, "bf16"),
        *(
            pytest.param(layers, precision, marks=pytest.mark.full)
            for layers, precision in itertools.product((0, 1), cuda_engine.PRECISIONS)
            if (layers, precision) not in ((0, "fp32"), (1, "bf16"))
        ),
    ],
)
def test_smoke(simulator, layers, precision, capsys):
    assert smoke.run(simulator, layers, precision, "cpu")
    text = capsys.readouterr().out
    assert re.fullmatch(
        rf"{precision}, {layers} layers: packing\nlaunching\nrelative error .*, within .*\n", text
    )


def test_smoke_of_what_is_wrong(simulator, monkeypatch, capsys):
    right, workspace = Bare(simulator, smoke.network(0), "fp16", "cpu").run(smoke.picture(*smoke.SIZE))
    for wrong in (right * 1.05, right * torch.nan):
        monkeypatch.setattr(Bare, "run", lambda bare, x, wrong=wrong: (wrong, workspace))
        assert not smoke.run(simulator, 0, "fp16", "cpu")
        assert "ABOVE 1e-02" in capsys.readouterr().out
