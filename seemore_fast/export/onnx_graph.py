"""SeemoRe as an ONNX file: live routing, any batch, height and width, float32 or float16.

Live routing: each image of each batch takes its own experts, whatever the picture the graph was traced with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seemore_fast.errors import SeemoreError
from seemore_fast.export.check import check, example_and_sizes, plain, quiet
from seemore_fast.network import reference
from seemore_fast.system.atomic import atomic_path
from seemore_fast.system.optional import absent, need


def missing() -> str | None:
    """Why ONNX export is not available here; None if it is."""
    return absent("export", "onnx", "onnxscript")


def export_onnx(
    model: reference.SeemoRe, path: str | os.PathLike[str], *, opset: int = 20, fp16: bool = False
) -> bool:
    """Writes ``model`` as ONNX: ``lr`` (n, in_chans, h, w) in [0, 1] -> ``sr`` (n, in_chans, h s, w s).

    float32, or with ``fp16`` float16 from input to output, half the size, with the router and LayerNorm's
    statistics in float32.  Standard operators only; n >= 1, and h, w >= ``model.min_size`` (16 for T and B,
    4 for L), may differ from call to call.  All experts are computed and weighted, most of them by zero:
    that keeps the routing inside the graph, for 2 to 4% more arithmetic.  ``opset``: 18 or later; from 20 on
    GELU is one node.

    The file appears only after it passed its check: ONNX's own, and, where onnxruntime is installed, its
    output against float64 on pictures that take different experts.  Returns whether onnxruntime was there.

    Raises PackageError where packages are missing, SeemoreError where ``opset`` is not supported, the file
    cannot be written, or the check fails.
    """
    onnx = _onnx()
    latest = onnx.defs.onnx_opset_version()
    if not 18 <= opset <= latest:
        raise SeemoreError(f"opset must lie in 18..{latest} with the installed onnx, got {opset}")
    target = Path(path)
    if not target.parent.is_dir():
        raise SeemoreError(f"{target}: cannot be written (there is no folder {target.parent})")
    network = plain(model, torch.float16 if fp16 else torch.float32)
    try:
        with atomic_path(target) as temporary:
            _write(network, temporary, opset)
            onnx.checker.check_model(str(temporary), full_check=True)
            if run := _onnx_runtime(temporary):
                check(network, run, "ONNX export")
    except OSError as error:
        raise SeemoreError(f"{target}: cannot be written ({error.strerror})") from None
    return run is not None


def _onnx() -> Any:
    with need("ONNX export", "export"):
        import onnx
        import onnxscript  # noqa: F401  # what torch's exporter works with
    return onnx


def _write(network: reference.SeemoRe, path: Path, opset: int) -> None:
    onnx = _onnx()
    example, sizes = example_and_sizes(network)
    with quiet():
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
    assert program is not None  # as it is with dynamo
    found = program.model.opset_imports
    if found != {"": opset}:
        raise SeemoreError(
            f"opset {opset} is not supported by the installed exporter, which gave {dict(found)}"
        )
    _strip(program.model)
    # The exporter writes its newest, which runtimes that know the operator set may not.
    program.model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    program.save(str(path), external_data=False)


def _onnx_runtime(path: Path) -> Callable[[Tensor], Tensor] | None:
    """The file in ONNX Runtime, if that is installed."""
    try:
        import onnxruntime
    except ImportError:
        return None

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"lr": x.numpy()})[0])


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
