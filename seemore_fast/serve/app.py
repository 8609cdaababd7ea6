"""The service: POST a picture, get a picture (FastAPI); health, metrics, and a page that tries it out.

What a picture may be, 16 bits, alpha, profiles, sizes and formats are the business of `upscale_files`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from seemore_fast import __version__
from seemore_fast.errors import Cancelled, SeemoreError
from seemore_fast.image import FORMATS
from seemore_fast.image.formats import HEAD, sniff
from seemore_fast.serve.admission import COUNTED, HEALTH, PAGE, PARTS, SCHEMA, Admission
from seemore_fast.system.guard import Guard
from seemore_fast.system.optional import need
from seemore_fast.upscale.folders import Settings, upscale_files
from seemore_fast.upscale.jobs import Job
from seemore_fast.upscale.size import LARGEST_SCALE, MOST, WISHES, Size, Wish, wished
from seemore_fast.upscale.upscaler import Upscaler

with need("the service", "serve"):
    from fastapi import Depends, FastAPI, HTTPException, Query, Request
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.responses import FileResponse, Response
    from fastapi.security import HTTPBearer
    from fastapi_offline import FastAPIOffline
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BODY = {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}

_TYPES = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "tif": "tiff", "dib": "bmp", "exr": "x-exr"}


class _Picture(BaseModel):
    """The query of a request without the size; a parameter that nobody knows is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="/health lists them; default: the first")
    format: str | None = Field(None, description="png, jpg, webp ...; default: the input's")
    quality: int | None = Field(None, ge=1, le=100, description="of formats that have one")


def _parameter(wish: Wish) -> Any:
    """Type and field of a way to ask for a size."""
    if wish.kind == "pixels":
        return int | None, Field(None, ge=1, le=MOST, description=wish.help)
    if wish.kind == "factor":
        return float | None, Field(None, gt=0, le=LARGEST_SCALE, description=wish.help)
    return str | None, Field(None, description=f"{wish.help} WxH")


if TYPE_CHECKING:
    _Query = Any
else:
    _Query = create_model("_Query", __base__=_Picture, **{wish.name: _parameter(wish) for wish in WISHES})


@dataclass(frozen=True)
class Limits:
    """What the service takes: bytes of a file, pixels of the picture in it and of the result, requests inside
    (one at work, the others wait), of one client, seconds for a picture to arrive."""

    bytes: int = 20_000_000
    pixels: int = 4_000_000
    pixels_out: int = 64_000_000
    queue: int = 20
    per_client: int = 20
    arrival: float = 30.0


class Made(NamedTuple):
    """A finished picture: its file, what its owner should know, pixels of input and output."""

    file: Path
    notes: list[str]
    pixels_in: int
    pixels_out: int


