"""Options that several subcommands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Dtype(str, Enum):
    """Values of ``--dtype``."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


DtypeOption = Annotated[Dtype, typer.Option(help="Arithmetic; fp16 on a GPU only.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads.", show_default="as PyTorch: all cores")
]
