"""A VapourSynth filter: clips of RGBS or RGBH through the network.

from seemore_fast.plugins.vapoursynth import upscale
upscale(clip, "t-x2").set_output()
"""

from __future__ import annotations

from typing import Any

import numpy as np

from seemore_fast.errors import VideoError
from seemore_fast.system.optional import need
from seemore_fast.upscale.size import Size
from seemore_fast.upscale.upscaler import Upscaler

with need("VapourSynth (Python 3.12 or newer)", "vapoursynth"):
    import vapoursynth as vs


def upscale(
    clip: vs.VideoNode, model: str | Upscaler = "t-x4", *, size: Size | None = None, **options: Any
) -> vs.VideoNode:
    """``clip``, RGBS or RGBH of one size, enlarged; format, rate and the frames' properties stay.

    ``model`` and ``options`` are `Upscaler`'s, or ``model`` is one; ``size`` is what `Upscaler.up` takes.
    Values outside 0..1 are clipped.  VapourSynth asks for many frames at a time: those before the network are
    made while it works, and each call of it has all of the cores.

    Raises VideoError for another format, SeemoreError as `Upscaler` does.
    """
    if clip.format is None or clip.format.id not in (vs.RGBS, vs.RGBH) or not clip.width or not clip.height:
        name = "a variable one" if clip.format is None else clip.format.name
        raise VideoError(f"the clip must be RGBS or RGBH of one size, not {name}; resize.Bicubic converts")
    upscaler = model if isinstance(model, Upscaler) else Upscaler(model, **options)
    scale = upscaler.scale
    height, width = size.of(clip.height, clip.width) if size else (clip.height * scale, clip.width * scale)
    larger = clip.std.BlankClip(width=width, height=height, keep=True)

    def enlarged(n: int, f: list[vs.VideoFrame]) -> vs.VideoFrame:
        planes = [np.asarray(f[1][plane], np.float32) for plane in range(3)]
        pixels = upscaler.up(np.stack(planes, axis=2).clip(0, 1), size=size)
        frame = f[0].copy()
        for plane in range(3):
            np.asarray(frame[plane])[:] = pixels[..., plane]
        frame.props.clear()
        frame.props.update(f[1].props)
        return frame

    return larger.std.ModifyFrame([larger, clip], enlarged)
