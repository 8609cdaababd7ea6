"""The demo page: a picture goes up, before and after lie behind a slider, the result comes down (Gradio).

Limits, 16 bits, alpha and colour profiles are the business of `image` and `Upscaler`; this file shows them.
"""

from __future__ import annotations

import errno
import html
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.image import FORMATS, read, write
from seemore_fast.system.guard import Guard
from seemore_fast.system.optional import need
from seemore_fast.upscale.size import CHOICES, Size, chosen
from seemore_fast.upscale.upscaler import Upscaler

SAMPLES = Path(__file__).with_name("samples")

_PREVIEW_PIXELS = 4_000_000  # of each picture behind the slider: a browser is slow with more
_BY_SCALE = "by enlargement"
_KEPT = 3600  # seconds that uploads and results stay on the disk


@dataclass(frozen=True)
class Limits:
    """What the page takes: bytes of a file, pixels of the picture in it, and of what the network makes."""

    bytes: int = 20_000_000
    pixels: int = 4_000_000
    pixels_out: int = 64_000_000


class Enlarged(NamedTuple):
    """Files of one run: ``before`` and ``after`` to look at, of equal size; ``result`` to take away."""

    before: Path
    after: Path
    result: Path
    report: str


def enlarge(
    source: Path,
    folder: Path,
    upscaler: Upscaler,
    size: Size,
    limits: Limits,
    progress: Callable[[float], None] | None = None,
) -> Enlarged:
    """Enlarges the picture file ``source`` to ``size`` into new files in ``folder``.

    The result is a PNG with the input's bits a channel, alpha and metadata.  ``before`` is the input
    resampled (Lanczos); both pictures to look at are reduced where the result is very large.
    ``progress(share)`` is told how much of the network's work is done, from 0 to 1.

    Raises ImageError, naming the file without its folder, for a file that is no picture, an animation or
    over ``limits``; MemoryError.
    """
    if source.stat().st_size > limits.bytes:
        found, limit = source.stat().st_size / 1e6, limits.bytes / 1e6
        raise ImageError(f"{source.name}: {found:.1f} MB is over the limit of {limit:g} MB (--max-upload)")
    picture = read(source.name, limits.pixels, source.read_bytes())
    if picture.linear:
        raise ImageError(
            f"{source.name}: floating point; `seemore-fast upscale` takes it, this page does not"
        )
    if picture.animation is not None:
        raise ImageError(f"{source.name}: an animation; `seemore-fast upscale` takes it, this page does not")

    h, w, channels = picture.pixels.shape
    height, width = size.of(h, w)
    made = h * w * upscaler.scale ** (2 * size.passes(h, w, upscaler.scale))
    if max(made, height * width) > limits.pixels_out:
        found, limit = max(made, height * width) / 1e6, limits.pixels_out / 1e6
        raise ImageError(
            f"{source.name}: {found:.1f} megapixels of result are over the limit of {limit:g}"
            " (--max-output-megapixels)"
        )

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done / total)

    start = time.perf_counter()
    larger = replace(picture, pixels=upscaler.up(picture.pixels, tell, size=size))
    seconds = time.perf_counter() - start

    shrink = min(1.0, math.sqrt(_PREVIEW_PIXELS / (height * width)))
    shown = max(1, round(height * shrink)), max(1, round(width * shrink))
    before, after = folder / "before.png", folder / "after.png"
    name = f"{width}x{height}" if size.scale is None else f"x{size.scale:g}"
    result = folder / f"{source.stem}-{name}.png"
    write(before, picture, size=shown)
    write(after, larger, size=shown)
    write(result, larger)

    kind = {1: "gray", 2: "gray and alpha", 3: "RGB", 4: "RGB and alpha"}[channels]
    report = [
        f"{w} x {h} to {width} x {height} pixels; {kind}, {8 * picture.pixels.itemsize} bits a channel",
        f"{seconds:.2f} s on {upscaler.device}: {height * width / 1e6 / seconds:.1f} megapixels/s",
        *([upscaler.foreign] if upscaler.foreign else []),
        *picture.notes,
    ]
    return Enlarged(before, after, result, "\n".join(f"* {line}" for line in report))


