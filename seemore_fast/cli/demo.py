"""``seemore-fast demo``: a page in the browser to try pictures on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from seemore_fast.cli.options import BackendOption, DeviceOption, Dtype, DtypeOption, ThreadsOption, messages
from seemore_fast.errors import SeemoreError


def command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Bundled weights, or a .safetensors or .pth file, to choose from on the page; repeatable.",
            show_default="all bundled weights",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, show_default="the first free one from 7860 on")
    ] = None,
    max_upload: Annotated[
        float, typer.Option(min=0.001, max=1e8, help="Larger files are refused; in MB.")
    ] = 20,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=1e8, help="Larger pictures are refused.")
    ] = 4,
    max_output_megapixels: Annotated[
        float, typer.Option(min=0.001, max=1e8, help="Larger results are refused.")
    ] = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.fp32,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Serve a page to try pictures on: upload, before and after behind a slider, download.

    Ctrl-C ends it. Only this machine can reach it unless --host says otherwise; there is no password.

    Exit status:
    2    wrong arguments or weights, the port is taken, or Gradio is missing
    130  ended by Ctrl-C
    """
    import torch

    from seemore_fast.demo.page import Limits, serving
    from seemore_fast.network import weights
    from seemore_fast.upscale.upscaler import Upscaler

    if threads is not None:
        torch.set_num_threads(threads)
    upscalers = {}
    for name in model or weights.names():
        label = Path(name).name  # the folder is nobody's business
        if label in upscalers:
            raise SeemoreError(f"--model: two networks would be called {label!r} on the page; rename a file")
        upscalers[label] = Upscaler(name, device, dtype.value, backend=backend)
        if foreign := upscalers[label].foreign:
            messages().print(f"seemore-fast: {label}: {foreign}")
    limits = Limits(int(max_upload * 1e6), int(max_megapixels * 1e6), int(max_output_megapixels * 1e6))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it, too, leaves no files behind
    with serving(upscalers, limits, host, port) as url:
        messages().print(f"seemore-fast: {url} (Ctrl-C ends it)")
        threading.Event().wait()
