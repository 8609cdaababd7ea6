"""``seemore-fast eval``: PSNR and SSIM on test sets, as a table and as files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from seemore_fast.cli.options import (
    BackendOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    EnsembleOption,
    ThreadsOption,
    check_outputs,
    messages,
    prepare_folder,
    progress_bar,
)
from seemore_fast.errors import SeemoreError
from seemore_fast.system.atomic import write_text
from seemore_fast.system.terminal import Screen

if TYPE_CHECKING:
    import torch

    from seemore_fast.data.pairs import Pair
    from seemore_fast.evaluate import Plan, SetScores


def command(
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    opt: Annotated[
        Path | None, typer.Option("-opt", "--opt", help="Option file in BasicSR's layout.")
    ] = None,
    force_yml: Annotated[
        list[str] | None, typer.Option("--force_yml", help="Change the file: val:save_img=true; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Without -opt: bundled weights, or a .safetensors or .pth file.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="HR_DIR LR_DIR", help="Without -opt: a test set; repeatable."),
    ] = None,
    filename_tmpl: Annotated[str, typer.Option(help="With --data: an LR file's name from the HR's.")] = "{}",
    save_images: Annotated[bool, typer.Option("--save-images", help="Keep the network's pictures.")] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Pictures go to <here>/<name>/visualization/<set>.")
    ] = Path("results"),
    ensemble: EnsembleOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.fp32,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Every picture's figures.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Every picture's figures, settings and environment.")
    ] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="The means, as a table.")] = None,
) -> None:
    """Measure a network on test sets: seemore-fast eval -opt FILE, or --model WEIGHTS --data HR_DIR LR_DIR.

    Exit status:
    0    every picture was measured
    2    wrong arguments, options, weights or pictures; no table and no file but finished pictures
    130  interrupted
    """
    import torch

    from seemore_fast import evaluate
    from seemore_fast.backends.devices import pick_device
    from seemore_fast.backends.precision import autocast

    more = more or []
    _check_arguments(opt, force_yml, more, model, data)
    reports = csv_file, json_file, markdown_file
    used: list[str | Path | None] = [opt, model]
    check_outputs(*reports, inputs=used)
    if threads is not None:
        torch.set_num_threads(threads)
    if opt is not None:
        from seemore_fast.options import schema

        read = schema.load(opt, [*(force_yml or []), *more])
        where = pick_device("cpu" if device == "auto" and read.num_gpu == 0 else device)
        precision = autocast(where.type, dtype.value)
        used += [read.path.pretrain_network_g, *(test.meta_info_file for test in read.datasets.tests)]
        plan = evaluate.from_options(read, output, str(where), backend, save_images)
    else:
        from seemore_fast.model import load

        assert model is not None  # it has been checked, as data has
        assert data is not None
        where = pick_device(device)
        precision = autocast(where.type, dtype.value)
        network = load(model, device=where, backend=backend)
        folders = [(gt, Path(lq)) for gt, lq in zip(data, more, strict=True)]
        plan = evaluate.from_folders(network, Path(model).stem, folders, output, filename_tmpl, save_images)
    plan = replace(plan, ensemble=ensemble)
    used += [path for pairs in plan.sets.values() for pair in pairs for path in (pair.gt, pair.lq)]
    check_outputs(*reports, inputs=used)
    if plan.images is not None:
        for name in plan.sets:
            prepare_folder(plan.images / name)

    console = messages()
    with progress_bar(console) as bar:
        task = bar.add_task("", total=sum(map(len, plan.sets.values())))
        done = itertools.count()

        def tell(set_name: str, pair: Pair) -> None:
            bar.update(task, completed=next(done), description=f"{set_name} {pair.name}")

        scores = evaluate.run(plan, precision, tell)

    settings = _settings(plan, where, dtype.value)
    screen = Screen(highlight=False)
    screen.print(_title(settings), markup=False, soft_wrap=True)
    for scored in scores:
        screen.print(_table(scored, settings))
    if csv_file is not None:
        write_text(csv_file, _as_csv(scores))
    if json_file is not None:
        write_text(json_file, _as_json(scores, settings))
    if markdown_file is not None:
        write_text(markdown_file, _as_markdown(scores, settings))
    if plan.images is not None:
        console.print(f"pictures are in {plan.images}")


def _check_arguments(
    opt: Path | None,
    force_yml: list[str] | None,
    more: list[str],
    model: str | None,
    data: list[Path] | None,
) -> None:
    """``more`` is what follows an option's first value: further --force_yml, the LR folders of --data."""
    if opt is not None and (model or data):
        raise SeemoreError("give either -opt or --model and --data; -opt takes weights by --force_yml")
    if opt is not None and more and not force_yml:
        raise SeemoreError(f"unexpected argument {more[0]!r}")
    if opt is None and force_yml:
        raise SeemoreError("--force_yml changes an option file: give it with -opt")
    if opt is None and not (model and data):
        raise SeemoreError("give -opt FILE, or --model WEIGHTS and --data HR_DIR LR_DIR")
    if opt is None and len(data or []) != len(more):
        raise SeemoreError("each --data takes two folders: HR_DIR LR_DIR")


