"""SeemoRe as a file for other runtimes: ONNX with live routing, any batch, height and width.

Live routing: each image of each batch takes its own experts, whatever the picture the graph was traced with.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import reference
from .atomic import atomic_path
from .errors import SeemoreError

TOLERANCE = 2e-5
"""Largest relative L2 difference between ONNX Runtime and PyTorch in float32 that `export_onnx` accepts."""


def missing() -> str | None:
    """Why ONNX export is not available here; None if it is."""
    absent = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)} (pip install 'seemore-fast[export]')" if absent else None


def export_onnx(model: reference.SeemoRe, path: str | os.PathLike[str], *, opset: int = 20) -> None:
    """Writes ``model`` as ONNX: ``lr`` (n, in_chans, h, w) in [0, 1] -> ``sr`` (n, in_chans, h s, w s).

    float32, standard operators only; n >= 1, and h, w >= ``model.min_size`` (16 for T and B, 4 for L), may
    differ from call to call.  All experts are computed and weighted, most of them by zero: that keeps the
    routing inside the graph, for 2 to 4% more arithmetic.  ``opset``: 18 or later; from 20 on GELU is one
    node.

    The file appears only after it passed its check: ONNX's own, and, where onnxruntime is installed, equal
    results to PyTorch's on a batch of pictures of another size than the traced one.

    Raises SeemoreError where packages are missing, ``opset`` is not supported, the file cannot be written, or
    the check fails.
    """
    if (why := missing()) is not None:
        raise SeemoreError(f"ONNX export: {why}")
    import onnx

    latest = onnx.defs.onnx_opset_version()
    if not 18 <= opset <= latest:
        raise SeemoreError(f"opset must lie in 18..{latest} with the installed onnx, got {opset}")
    network = _plain(model)
    target = Path(path)
    try:
        with atomic_path(target) as temporary:
            _write(network, temporary, opset)
            _check(network, temporary)
    except OSError as error:
        raise SeemoreError(f"{target}: cannot be written ({error.strerror})") from None


def _plain(model: reference.SeemoRe) -> reference.SeemoRe:
    """The reference network in float32 on the CPU: the drop-in chooses among backends, which is no graph."""
    with torch.device("meta"):
        network = reference.SeemoRe(**model.config)
    state = {name: value.detach().to("cpu", torch.float32) for name, value in model.state_dict().items()}
    network.load_state_dict(state, assign=True)
    network.mean = model.mean.detach().to("cpu", torch.float32)
    return network.eval().requires_grad_(False)


def _write(network: reference.SeemoRe, path: Path, opset: int) -> None:
    least = network.min_size
    # Sizes that are neither equal nor 1, or the exporter would take them for constants.
    example = _pictures(network, 2, least + 8, 2 * least + 12)
    sizes = {
        0: torch.export.Dim("n", min=1),
        2: torch.export.Dim("h", min=least),
        3: torch.export.Dim("w", min=least),
    }
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=(sizes,),
            opset_version=opset,
            input_names=["lr"],
            output_names=["sr"],
            verbose=False,
        )
    found = program.model.opset_imports
    if found != {"": opset}:
        raise SeemoreError(
            f"opset {opset} is not supported by the installed exporter, which gave {dict(found)}"
        )
    _strip(program.model)
    program.save(str(path), external_data=False)


def _strip(model: Any) -> None:
    """Removes what the exporter notes about its own work: half of the file, with paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _check(network: reference.SeemoRe, path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path), full_check=True)
    if importlib.util.find_spec("onnxruntime") is None:
        return
    import onnxruntime

    x = _pictures(network, 3, network.min_size + 3, network.min_size + 1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {"lr": x.numpy()})[0])
    with torch.inference_mode():
        want = network(x)
    error = ((got - want).norm() / want.norm()).item() if got.shape == want.shape else float("nan")
    if not error <= TOLERANCE:
        raise SeemoreError(f"ONNX export: the written file differs from PyTorch by {error:.1e} relative L2")


def _pictures(network: reference.SeemoRe, count: int, height: int, width: int) -> Tensor:
    """Different pictures, from dark to bright, so that they may well route differently."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, network.config["in_chans"], height, width, generator=generator)
    return noise * torch.linspace(1, 0.2, count)[:, None, None, None]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress and its warnings about packages that nothing here uses."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
