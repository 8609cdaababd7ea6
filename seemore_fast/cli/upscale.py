"""``seemore-fast upscale``: pictures in files and folders, one after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import progress
from rich.console import Console

from ..errors import BackendError, ImageError, SeemoreError
from .options import Dtype, DtypeOption, ThreadsOption

if TYPE_CHECKING:
    from ..upscale import Upscaler
    from .jobs import Job


class Device(str, Enum):
    """Values of ``--device``."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Ext(str, Enum):
    """Values of ``--ext``."""

    png = "png"
    jpg = "jpg"
    webp = "webp"


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="File (for one input file) or folder.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="INPUT", help="Inputs, as after -i.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="File, folder or 'pattern*.png'; repeatable.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled weights, or a .safetensors or .pth file.")] = "t-x4",
    device: Annotated[Device, typer.Option(help="auto: the GPU if there is one.")] = Device.auto,
    dtype: DtypeOption = Dtype.fp32,
    backend: Annotated[str, typer.Option(help="auto, or one that `seemore-fast info` lists.")] = "auto",
    tile: Annotated[
        int, typer.Option(help="Largest side of a tile in input pixels, to save memory; 0: no tiles.")
    ] = 0,
    tile_overlap: Annotated[
        int | None,
        typer.Option(help="Input pixels that tiles share.", show_default="32, at most a quarter of the tile"),
    ] = None,
    ext: Annotated[
        Ext | None, typer.Option(help="Format of outputs in a folder.", show_default="the input's")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Added to the names of outputs in a folder.")] = "",
    threads: ThreadsOption = None,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=178, help="Larger inputs are refused.")
    ] = 100,
) -> None:
    """Upscale pictures (PNG, JPEG, WebP; gray, RGB and alpha, 8 bits).

    Exit status:
    0    all pictures are written
    1    some failed, the others are written
    2    wrong arguments, weights or output folder; nothing is written
    130  interrupted; finished pictures are kept
    """
    import torch

    from ..upscale import Upscaler
    from .jobs import plan_jobs

    jobs = plan_jobs([*(inputs or []), *(more or [])], output, ext.value if ext else None, suffix)
    if threads is not None:
        torch.set_num_threads(threads)
    upscaler = Upscaler(
        model, _pick_device(device), dtype.value, tile, "local", overlap=tile_overlap, backend=backend
    )
    _prepare_folder(jobs[0].output.parent)

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    failed = 0
    with _progress_bar(console) as bar:
        task = bar.add_task("", total=len(jobs))
        for index, job in enumerate(jobs):
            bar.update(task, completed=index, description=job.input.name)

            def tell(done: int, total: int, index: int = index) -> None:
                bar.update(task, completed=index + done / total)

            try:
                _upscale_file(upscaler, job, int(max_megapixels * 1e6), tell)
            except SeemoreError as error:
                failed += 1
                console.print(f"seemore-fast: {error}", markup=False)
        bar.update(task, completed=len(jobs))
    if failed and len(jobs) > 1:
        console.print(f"seemore-fast: {failed} of {len(jobs)} pictures failed")
    if failed:
        raise typer.Exit(1)


def _pick_device(choice: Device) -> str:
    import torch

    if choice is Device.auto:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice is Device.cuda and not torch.cuda.is_available():
        raise BackendError(f"device cuda: PyTorch {torch.__version__} finds no GPU; use cpu or auto")
    return choice.value


def _prepare_folder(folder: Path) -> None:
    """Makes the output folder, and finds out now, not after a long computation, that it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ImageError(f"{folder}: cannot write here ({error.strerror})") from None


def _progress_bar(console: Console) -> progress.Progress:
    columns = [
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("ETA"),
        progress.TimeRemainingColumn(),
    ]
    return progress.Progress(*columns, console=console, disable=not console.is_terminal)


def _upscale_file(
    upscaler: Upscaler,
    job: Job,
    max_pixels: int,
    tell: Callable[[int, int], None],
) -> None:
    from ..image import Image, check_writable, read, write

    picture = read(job.input, max_pixels)
    height, width = picture.pixels.shape[:2]
    check_writable(job.output, height * upscaler.scale, width * upscaler.scale, picture.transparent)
    try:
        larger = upscaler.up(picture.pixels, tell)
    except SeemoreError as error:
        raise type(error)(f"{job.input}: {error}") from None
    except MemoryError as error:
        raise ImageError(f"{job.input}: {error or 'out of memory'}") from None
    write(job.output, Image(larger, picture.icc_profile))
