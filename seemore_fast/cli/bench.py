"""``seemore-fast bench``: backends, or other software, against each other on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from seemore_fast.cli.options import Dtype, DtypeOption, ThreadsOption, check_outputs
from seemore_fast.errors import SeemoreError
from seemore_fast.system.atomic import write_text
from seemore_fast.system.terminal import Screen

if TYPE_CHECKING:
    from seemore_fast.measure.peers.comparison import Comparison, PeerResult
    from seemore_fast.measure.peers.steps import Steps

Sized = tuple[str, tuple[int, int]]
"""A model and the size of its input (W, H)."""

Measured = tuple[Table, bool, dict[str, Any]]
"""What is shown of one case, whether its errors are within their gates, and its figures for JSON."""


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
    train: Annotated[
        bool, typer.Option("--train", help="A training step, against PyTorch and torch.compile on the CPU.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=10**6, help="With --train: patches per step.")] = 8,
    patch: Annotated[
        int, typer.Option(min=1, max=10**6, help="With --train: side of an LR patch in pixels.")
    ] = 32,
    dtype: DtypeOption = Dtype.fp32,
    backends: Annotated[str, typer.Option(help="In which order they take turns.")] = "reference,cpu",
    runs: Annotated[int, typer.Option(min=1, max=10**6, help="Timed calls of each.")] = 10,
    threads: ThreadsOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write settings, results and environment here.")
    ] = None,
) -> None:
    """Time networks on each backend and check their output against float64.

    With --peers, other software takes part, in fp32 and bf16; --dtype and --backends have no say then.
    With --train, --size and --backends have none.

    Exit status:
    0    every backend's error (with --peers and --train: ours) is within its gate
    1    some backend's is not
    2    wrong arguments or weights
    130  interrupted
    """
    import torch

    from seemore_fast.measure import bench

    if peers and train:
        raise SeemoreError("--peers and --train are two comparisons: choose one")
    check_outputs(json_file, inputs=model or [])
    if threads is not None:
        torch.set_num_threads(threads)
    settings: dict[str, Any] = {"runs": runs, "threads": torch.get_num_threads()}
    models = model or ["t-x4"]
    if peers:
        from seemore_fast.measure.peers.comparison import versions

        settings["peers"] = versions()
        cases = _against_peers(_cases(models, size or []), runs)
    elif train:
        settings |= {"dtype": dtype.value, "batch": batch, "patch": patch}
        cases = _steps(models, batch, patch, dtype.value, runs)
    else:
        settings["dtype"] = dtype.value
        names = [name.strip() for name in backends.split(",") if name.strip()]
        cases = _backends(_cases(models, size or []), dtype.value, names, runs)
    how = f"{settings['threads']} threads, {runs} runs in turn"
    measured, passed = [], True
    for table, case_passed, data in cases:
        table.title = f"{table.title}, {how}"
        Screen().print(table)
        passed &= case_passed
        measured.append(data)
    if json_file is not None:
        write_text(json_file, json.dumps(bench.as_json(settings, measured), indent=2) + "\n")
    if not passed:
        raise typer.Exit(1)


def _cases(models: list[str], sizes: list[str]) -> list[Sized]:
    """Each model at each size; all arguments are read before anything is measured."""
    from seemore_fast.measure import bench

    scales = {model: bench.network_for(model, "reference").scale for model in models}
    known = [bench.parse_size(size) for size in sizes]
    return [(model, size) for model, scale in scales.items() for size in known or [bench.default_size(scale)]]


def _backends(cases: list[Sized], dtype: str, names: list[str], runs: int) -> Iterator[Measured]:
    from seemore_fast.measure import bench

    for model, size in cases:
        results = bench.run(model, size, dtype, names, runs)
        columns = "backend", "median ms", "min..max", "speed-up", "rel L2", "max error", "check"
        table = _empty_table(f"{_what(model, size)}, {dtype}, gate {results[0].gate:.1e}", columns)
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
        data = {"model": model, "size": size, "results": [asdict(r) for r in results]}
        yield table, all(r.passed for r in results), data


def _against_peers(cases: list[Sized], runs: int) -> Iterator[Measured]:
    from seemore_fast.measure.peers import comparison

    for model, size in cases:
        with _reports(model) as report:
            found = comparison.run(model, size, runs, report)
        yield _peers_table(_what(model, size), found), found.passed, asdict(found)


def _steps(models: list[str], batch: int, patch: int, dtype: str, runs: int) -> Iterator[Measured]:
    from seemore_fast.measure.peers import steps

    for model in models:
        with _reports(model) as report:
            found = steps.run(model, batch, patch, dtype, runs, report=report)
        columns = "", "ms", "min..max", "fwd", "bwd", "ours by", "peak", "MB", "rel L2"
        gate = found.results[0].gate
        what = f"training {model}, {batch} x {patch}x{patch}, {dtype}, gate {gate:.1e}"
        table = _empty_table(what, columns)
        for r in found.results:
            table.add_row(
                r.name,
                _ms(r.median_ms),
                f"{_ms(r.min_ms)}..{_ms(r.max_ms)}",
                _ms(r.forward_ms),
                _ms(r.backward_ms),
                "" if r.ratio is None else f"{r.ratio:.2f}x",
                "" if r.floor_share is None else f"{r.floor_share:.0%}",
                "?" if r.peak_bytes is None else f"{r.peak_bytes / 1e6:.0f}",
                f"{r.rel_l2:.1e}{'' if r.passed else ' FAILED'}",
            )
        _add_notes(table, [], found)
        yield table, found.passed, asdict(found)


@contextmanager
def _reports(model: str) -> Iterator[Callable[[str], None]]:
    """Gives what shows on stderr what is being done with ``model``, while this lasts."""
    with Screen(stderr=True).status("") as status:
        yield lambda doing: status.update(f"{model}: {doing}")


def _what(model: str, size: tuple[int, int]) -> str:
    return f"{model}, input {size[0]}x{size[1]}"


def _peers_table(title: str, comparison: Comparison) -> Table:
    columns = "", "ms", "min..max", "ours by", "peak", "B/px", "rel L2", "check"
    table = _empty_table(title, columns)
    for result in comparison.results:
        table.add_row(result.name, *_peer_cells(result))
    notes = [f"{r.name}: {why}" for r in comparison.results if (why := r.error or r.memory_error)]
    _add_notes(table, notes, comparison)
    return table


def _add_notes(table: Table, notes: list[str], measured: Comparison | Steps) -> None:
    """Below the table, and what its column of shares of the peak goes by."""
    if measured.peak_gflops:
        notes = [*notes, f"peak: {measured.peak_gflops:.0f} GFLOP/s; work: {measured.gmacs:.1f} GMAC"]
    table.caption = Text("\n".join(notes))
    table.caption_justify = "left"


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
