"""``seemore-fast export``: weights as a file for other runtimes, checked before it is there."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from seemore_fast.cli.options import check_outputs, messages
from seemore_fast.errors import SeemoreError


class Format(str, Enum):
    """Values of ``--format``."""

    onnx = "onnx"
    torch = "torch"
    aoti = "aoti"


class Precision(str, Enum):
    """Values of ``--dtype``."""

    fp32 = "fp32"
    fp16 = "fp16"


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="A file: .onnx or .pt2.")],
    model: Annotated[str, typer.Option(help="Bundled weights, or a .safetensors or .pth file.")] = "t-x4",
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="aoti: machine code for PyTorch without Python.",
            show_default="onnx for .onnx, torch for .pt2",
        ),
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="fp16: ONNX only.")] = Precision.fp32,
    opset: Annotated[int, typer.Option(min=1, max=1000, help="ONNX's operator set, 18 or later.")] = 20,
) -> None:
    """Write a network for other runtimes: ONNX, torch.export or AOTInductor; any batch and size.

    The file is run and held to float64 on pictures that take different experts before it appears.

    Exit status:
    0    the file is written and checked
    2    wrong arguments or weights, a package is missing, or the check failed; nothing is written
    130  interrupted; nothing is written
    """
    chosen = format_ or (Format.torch if output.suffix == ".pt2" else Format.onnx)
    suffix = ".onnx" if chosen is Format.onnx else ".pt2"
    if output.suffix != suffix:
        raise SeemoreError(f"{output}: the name of a file of format {chosen.value} must end in {suffix}")
    check_outputs(output, inputs=[model])
    if dtype is Precision.fp16 and chosen is not Format.onnx:
        raise SeemoreError("--dtype fp16 is for ONNX files only")

    from seemore_fast.model import load

    network = load(model)
    console = messages()
    checked = True
    with console.status(f"exporting {model}"):
        if chosen is Format.onnx:
            from seemore_fast.export.onnx_graph import export_onnx

            checked = export_onnx(network, output, opset=opset, fp16=dtype is Precision.fp16)
        elif chosen is Format.torch:
            from seemore_fast.export.torch_program import export_program

            export_program(network, output)
        else:
            from seemore_fast.export.torch_program import export_aoti

            export_aoti(network, output)
    said = "checked against float64" if checked else "not run: onnxruntime is not installed"
    console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {said}")
