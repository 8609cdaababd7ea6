"""``seemore-fast serve``: pictures over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seemore_fast.cli.options import BackendOption, DeviceOption, Dtype, DtypeOption, ThreadsOption, messages
from seemore_fast.errors import SeemoreError


def command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Weights by name, or a file of them; repeatable, the first is the default.",
            show_default="t-x4 and the other bundled ones",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar="SEEMORE_TOKENS", help="A token a line, of which requests must bear one."
        ),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Page that may call it; repeatable.")
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
    queue: Annotated[
        int, typer.Option(min=1, max=10**6, help="Requests inside, of which one is at work; then 503.")
    ] = 20,
    per_client: Annotated[
        int | None,
        typer.Option(
            min=1, max=10**6, help="Of them, one token's or address's; then 429.", show_default="all"
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.fp32,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Serve pictures over HTTP: POST one to /upscale, get it enlarged; /docs tells the rest.

    Ctrl-C and SIGTERM end it once the pictures inside are finished.

    Exit status:
    2    wrong arguments or weights, the port is taken, or FastAPI is missing
    """
    import torch

    from seemore_fast.network import weights
    from seemore_fast.serve.app import Limits, service
    from seemore_fast.serve.run import run
    from seemore_fast.upscale.upscaler import Upscaler

    if threads is not None:
        torch.set_num_threads(threads)
    upscalers = {}
    for name in model or sorted(weights.names(), reverse=True):
        label = Path(name).name  # the folder is nobody's business
        if label in upscalers:
            raise SeemoreError(f"--model: two networks would be called {label!r}; rename a file")
        upscalers[label] = Upscaler(name, device, dtype.value, backend=backend)
        if foreign := upscalers[label].foreign:
            messages().print(f"seemore-fast: {label}: {foreign}")
    limits = Limits(
        int(max_upload * 1e6),
        int(max_megapixels * 1e6),
        int(max_output_megapixels * 1e6),
        queue,
        per_client or queue,
    )
    app = service(upscalers, limits, read_tokens(tokens), host, tuple(cors or ()))
    run(
        app, host, port, lambda: messages().print(f"seemore-fast: http://{host}:{port}/docs (Ctrl-C ends it)")
    )


def read_tokens(file: Path | None) -> tuple[str, ...]:
    """The tokens of a file, a line each.  Raises SeemoreError for one that cannot be read or has none."""
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SeemoreError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    tokens = tuple(line for line in lines if line)
    if not tokens:
        raise SeemoreError(f"{file}: no token in it; without --tokens nobody needs one")
    return tokens
