"""``seemore-fast bench``: backends against each other on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import SeemoreError
from .options import Dtype, DtypeOption, ThreadsOption

if TYPE_CHECKING:
    from ..bench import Result


def command(
    model: Annotated[
        str, typer.Option(help="Bundled weights, a weights file, or t|b|l-x2|x3|x4 with random weights.")
    ] = "t-x4",
    size: Annotated[str, typer.Option(help="Input, WIDTHxHEIGHT.")] = "320x180",
    dtype: DtypeOption = Dtype.fp32,
    backends: Annotated[str, typer.Option(help="In which order they take turns.")] = "reference,cpu",
    runs: Annotated[int, typer.Option(min=1, help="Timed calls of each.")] = 10,
    threads: ThreadsOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write settings, results and environment here.")
    ] = None,
) -> None:
    """Time a network on each backend and check its output against float64.

    Exit status:
    0    every backend's error is within its gate
    1    some backend's is not
    2    wrong arguments or weights
    130  interrupted
    """
    import torch

    from .. import bench

    if threads is not None:
        torch.set_num_threads(threads)
    names = [name.strip() for name in backends.split(",") if name.strip()]
    results = bench.run(model, bench.parse_size(size), dtype.value, names, runs)

    threads = torch.get_num_threads()
    title = f"{model}, input {size}, {dtype.value}, {threads} threads, {runs} runs in turn"
    Console().print(_table(title, results))
    if json_file is not None:
        settings = {"model": model, "size": size, "dtype": dtype.value, "runs": runs, "threads": threads}
        _write_json(json_file, bench.as_json(settings, results))
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _table(title: str, results: list[Result]) -> Table:
    columns = "backend", "median ms", "min..max", "speed-up", "rel L2", "max error", "check"
    title = f"{title}; gate: rel L2 <= {results[0].gate:.1e}"
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    for r in results:
        table.add_row(
            r.backend,
            _ms(r.median_ms),
            f"{_ms(r.min_ms)}..{_ms(r.max_ms)}",
            "" if r.speedup is None else f"{r.speedup:.2f}x",
            f"{r.rel_l2:.1e}",
            f"{r.max_abs:.1e}",
            "ok" if r.passed else "FAILED",
        )
    return table


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _write_json(path: Path, data: dict[str, object]) -> None:
    from ..atomic import atomic_path

    try:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise SeemoreError(f"{path}: cannot be written ({error.strerror})") from None
