"""``seemore-fast video``: one video, with its sound, subtitles and times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TextColumn

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
    progress_bar,
)
from seemore_fast.cli.sizes import (
    AtLeastOption,
    FitOption,
    HeightOption,
    LongestOption,
    ShortestOption,
    WidthOption,
    wished_size,
)
from seemore_fast.errors import SeemoreError
from seemore_fast.system.terminal import standard_stream


def command(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="Video that FFmpeg reads, pictures in/%05d.png, - is stdin."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A .mkv, .mp4, .m4v, .mov or .webm file, pictures out/%05d.png, - is stdout.",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Weights by name, or a file of them: ours, or any that spandrel reads.")
    ] = "t-x4",
    codec: Annotated[
        str | None,
        typer.Option(
            help="h264, h265, av1, vp9 or ffv1 (lossless).",
            show_default="h264; h265 for 10 bits; in .webm vp9; av1 for 10 bits",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="An encoder of FFmpeg by its name, such as hevc_nvenc, instead of --codec."),
    ] = None,
    encoder_opts: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE,...", help="Options for the encoder, in its own words.")
    ] = None,
    crf: Annotated[
        float | None, typer.Option(help="Quality, lower is better.", show_default="16 to 24 by codec")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="The encoder's speed, in its own words.", show_default="by codec")
    ] = None,
    pix_fmt: Annotated[
        str | None, typer.Option(help="Pixel format.", show_default="yuv420p; yuv420p10le for 10 bits")
    ] = None,
    copy_quality: Annotated[
        bool,
        typer.Option("--copy-quality", help="The source's codec and quality: its bit rate, for more pixels."),
    ] = False,
    hwaccel: Annotated[
        str | None,
        typer.Option(
            metavar="cuda|vaapi|...",
            help="Hardware that decodes, by FFmpeg's name.",
            show_default="the processor",
        ),
    ] = None,
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Make a picture of each interlaced frame, by bwdif.")
    ] = False,
    field_rate: Annotated[
        bool, typer.Option("--field-rate", help="With --deinterlace: of each field, twice as many pictures.")
    ] = False,
    ignore_errors: Annotated[
        bool, typer.Option("--ignore-errors", help="Leave out what is damaged instead of stopping there.")
    ] = False,
    border: BorderOption = BorderKind.zero,
    ensemble: EnsembleOption = False,
    width: WidthOption = None,
    height: HeightOption = None,
    longest: LongestOption = None,
    shortest: ShortestOption = None,
    at_least: AtLeastOption = None,
    fit: FitOption = None,
    pipe_format: Annotated[
        str | None,
        typer.Option(
            help="Of stdout: y4m or nut, uncompressed.", show_default="y4m if stdin is y4m, else nut"
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=1000, help="Pictures a second of in/%05d.png.", show_default="24"),
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only from here on: 75, 1:15 or 0:01:15.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only up to here.")] = None,
    preview: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="One frame as a picture: bicubic left, network right."),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.fp32,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Upscale a video; sound, subtitles and times are kept. Interrupted, the same command goes on.

    With - for INPUT or OUTPUT it goes through pipes, in one pass that does not go on.

    Exit status:
    0    the output is written
    2    wrong arguments or weights, or a video that cannot be read to its end; no output
    130  interrupted; finished segments are kept in OUTPUT.parts
    """
    import torch

    from seemore_fast import video
    from seemore_fast.upscale.upscaler import Upscaler

    options = encoder_options(encoder_opts)
    size = wished_size(
        width=width, height=height, longest=longest, shortest=shortest, at_least=at_least, fit=fit
    )
    part = seconds(begin), seconds(end)
    streamed = "-" in (str(source), str(output))
    piped = streamed or video.is_sequence(source) or video.is_sequence(output)
    if piped and (begin or end or preview is not None):
        raise SeemoreError("--from, --to and --preview need video files, not pipes and pictures")
    if hwaccel is not None and (piped or preview is not None):
        raise SeemoreError("--hwaccel is for video files as INPUT and OUTPUT")
    if rate is not None and not video.is_sequence(source):
        raise SeemoreError("--rate is for pictures as INPUT, such as in/%05d.png; a video has its own")
    if pipe_format is not None and not streamed:
        raise SeemoreError("--pipe-format is for standard output: give -o -")
    if threads is not None:
        torch.set_num_threads(threads)
    upscaler = Upscaler(model, device, dtype.value, backend=backend, border=border.value, ensemble=ensemble)
    console = messages()
    if upscaler.foreign:
        console.print(f"seemore-fast: {model}: {upscaler.foreign}")
    with progress_bar(console, TextColumn("{task.fields[speed]}")) as bar:
        task = bar.add_task(source.name, total=None, speed="")

        def tell(done: int, total: int | None, computed: int) -> None:
            elapsed = bar.tasks[task].elapsed or 0.0
            speed = f"{computed / elapsed:.1f} frames/s" if computed and elapsed else ""
            bar.update(task, completed=done, total=max(done, total) if total else None, speed=speed)

        def note(message: str) -> None:
            console.print(f"seemore-fast: {message}")

        fields = "field" if field_rate else "frame" if deinterlace else None
        if preview is not None:
            video.preview(source, output, upscaler, preview, size=size, deinterlace=fields, note=note)
            return
        if piped:
            video.pipe_video(
                standard_stream("stdin") if str(source) == "-" else source,
                standard_stream("stdout") if str(output) == "-" else output,
                upscaler,
                video.EncodingWish(codec, encoder, options, crf, preset, pix_fmt, copy_quality),
                kind=pipe_format,
                size=size,
                rate=rate,
                deinterlace=fields,
                ignore_errors=ignore_errors,
                progress=tell,
                note=note,
            )
            return
        try:
            video.upscale_video(
                source,
                output,
                upscaler,
                size=size,
                codec=codec,
                encoder=encoder,
                encoder_options=options,
                crf=crf,
                preset=preset,
                pix_fmt=pix_fmt,
                copy_quality=copy_quality,
                hardware=hwaccel,
                deinterlace=fields,
                begin=part[0],
                end=part[1],
                ignore_errors=ignore_errors,
                progress=tell,
                note=note,
            )
        except KeyboardInterrupt:
            console.print("seemore-fast: finished segments are kept; the same command goes on from there")
            raise


def seconds(text: str | None) -> float | None:
    """``1:15.5`` as 75.5.  Raises SeemoreError."""
    if text is None:
        return None
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3 or any(not 0 <= value < 1e6 for value in values):
        raise SeemoreError(f"a time is seconds, M:SS or H:MM:SS, got {text!r}")
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def encoder_options(text: str | None) -> dict[str, str]:
    """``preset=p5,cq=20`` as a dictionary.  Raises SeemoreError."""
    pairs = [part.partition("=") for part in (text or "").split(",") if part]
    if wrong := [key for key, equals, _ in pairs if not key or not equals]:
        raise SeemoreError(f"--encoder-opts takes KEY=VALUE,KEY=VALUE, got {wrong[0]!r} without a value")
    return {key: value for key, _, value in pairs}