def _settings(plan: Plan, device: torch.device, dtype: str) -> dict[str, Any]:
    import torch

    from seemore_fast.backends.choice import resolve

    return {
        "name": plan.name,
        "scale": plan.model.scale,
        "device": str(device),
        "dtype": dtype,
        "backend": resolve(plan.model.backend, device.type),
        "ensemble": plan.ensemble,
        "threads": torch.get_num_threads(),
        "metrics": {name: metric.model_dump() for name, metric in plan.metrics.items()},
    }


def _title(settings: dict[str, Any]) -> str:
    kind = f"{settings['backend']} backend, {settings['dtype']}"
    threads = f", {settings['threads']} threads" if settings["device"] == "cpu" else ""
    ensemble = ", self-ensemble" if settings["ensemble"] else ""
    return f"{settings['name']}, x{settings['scale']}{ensemble}, {kind} on {settings['device']}{threads}"


def _table(scored: SetScores, settings: dict[str, Any]) -> Table:
    metrics = list(settings["metrics"])
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(Text(scored.name), overflow="fold")
    for column in (*metrics, "ms"):
        table.add_column(Text(column), justify="right")
    for image in scored.images:
        table.add_row(Text(image.name), *_figures(image.network, metrics), f"{1000 * image.seconds:.0f}")
    table.add_section()
    table.add_row("mean", *_figures(scored.network, metrics), f"{1000 * scored.seconds:.0f}", style="bold")
    if scored.bicubic:
        table.add_row("bicubic", *_figures(scored.bicubic, metrics), "")
    if scored.paper:
        table.add_row("the paper's", *_figures(scored.paper, metrics), "")
    return table


def _figures(values: dict[str, float], metrics: list[str]) -> list[str]:
    return [f"{values[name]:.4f}" if name in values else "" for name in metrics]


def _as_csv(scores: list[SetScores]) -> str:
    """A line for each picture and one for each set's mean, figures unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = list(dict.fromkeys(name for scored in scores for name in scored.network))
    writer.writerow(["set", "picture", *metrics, *(f"bicubic_{name}" for name in metrics), "seconds"])
    for scored in scores:
        rows: list[tuple[str, Any]] = [*((image.name, image) for image in scored.images), ("mean", scored)]
        for name, row in rows:
            figures = [values.get(metric, "") for values in (row.network, row.bicubic) for metric in metrics]
            writer.writerow([scored.name, name, *figures, row.seconds])
    return text.getvalue()


def _as_json(scores: list[SetScores], settings: dict[str, Any]) -> str:
    from seemore_fast.measure.environment import environment

    sets = [
        {
            "name": scored.name,
            **_row(scored),
            "paper": scored.paper,
            "images": [{"name": image.name, **_row(image)} for image in scored.images],
        }
        for scored in scores
    ]
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    report = {"date": date, "settings": settings, "sets": sets, "environment": environment()}
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _row(row: Any) -> dict[str, Any]:
    """JSON has no infinity, the PSNR of equal pictures: null stands for it."""
    network, bicubic = (
        {name: value if math.isfinite(value) else None for name, value in values.items()}
        for values in (row.network, row.bicubic)
    )
    return {"network": network, "bicubic": bicubic, "seconds": row.seconds}


def _as_markdown(scores: list[SetScores], settings: dict[str, Any]) -> str:
    metrics = list(settings["metrics"])
    lines = [
        f"{_title(settings)}",
        "",
        f"| set | | {' | '.join(metrics)} | ms a picture |",
        f"|---|---|{'---|' * len(metrics)}---|",
    ]
    for scored in scores:
        rows = [("network", scored.network, f"{1000 * scored.seconds:.0f}")]
        rows += [("bicubic", scored.bicubic, "")] if scored.bicubic else []
        rows += [("the paper's", scored.paper, "")] if scored.paper else []
        for label, values, ms in rows:
            lines.append(f"| {scored.name} | {label} | {' | '.join(_figures(values, metrics))} | {ms} |")
    return "\n".join(lines) + "\n"