class Metrics:
    """What Prometheus asks for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "seemore_requests", "Answers to /upscale by status", ["status"], registry=self.registry
        )
        self.pixels = Counter("seemore_pixels", "Pixels by direction", ["direction"], registry=self.registry)
        self.seconds = Histogram(
            "seemore_seconds", "Seconds from the last byte in to the picture", registry=self.registry
        )
        self.inside = Gauge("seemore_inside", "Requests at work or waiting", registry=self.registry)


def enlarge(
    source: Path,
    folder: Path,
    upscaler: Upscaler,
    size: Size | None,
    ext: str,
    quality: int | None,
    limits: Limits,
    gone: threading.Event,
) -> Made:
    """The picture file ``source`` enlarged into ``folder``.  Raises SeemoreError, which names no folder."""
    notes = [upscaler.foreign] if upscaler.foreign else []

    class Listener:
        def started(self, index: int, job: Job) -> None: ...
        def measured(self, pixels_out: int, seconds: float) -> None: ...
        def failed(self, job: Job, message: str) -> None: ...

        def progressed(self, index: int, share: float) -> None:
            if gone.is_set():
                raise Cancelled("the client has gone")

        def noted(self, job: Job, note: str) -> None:
            notes.append(note)

    if gone.is_set():
        raise Cancelled("the client has gone")
    job = Job(source, folder / f"large.{ext}")
    settings = Settings(limits.pixels, size, quality=quality, max_output=limits.pixels_out)
    outcome = upscale_files(upscaler, [job], settings, Listener())
    if outcome.failed:
        message = outcome.failed[0][1].replace(f"{source}: ", "").replace(f"{job.output}: ", "")
        raise SeemoreError(message.replace("raise max_pixels (--max-megapixels)", "send a smaller one"))
    return Made(job.output, notes, outcome.pixels_in, outcome.pixels_out)


def service(
    upscalers: Mapping[str, Upscaler],
    limits: Limits = Limits(),
    tokens: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    origins: tuple[str, ...] = (),
) -> Any:
    """The ASGI application with ``upscalers`` by name, of which the first serves unless a request names one.

    ``tokens``: what requests must bear; none: nothing.  ``host``: where it will listen; on a loopback address
    it answers to no other name.  ``origins``: pages from elsewhere that may call it (CORS).
    """
    first = next(iter(upscalers))
    worker = ThreadPoolExecutor(1)  # one picture at a time has all cores
    metrics = Metrics()
    # FastAPI's own page fetches its script from elsewhere.
    app: FastAPI = FastAPIOffline(
        docs_url=PAGE,
        redoc_url=None,
        openapi_url=SCHEMA,
        static_url=PARTS,
        title="seemore-fast",
        version=__version__,
        description="Enlarges pictures.",
        dependencies=[Depends(HTTPBearer(auto_error=False))] if tokens else [],  # Admission looks at them
    )
    app.add_middleware(Admission, tokens=tokens, most=limits.queue, per_client=limits.per_client)
    if origins:
        methods, headers = ["GET", "POST"], ["authorization", "content-type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=methods, allow_headers=headers
        )
    app.add_middleware(Guard, host=host, origins=origins)

    @app.get(HEALTH, summary="Whether it serves")
    async def health(request: Request) -> dict[str, Any]:
        return {"status": "ok", "models": list(upscalers), "inside": request.scope["admission"].count}

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def told(request: Request) -> Response:
        admission = request.scope["admission"]
        metrics.inside.set(admission.count)
        for status in list(admission.refused):
            metrics.answers.labels(status).inc(admission.refused.pop(status))
        return Response(
            generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.post(
        COUNTED,
        summary="A picture in the body, its enlargement in the answer",
        response_class=FileResponse,
        openapi_extra={"requestBody": _BODY},
    )
    async def upscale(request: Request, asked: Annotated[_Query, Query()]) -> Response:
        try:
            model = first if asked.model is None else asked.model
            if model not in upscalers:
                raise SeemoreError(f"model must be one of {', '.join(upscalers)}, got {model!r:.80}")
            ext = None if asked.format is None else asked.format.lower()
            if ext is not None and f".{ext}" not in FORMATS:
                known = ", ".join(suffix[1:] for suffix in FORMATS)
                raise SeemoreError(f"format must be one of {known}, got {asked.format!r:.80}")
            size = wished({wish.name: getattr(asked, wish.name) for wish in WISHES})
        except SeemoreError as error:
            metrics.answers.labels(422).inc()
            raise HTTPException(422, str(error)) from None
        folder = Path(tempfile.mkdtemp(prefix="seemore-fast-"))
        gone = threading.Event()
        status = 500
        try:
            source = folder / "picture"
            await asyncio.wait_for(_arrive(request, source, limits.bytes), limits.arrival)
            start = time.perf_counter()
            watcher = asyncio.create_task(_watch(request, gone))
            try:
                made = await asyncio.get_running_loop().run_in_executor(
                    worker, enlarge, source, folder, upscalers[model], size,
                    ext or _same_format(source), asked.quality, limits, gone,
                )  # fmt: skip
            finally:
                watcher.cancel()
            metrics.seconds.observe(time.perf_counter() - start)
            metrics.pixels.labels("in").inc(made.pixels_in)
            metrics.pixels.labels("out").inc(made.pixels_out)
            status = 200
            return _Answer(made, folder)
        except HTTPException as error:
            status = error.status_code
            raise
        except asyncio.TimeoutError:
            status = 408
            raise HTTPException(408, f"the picture has not arrived within {limits.arrival:g} s") from None
        except Cancelled:
            status = 499
            raise HTTPException(499, "the client has gone") from None
        except SeemoreError as error:
            status = 422
            raise HTTPException(422, str(error)) from None
        finally:
            metrics.answers.labels(status).inc()
            if status != 200:
                shutil.rmtree(folder, ignore_errors=True)

    return app


class _Answer(FileResponse):
    """A finished picture, whose folder goes once it is sent, or the client has gone."""

    def __init__(self, made: Made, folder: Path):
        ext = made.file.suffix[1:]
        notes = "; ".join(made.notes).encode("ascii", "replace").decode().replace("\n", " ")
        headers = {"Seemore-Notes": notes[:2000]} if notes else None
        super().__init__(made.file, headers=headers, media_type=f"image/{_TYPES.get(ext, ext)}")
        self._folder = folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


async def _arrive(request: Request, file: Path, most: int) -> None:
    """Writes the body to ``file``.  Raises HTTPException 413 where it is more than ``most`` bytes."""
    too_much = HTTPException(413, f"the picture is over the limit of {most / 1e6:g} MB")
    with suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > most:
            raise too_much
    size = 0
    with file.open("wb") as target:
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                raise too_much
            target.write(piece)


async def _watch(request: Request, gone: threading.Event) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
    gone.set()


def _same_format(source: Path) -> str:
    """The name's ending for the format of the file; png where it is none."""
    with source.open("rb") as file:
        format_ = sniff(file.read(HEAD))
    return next((suffix[1:] for suffix, known in FORMATS.items() if known is format_), "png")
