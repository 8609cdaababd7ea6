"""What picture files cost beside the network: processor time for reading and writing, and their size.

    python benchmarks/files.py photo.png ...

Read is each photograph in each format, written its part enlarged by the network, for a network's output is
smoother than a photograph and compresses better.  Processor time, of all threads: it depends little on what
else the machine does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from seemore_fast import Upscaler
from seemore_fast.image import Image, read, write

FORMATS = ("png", "jpg", "webp", "tif")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--model", default="t-x4")
    parser.add_argument("--side", type=int, default=480, help="of the part to enlarge, in pixels")
    arguments = parser.parse_args()
    upscaler = Upscaler(arguments.model)
    small = [read(path).pixels[..., :3] for path in arguments.photographs]
    large = [upscaler.up(pixels[: arguments.side, : arguments.side]) for pixels in small]
    print("| format | read, s/MP | written, s/MP | read, bytes/pixel | written, bytes/pixel |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for ext in FORMATS:
            path = Path(folder) / f"picture.{ext}"
            reading = writing = 0.0
            bytes_in = bytes_out = 0
            for pixels, larger in zip(small, large, strict=True):
                writing += seconds(partial(write, path, Image(larger)))
                bytes_out += path.stat().st_size
                write(path, Image(pixels))
                reading += seconds(partial(read, path))
                bytes_in += path.stat().st_size
            pixels_in = sum(pixels.shape[0] * pixels.shape[1] for pixels in small)
            pixels_out = sum(pixels.shape[0] * pixels.shape[1] for pixels in large)
            speeds = f"{reading / pixels_in * 1e6:.3f} | {writing / pixels_out * 1e6:.3f}"
            print(f"| {ext} | {speeds} | {bytes_in / pixels_in:.2f} | {bytes_out / pixels_out:.2f} |")


def seconds(call: Callable[[], object]) -> float:
    """The least processor time of three calls."""
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    main()
