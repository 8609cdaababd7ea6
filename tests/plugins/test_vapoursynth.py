"""VapourSynth's filter: clips, sizes, properties, many frames at once; the script of the docs."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("vapoursynth", reason="needs pip install 'seemore-fast[vapoursynth]', Python 3.12")

import vapoursynth as vs

from seemore_fast.errors import VideoError
from seemore_fast.plugins.vapoursynth import upscale
from seemore_fast.upscale import Size, Upscaler
from tests.support.repository import ROOT

PAGE = ROOT / "docs/plug-ins.md"


def clip(format_: int, length: int = 6) -> vs.VideoNode:
    """Every frame of another brightness, with a ramp across."""
    blank = vs.core.std.BlankClip(
        width=32, height=24, format=format_, length=length, fpsnum=24000, fpsden=1001
    )

    def painted(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        for plane in range(3):
            np.asarray(frame[plane])[:] = np.linspace(-0.1, 1, 32) * (plane + 1) / 3 * (n + 1) / length
        frame.props["shot"] = n
        return frame

    return blank.std.ModifyFrame(blank, painted)


def pixels(frame: vs.VideoFrame) -> np.ndarray:
    return np.stack([np.asarray(frame[plane], np.float32) for plane in range(3)], 2)


@pytest.mark.parametrize("size", [None, Size(fit=(50, 50))])
@pytest.mark.parametrize("name", ["RGBS", "RGBH"])
def test_frames_are_the_upscalers(name: str, size: Size | None) -> None:
    source = clip(getattr(vs, name))
    large = upscale(source, "t-x2", size=size)
    height, width = (48, 64) if size is None else (38, 50)
    assert (large.width, large.height, large.num_frames) == (width, height, 6)
    assert (large.format.id, large.fps) == (source.format.id, source.fps)
    upscaler = Upscaler("t-x2")
    for n, (got, given) in enumerate(zip(large.frames(prefetch=6), source.frames(), strict=True)):
        expected = upscaler.up(pixels(given).clip(0, 1), size=size)
        assert np.abs(pixels(got) - expected).max() < (1e-6 if name == "RGBS" else 1e-3)
        assert got.props["shot"] == n


def test_other_formats_are_refused() -> None:
    with pytest.raises(VideoError, match="must be RGBS or RGBH of one size, not YUV420P8"):
        upscale(vs.core.std.BlankClip(format=vs.YUV420P8))


def test_the_documented_script_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = (s for s in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "set_output" in s)
    assert len([line for line in script.splitlines() if line]) == 5
    script = re.sub(
        r"vs\.core\.bs\.VideoSource\(.*?\)", "vs.core.std.BlankClip(None, 32, 24, vs.YUV420P8, 3)", script
    )
    exec(compile(script, "plug-ins.md", "exec"), {})
    frame = vs.get_output(0).clip.get_frame(2)
    assert (frame.width, frame.height) == (64, 48)
