"""``seemore-fast upscale``: pictures in files and folders, one after the other."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from seemore_fast.cli.options import (
    BackendOption,
    BorderKind,
    BorderOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    EnsembleOption,
    ThreadsOption,
    messages,
    prepare_folder,
    progress_bar,
    whole_number,
)
from seemore_fast.cli.sizes import (
    AtLeastOption,
    FitOption,
    HeightOption,
    LongestOption,
    OutscaleOption,
    ShortestOption,
    WidthOption,
    wished_size,
)
from seemore_fast.errors import SeemoreError
from seemore_fast.system.atomic import remove_stale
from seemore_fast.upscale.size import network_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from seemore_fast.upscale.folders import Listener, Outcome, Settings
    from seemore_fast.upscale.jobs import Job

    _Run = Callable[[list[Job], Settings, Listener], Outcome]


def command(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File (for one input file), folder, or - (standard output)."),
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="INPUT", help="Inputs, as after -i.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="File, folder, 'pattern*.png' or - (standard input); repeatable."),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file of inputs, one a line, perhaps a tab and its output."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-n",
            help="Weights by name, or a file of them: ours, or any that spandrel reads.",
            show_default="t-x4; with --outscale up to 2 t-x2, up to 3 t-x3",
        ),
    ] = None,
    device: DeviceOption = "auto",
    gpu: Annotated[
        int | None,
        typer.Option(
            "--gpu-id", "-g", min=-1, max=1023, help="GPU by number, -1 for the CPU; as --device cuda:N."
        ),
    ] = None,
    dtype: DtypeOption = Dtype.fp32,
    fp32: Annotated[bool, typer.Option("--fp32", help="As --dtype fp32.")] = False,
    backend: BackendOption = "auto",
    tile: Annotated[
        str,
        typer.Option(
            "--tile",
            "-t",
            metavar="auto|N|0",
            help="Largest side of a tile in input pixels; 0: no tiles; auto: as memory allows.",
        ),
    ] = "auto",
    tile_mode: Annotated[
        str,
        typer.Option(
            metavar="exact|local", help="Result of the whole picture, or each tile its own picture."
        ),
    ] = "exact",
    tile_overlap: Annotated[
        int | None,
        typer.Option(
            "--tile-overlap",
            "--tile_pad",
            min=0,
            max=10**6,
            help="Input pixels that local tiles share.",
            show_default="32, at most a quarter of the tile",
        ),
    ] = None,
    border: BorderOption = BorderKind.zero,
    ensemble: EnsembleOption = False,
    outscale: OutscaleOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    longest: LongestOption = None,
    shortest: ShortestOption = None,
    at_least: AtLeastOption = None,
    fit: FitOption = None,
    skip_large: Annotated[
        bool, typer.Option("--skip-large", help="Leave out pictures that are as large already.")
    ] = False,
    ext: Annotated[
        str | None,
        typer.Option(
            "--ext",
            "-f",
            metavar="auto|png|jpg|webp|tif|avif|gif|bmp|jxl|heic|exr",
            help="Format of outputs in a folder, or of standard output; auto: the input's, png for alpha.",
            show_default="the input's",
        ),
    ] = None,
    suffix: Annotated[str, typer.Option(help="Added to the names of outputs in a folder.")] = "",
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality",
            "-q",
            min=1,
            max=100,
            help="Of JPEG, WebP, AVIF, JPEG XL, HEIC.",
            show_default="95; lossless; 90; lossless; 90",
        ),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out pictures whose output exists.")
    ] = False,
    threads: ThreadsOption = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=1e8, help="Larger inputs are refused.")
    ] = 100,
    accept_damaged: Annotated[
        bool, typer.Option("--accept-damaged", help="Take what can be decoded of damaged files, with a line.")
    ] = False,
    on_ray: Annotated[
        bool, typer.Option("--ray", help="On the machines of a Ray cluster; --threads: of each worker.")
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|HOST:PORT",
            help="Which cluster; means --ray.",
            show_default="RAY_ADDRESS, or the one running here, or this machine alone",
        ),
    ] = None,
) -> None:
    """Upscale pictures (PNG, JPEG, WebP, TIFF, AVIF, GIF and more; gray, colour, alpha; 8, 16 bits, float).

    Exit status:
    0    all pictures are written
    1    some failed, the others are written
    2    wrong arguments, weights or output folder; nothing is written
    130  interrupted; finished pictures are kept
    """
    if fp32 and dtype is not Dtype.fp32:
        raise SeemoreError(f"--fp32 contradicts --dtype {dtype.value}: give one of them")
    if gpu is not None and device != "auto":
        raise SeemoreError(f"--gpu-id contradicts --device {device}: give one of them")
    if gpu is not None:
        device = "cpu" if gpu < 0 else f"cuda:{gpu}"
    ext = _known(ext)
    size = wished_size(
        width=width,
        height=height,
        longest=longest,
        shortest=shortest,
        at_least=at_least,
        fit=fit,
        scale=outscale,
    )
    if skip_large and (size is None or outscale is not None):
        raise SeemoreError(
            "--skip-large needs a size: --width, --height, --longest, --shortest, --at-least or --fit"
        )

    from seemore_fast.upscale.folders import Settings
    from seemore_fast.upscale.jobs import PIPE, plan_jobs

    if model is None:
        model = "t-x4" if outscale is None else network_for(outscale)
    console = messages()
    jobs = plan_jobs(
        [*(inputs or []), *(more or [])],
        output,
        ext,
        suffix,
        manifest,
        tell=lambda note: console.print(f"seemore-fast: {note}"),
    )
    network = {
        "model": model,
        "device": device,
        "dtype": dtype.value,
        "tile": tile if tile == "auto" else whole_number(tile, "--tile"),
        "tile_mode": tile_mode,
        "overlap": tile_overlap,
        "backend": backend,
        "border": border.value,
        "ensemble": ensemble,
    }
    on_ray = on_ray or ray_address is not None
    run = _on_ray(network, threads, ray_address, jobs) if on_ray else _here(network, threads, console)
    for folder in sorted({job.output.parent for job in jobs if job.output != PIPE}):
        prepare_folder(folder)
        remove_stale(folder)
    planned = len(jobs)
    if skip_existing:
        jobs = [job for job in jobs if job.output == PIPE or not job.output.is_file()]

    settings = Settings(round(max_megapixels * 1e6), size, skip_large, quality, ext, accept_damaged)
    with progress_bar(console, TextColumn("{task.fields[speed]}")) as bar:
        screen = _Screen(console, bar, bar.add_task("", total=len(jobs), speed=""))
        log = logging.getLogger("seemore_fast")
        log.addHandler(screen)
        try:
            outcome = run(jobs, settings, screen)
        finally:
            log.removeHandler(screen)
        bar.update(screen.task, completed=len(jobs))
    if planned > 1:
        _summarise(console, outcome, planned, planned - len(jobs))
    if outcome.failed:
        raise typer.Exit(1)


def _known(ext: str | None) -> str | None:
    from seemore_fast.image import FORMATS

    if ext is None:
        return None
    ext = ext.lower().removeprefix(".")
    if ext != "auto" and f".{ext}" not in FORMATS:
        raise SeemoreError(
            f"--ext must be one of auto, {', '.join(s.removeprefix('.') for s in FORMATS)}, got {ext!r}"
        )
    return ext


def _here(network: dict[str, Any], threads: int | None, console: Console) -> _Run:
    """What runs jobs in this process."""
    import torch

    from seemore_fast.upscale.folders import upscale_files
    from seemore_fast.upscale.upscaler import Upscaler

    if threads is not None:
        torch.set_num_threads(threads)
    upscaler = Upscaler(**network)
    if upscaler.foreign:
        console.print(f"seemore-fast: {network['model']}: {upscaler.foreign}")
    return partial(upscale_files, upscaler)


def _on_ray(network: dict[str, Any], threads: int | None, address: str | None, jobs: list[Job]) -> _Run:
    """What runs jobs on a Ray cluster.  Raises SeemoreError for what cannot."""
    from seemore_fast.network import weights
    from seemore_fast.upscale.jobs import PIPE

    if any(PIPE in job for job in jobs):
        raise SeemoreError("--ray takes and writes files, not standard input and output")
    if network["device"] not in ("auto", "cpu", "cuda"):
        raise SeemoreError(
            f"--device {network['device']}: with --ray auto, cpu or cuda; Ray assigns the GPUs"
        )
    if network["model"] not in weights.names():
        network["model"] = os.path.abspath(weights.find(network["model"]))
    from seemore_fast.upscale.ray_jobs import upscale_on_ray

    return partial(upscale_on_ray, network, threads, address)


class _Screen(logging.Handler):
    """What the run has to say: the bar, and lines above it.  Log records are about the current picture."""

    def __init__(self, console: Console, bar: Progress, task: TaskID):
        super().__init__(logging.WARNING)
        self._console, self._bar, self.task = console, bar, task
        self._job: Job | None = None

    def started(self, index: int, job: Job) -> None:
        self._job = job
        self._bar.update(self.task, completed=index, description=job.input.name)

    def progressed(self, index: int, share: float) -> None:
        self._bar.update(self.task, completed=index + share)

    def measured(self, pixels_out: int, seconds: float) -> None:
        self._bar.update(self.task, speed=f"{pixels_out / 1e6 / seconds:.1f} MP/s")

    def noted(self, job: Job, note: str) -> None:
        self._console.print(f"seemore-fast: {job.input}: {note}")

    def failed(self, job: Job, message: str) -> None:
        self._console.print(f"seemore-fast: {message}")

    def emit(self, record: logging.LogRecord) -> None:
        if self._job is not None:
            self.noted(self._job, record.getMessage())
        else:
            self._console.print(f"seemore-fast: {record.getMessage()}")


def _summarise(console: Console, outcome: Outcome, planned: int, skipped: int) -> None:
    counts = [f"{outcome.written} of {planned} pictures written"]
    if skipped:
        counts.append(f"{skipped} skipped")
    if outcome.large:
        counts.append(f"{outcome.large} large enough")
    if outcome.failed:
        counts.append(f"{len(outcome.failed)} failed")
    console.print(f"seemore-fast: {', '.join(counts)}")
    for job, _ in outcome.failed:
        console.print(f"  failed: {job.input}")
    if outcome.written:
        sizes = f"{outcome.pixels_in / 1e6:.2f} MP to {outcome.pixels_out / 1e6:.1f} MP"
        speed = f"{outcome.pixels_out / 1e6 / outcome.seconds:.1f} MP/s"
        share = f"{outcome.network_seconds / outcome.seconds:.0%} of the time in the network"
        console.print(f"  {sizes} in {outcome.seconds:.1f} s: {speed}, {share}")
