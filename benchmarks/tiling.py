"""Exact tiling against one call: time, and peak memory beside what `memory_needed` says.

    python benchmarks/tiling.py --model t-x4 --size 2048x1536 --tiles 256,512,1024

Each line is a process of its own, which prints it: with MALLOC_MMAP_THRESHOLD_ fixed, every large block goes
back to the system when freed.  Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from seemore_fast.measure.bench import network_for
from seemore_fast.upscale import exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="t-x4")
    parser.add_argument("--size", default="2048x1536", help="width x height of the input")
    parser.add_argument("--tiles", default="256,512,1024", help="0: one call")
    parser.add_argument("--places", default="memory,file", help="where the stream is")
    parser.add_argument("--folder", help="of the file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if "SEEMORE_TILING_TASK" in os.environ:
        return measure(**json.loads(os.environ["SEEMORE_TILING_TASK"]))
    print(f"{'tile':>5} {'stream':>7} {'seconds':>8} {'peak MB':>8} {'foretold':>8}", flush=True)
    width, height = map(int, arguments.size.split("x"))
    for tile in map(int, arguments.tiles.split(",")):
        for place in arguments.places.split(",") if tile else ["-"]:
            task = {
                "model": arguments.model,
                "height": height,
                "width": width,
                "tile": tile,
                "place": place,
                "folder": arguments.folder,
                "threads": arguments.threads,
            }
            environment = {"MALLOC_MMAP_THRESHOLD_": "131072", "SEEMORE_TILING_TASK": json.dumps(task)}
            subprocess.run([sys.executable, __file__], env={**os.environ, **environment}, check=True)


def measure(
    model: str, height: int, width: int, tile: int, place: str, folder: str | None, threads: int
) -> None:
    torch.set_num_threads(threads)
    network = network_for(model, "auto")
    x = torch.randint(0, 256, (1, network.config["in_chans"], height, width), dtype=torch.uint8)
    with torch.no_grad():
        network(x[..., :64, :64])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, start = status("VmRSS"), time.perf_counter()
    if tile == 0:
        with torch.no_grad():
            network(x)
    else:
        exact.upscale_exact(
            network,
            x,
            tile,
            lambda first, rows: None,
            memory=0 if place == "file" else None,
            folder=folder,
        )
    seconds, peak = time.perf_counter() - start, status("VmHWM") - before
    foretold = exact.memory_needed(network, 1, height, width, tile, stream_in_file=place == "file")
    print(f"{tile:5} {place:>7} {seconds:8.1f} {peak / 1e6:8.0f} {foretold / 1e6:8.0f}", flush=True)


def status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
