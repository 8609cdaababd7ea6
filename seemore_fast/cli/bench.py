"""``seemore-fast bench``: backends, or other software, against each other on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..atomic import write_text
from .options import Dtype, DtypeOption, ThreadsOption

if TYPE_CHECKING:
    from ..bench import Result
    from ..peers import Comparison, PeerResult


def command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Bundled weights, a weights file, or t|b|l-x2|x3|x4 with random weights; repeatable.",
            show_default="t-x4",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(help="Input, WIDTHxHEIGHT; repeatable.", show_default="what gives 1280x720"),
    ] = None,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Against PyTorch, torch.compile, ONNX Runtime and OpenVINO on the CPU."),
    ] = False,
    dtype: DtypeOption = Dtype.fp32,
    backends: Annotated[str, typer.Option(help="In which order they take turns.")] = "reference,cpu",
    runs: Annotated[int, typer.Option(min=1, help="Timed calls of each.")] = 10,
    threads: ThreadsOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write settings, results and environment here.")
    ] = None,
) -> None:
    """Time networks on each backend and check their output against float64.

    With --peers, other software takes part, in fp32 and bf16; --dtype and --backends have no say then.

    Exit status:
    0    every backend's error (with --peers: ours) is within its gate
    1    some backend's is not
    2    wrong arguments or weights
    130  interrupted
    """
    import torch

    from .. import bench

    if threads is not None:
        torch.set_num_threads(threads)
    settings: dict[str, Any] = {"runs": runs, "threads": torch.get_num_threads()}
    names = [name.strip() for name in backends.split(",") if name.strip()]
    if peers:
        from ..peers import versions

        settings["peers"] = versions()
    else:
        settings["dtype"] = dtype.value
    measured: list[dict[str, Any]] = []
    passed = True
    for name, input_size in _cases(model or ["t-x4"], size or []):
        what = f"{name}, input {input_size[0]}x{input_size[1]}"
        how = f"{settings['threads']} threads, {runs} runs in turn"
        if peers:
            comparison = _compare(name, input_size, runs)
            Console().print(_peers_table(f"{what}, {how}", comparison))
            passed &= comparison.passed
            measured.append(asdict(comparison))
        else:
            results = bench.run(name, input_size, dtype.value, names, runs)
            Console().print(_table(f"{what}, {dtype.value}, {how}", results))
            passed &= all(result.passed for result in results)
            measured.append({"model": name, "size": input_size, "results": [asdict(r) for r in results]})
    if json_file is not None:
        _write_json(json_file, bench.as_json(settings, measured))
    if not passed:
        raise typer.Exit(1)


def _cases(models: list[str], sizes: list[str]) -> list[tuple[str, tuple[int, int]]]:
    """Each model at each size; all arguments are read before anything is measured."""
    from .. import bench

    scales = {model: bench.network_for(model, "reference").scale for model in models}
    known = [bench.parse_size(size) for size in sizes]
    return [(model, size) for model, scale in scales.items() for size in known or [bench.default_size(scale)]]


def _compare(model: str, size: tuple[int, int], runs: int) -> Comparison:
    from .. import peers

    with Console(stderr=True).status("") as status:
        return peers.run(model, size, runs, lambda doing: status.update(f"{model}: {doing}"))


def _table(title: str, results: list[Result]) -> Table:
    columns = "backend", "median ms", "min..max", "speed-up", "rel L2", "max error", "check"
    table = _empty_table(f"{title}; gate: rel L2 <= {results[0].gate:.1e}", columns)
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


def _peers_table(title: str, comparison: Comparison) -> Table:
    columns = "", "ms", "min..max", "ours by", "peak", "B/px", "rel L2", "check"
    table = _empty_table(title, columns)
    for result in comparison.results:
        table.add_row(result.name, *_peer_cells(result))
    notes = [f"{r.name}: {why}" for r in comparison.results if (why := r.error or r.memory_error)]
    if comparison.peak_gflops:
        notes.append(f"peak: {comparison.peak_gflops:.0f} GFLOP/s; network: {comparison.gmacs:.1f} GMAC")
    table.caption = Text("\n".join(notes))
    table.caption_justify = "left"
    return table


def _peer_cells(r: PeerResult) -> list[str]:
    if r.error is not None:
        return ["none"]
    return [
        _ms(r.median_ms),
        f"{_ms(r.min_ms)}..{_ms(r.max_ms)}",
        "" if r.ratio is None else f"{r.ratio:.2f}x",
        "" if r.floor_share is None else f"{r.floor_share:.0%}",
        "?" if r.bytes_per_pixel is None else f"{r.bytes_per_pixel:.0f}",
        f"{r.rel_l2:.1e}",
        "ok" if r.passed else f"> {r.gate:.1e}",
    ]


def _empty_table(title: str, columns: tuple[str, ...]) -> Table:
    return Table(
        *columns, title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _write_json(path: Path, data: dict[str, object]) -> None:
    write_text(path, json.dumps(data, indent=2) + "\n")