def page(upscalers: Mapping[str, Upscaler], limits: Limits, folder: Path) -> Any:
    """The page (gradio.Blocks) with ``upscalers`` to choose from, t-x4 or the first to begin with.

    Results are put into ``folder``, which must be Gradio's own, and removed by Gradio after an hour.

    Raises SeemoreError without Gradio.
    """
    gr = _gradio()

    def scales(name: str) -> dict[str, Any]:
        largest = upscalers[name].scale
        return {"choices": [(f"x{n}", n) for n in range(min(2, largest), largest + 1)], "value": largest}

    def run(
        path: str | None,
        name: str,
        scale: int,
        choice: str,
        pixels: str,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        if path is None:
            raise gr.Error("Choose a picture first.", print_exception=False)
        made_in = Path(tempfile.mkdtemp(dir=folder))
        try:
            size = Size(scale=scale) if choice == _BY_SCALE else chosen(choice, pixels or "")
            made = enlarge(Path(path), made_in, upscalers[name], size, limits, progress)
        except (SeemoreError, MemoryError) as error:
            shutil.rmtree(made_in, ignore_errors=True)
            message = html.escape(str(error) or "there is not enough memory")
            raise gr.Error(message, duration=None, print_exception=False) from None
        return (made.before, made.after), made.report, gr.DownloadButton(value=made.result, interactive=True)

    def forget() -> tuple[Any, ...]:
        return None, "", gr.DownloadButton(value=None, interactive=False)

    def by(choice: str) -> tuple[Any, ...]:
        own = choice == _BY_SCALE
        return gr.Radio(visible=own), gr.Textbox(visible=not own)

    first = "t-x4" if "t-x4" in upscalers else next(iter(upscalers))  # with it, every enlargement is on offer
    pictures = sorted(str(path) for path in SAMPLES.glob("*.png"))
    with gr.Blocks(title="seemore-fast", analytics_enabled=False, delete_cache=(600, _KEPT)) as blocks:
        gr.Markdown(
            "# seemore-fast\n"
            "Enlarges pictures with SeemoRe. Left of the slider is plain resampling (Lanczos), right of it "
            "the network's result. PNG, JPEG, WebP, TIFF, AVIF, GIF and BMP, up to "
            f"{limits.bytes / 1e6:g} MB and {limits.pixels / 1e6:g} megapixels."
        )
        with gr.Row():
            with gr.Column(scale=1):
                source = gr.File(label="Picture", file_types=list(FORMATS), elem_id="source", height=140)
                samples = gr.Dataset(
                    label="Samples",
                    components=[gr.Image(type="filepath", render=False)],
                    samples=[[path] for path in pictures],
                    type="index",
                    elem_id="samples",
                )
                model = gr.Dropdown(list(upscalers), value=first, label="Model", elem_id="model")
                scale = gr.Radio(label="Enlargement", elem_id="scale", **scales(first))
                choice = gr.Dropdown(
                    [
                        (_BY_SCALE, _BY_SCALE),
                        *((word.replace("_", " "), word) for word in CHOICES if word != "scale"),
                    ],
                    value=_BY_SCALE,
                    label="Size",
                    elem_id="choice",
                )
                pixels = gr.Textbox(
                    label="Pixels", placeholder="1920, or 1920x1080", visible=False, elem_id="pixels"
                )
                start = gr.Button("Enlarge", variant="primary", elem_id="start")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label="Before | after",
                    type="filepath",
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=560,
                    elem_id="slider",
                )
                # Below the result, also where columns become one: on a phone.
                report = gr.Markdown(elem_id="report")
                download = gr.DownloadButton("Download", interactive=False, elem_id="download")
        shown = [slider, report, download]
        samples.click(pictures.__getitem__, samples, source, api_visibility="private")
        source.change(forget, None, shown, api_visibility="private")
        model.change(lambda name: gr.Radio(**scales(name)), model, scale, api_visibility="private")
        choice.change(by, choice, [scale, pixels], api_visibility="private")
        start.click(run, [source, model, scale, choice, pixels], shown, api_visibility="private")
    # One picture at a time has all cores; the others wait, and see their place in the queue.
    return blocks.queue(max_size=20, default_concurrency_limit=1)


@contextmanager
def serving(
    upscalers: Mapping[str, Upscaler], limits: Limits, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """The page is served as long as the block lasts; gives its address.

    ``port`` None: the first free one from 7860 on.  Uploads and results lie in a temporary folder, which is
    removed at the end, or in ``GRADIO_TEMP_DIR``.

    Raises SeemoreError without Gradio, or where ``host`` and ``port`` cannot be listened on.
    """
    gr = _gradio()
    with need("the demo page", "demo"):
        from starlette.middleware import Middleware  # which Gradio brings along

    with _own_folder() as folder:
        blocks = page(upscalers, limits, folder)
        try:
            _, url, _ = blocks.launch(
                server_name=host,
                server_port=_free_port(host, port),
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                allowed_paths=[str(SAMPLES)],
                max_file_size=limits.bytes,
                app_kwargs={"middleware": [Middleware(Guard, host=host)]},
                # The default's fonts are fetched from elsewhere.
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:
            where = f"{host}, port {port or '7860 and above'}"
            raise SeemoreError(f"cannot listen on {where}: {error.strerror or error}") from None
        try:
            yield url
        finally:
            blocks.close(verbose=False)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Where Gradio keeps files.  By default it takes one folder for all users of the machine."""
    if given := os.environ.get("GRADIO_TEMP_DIR"):
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="seemore-fast-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["GRADIO_TEMP_DIR"]


def _free_port(host: str, port: int | None) -> int:
    """Raises OSError where there is none.  Gradio would try a hundred of them on a host that is not ours."""
    for candidate in range(7860, 7960) if port is None else (port,):
        try:
            with socket.create_server((host, candidate)):
                return candidate
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _gradio() -> Any:
    with need("the demo page", "demo"):
        import gradio
    return gradio
