"""Interlaced pictures: whole ones made of their fields, and film that was telecined recognised."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import av
from av.filter import Graph

_LOOKED_AT = 120  # frames; 3:2 pulldown repeats two fields in five of them

# Of idet's frames at least this share repeats the upper, and this the lower field; other video repeats none.
_REPEATED = 0.05


def deinterlaced(
    frames: Iterable[av.VideoFrame], stream: Any, mode: str
) -> Generator[av.VideoFrame, None, None]:
    """The frames of ``stream`` by FFmpeg's bwdif; those that are not interlaced as they are.

    ``mode``: "frame" makes one picture of each frame, "field" two.  Their times are in half of the stream's
    time base.
    """
    yield from _filtered(frames, stream, "bwdif", f"mode=send_{mode}:deint=interlaced")


def is_telecined(frames: Iterable[av.VideoFrame], stream: Any) -> bool:
    """Whether interlaced ``frames`` repeat fields, as film does of which 60 fields a second were made."""
    seen = {"top": 0.0, "bottom": 0.0}
    count = 0
    for frame in _filtered(_first(frames), stream, "idet", ""):
        count += 1
        for field in seen:
            seen[field] = float(frame.metadata.get(f"lavfi.idet.repeated.{field}", 0))
    least, most = sorted(seen.values())
    return count >= 25 and least > _REPEATED * count and most < 2 * least


def _first(frames: Iterable[av.VideoFrame]) -> Generator[av.VideoFrame, None, None]:
    """As many interlaced ones as are looked at."""
    count = 0
    for number, frame in enumerate(frames):
        if count == _LOOKED_AT or number == 20 * _LOOKED_AT:
            return
        if frame.interlaced_frame or count:  # a telecined clip may have flagged two frames in five
            count += 1
            yield frame


def _filtered(
    frames: Iterable[av.VideoFrame], stream: Any, name: str, arguments: str
) -> Generator[av.VideoFrame, None, None]:
    graph = Graph()
    ends = graph.add_buffer(template=stream), graph.add(name, arguments), graph.add("buffersink")
    graph.link_nodes(*ends).configure()
    for frame in frames:
        graph.vpush(frame)
        yield from _ready(graph)
    graph.vpush(None)
    yield from _ready(graph)


def _ready(graph: Graph) -> Generator[av.VideoFrame, None, None]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):  # needs more frames; has no more
            return
