"""Every way to run a SeemoRe on this CPU that people would otherwise use, each at its best, and ours.

A contender's ``prepare`` does what is done once for a network and an image size (compiling, packing weights)
and gives the call that is measured: (1, C, H, W) float32 in, (1, C, sH, sW) float32 out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from seemore_fast.backends import choice, native
from seemore_fast.backends.precision import autocast
from seemore_fast.measure import bench
from seemore_fast.model import SeemoRe
from seemore_fast.system.optional import absent, need

Call = Callable[[], Tensor]

OURS = "seemore-fast"


@dataclass(frozen=True)
class Case:
    """What is measured: a network (float32, evaluation mode), its input, and the ONNX file made from it."""

    network: SeemoRe  # backend "reference"
    x: Tensor  # [1, C, H, W] float32
    onnx: Path | None  # None where the export is not available or failed

    @property
    def small(self) -> Tensor:
        """The smallest input the network takes: for what is done once whatever the size."""
        return self.x[..., : self.network.min_size, : self.network.min_size].contiguous()


@dataclass(frozen=True)
class Contender:
    """One line of the comparison; ``missing`` says why it is not available here, None if it is."""

    name: str
    dtype: str
    missing: Callable[[], str | None]
    prepare: Callable[[Case], Call]


def call_of(contender: str, model: str, size: tuple[int, int], onnx: str | None) -> Call:
    """For `memory.peak_bytes`.  Weights are packed and the network is compiled, but nothing has run at this
    size yet, except where running is compiling.
    """
    network = bench.network_for(model, "reference")
    case = Case(network, bench.picture(network.config["in_chans"], size), Path(onnx) if onnx else None)
    (found,) = [c for c in ALL if c.name == contender]
    return found.prepare(case)


def _ours(dtype: str, case: Case) -> Call:
    network = copy.deepcopy(case.network)
    network.backend = "cpu"
    call = partial(_forward, network, case.x, dtype)
    _forward(network, case.small, dtype)  # packs the weights
    return call


def _eager(memory_format: torch.memory_format, case: Case) -> Call:
    network = copy.deepcopy(case.network)
    network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's types leave it out
    _forward(network, case.small.contiguous(memory_format=memory_format))
    return partial(_forward, network, case.x.contiguous(memory_format=memory_format))


def _compiled(case: Case) -> Call:
    network = cast(nn.Module, torch.compile(case.network, fullgraph=True, dynamic=False))
    call = partial(_forward, network, case.x)
    call()  # compiles, for this size
    return call


def _onnxruntime(case: Case) -> Call:
    file = _file(case)
    with need("ONNX Runtime", "bench"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    session.run(None, {"lr": case.small.numpy()})
    image = case.x.numpy()
    return lambda: torch.from_numpy(session.run(None, {"lr": image})[0])


def _openvino(precision: str, case: Case) -> Call:
    file = _file(case)
    with need("OpenVINO", "bench"):
        import openvino

    core = openvino.Core()
    network = core.read_model(file)
    network.reshape({"lr": list(case.x.shape)})
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    image = case.x.numpy()
    # The request's own output buffer is lent out, as its users would: no copy.
    return lambda: torch.from_numpy(request.infer([image], share_inputs=True, share_outputs=True)[0])


def _forward(network: nn.Module, x: Tensor, dtype: str = "fp32") -> Tensor:
    with torch.inference_mode(), autocast("cpu", dtype):
        return network(x)


def _file(case: Case) -> Path:
    if case.onnx is None:
        raise RuntimeError("there is no ONNX file: its export is missing or failed")
    return case.onnx


def _no_engine(dtype: str) -> str | None:
    if (why := choice.missing("cpu")) is not None:
        return why
    if dtype == "bf16" and not native.has_bf16():
        return native.NO_BF16
    return None


def _not_installed(package: str) -> str | None:
    return absent("bench", package, "onnx", "onnxscript")


def _never_missing() -> None:
    return None


ALL = (
    Contender(f"{OURS} fp32", "fp32", partial(_no_engine, "fp32"), partial(_ours, "fp32")),
    Contender(f"{OURS} bf16", "bf16", partial(_no_engine, "bf16"), partial(_ours, "bf16")),
    Contender("PyTorch", "fp32", _never_missing, partial(_eager, torch.contiguous_format)),
    Contender("PyTorch NHWC", "fp32", _never_missing, partial(_eager, torch.channels_last)),
    Contender("torch.compile", "fp32", _never_missing, _compiled),
    Contender("ONNX Runtime", "fp32", partial(_not_installed, "onnxruntime"), _onnxruntime),
    Contender("OpenVINO f32", "fp32", partial(_not_installed, "openvino"), partial(_openvino, "f32")),
    Contender("OpenVINO bf16", "bf16", partial(_not_installed, "openvino"), partial(_openvino, "bf16")),
)
"""All of them, ours first."""
