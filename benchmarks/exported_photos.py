"""An exported ONNX file on photographs of different sizes: ONNX Runtime and OpenVINO against float64.

    python benchmarks/exported_photos.py --model t-x4 --onnx t-x4.onnx --photos FOLDER [--count 20]

Each photograph is reduced to a size of its own and run alone and in a batch of three with its mirror and its
negative.  Prints a line each and fails where an error exceeds the limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import seemore_fast
from seemore_fast.export import check
from seemore_fast.network.accuracy import relative_l2

LIMITS = {torch.float32: 1e-5, torch.float16: 3e-3}
"""Largest relative L2 error against float64."""


def onnx_runtime(path: Path) -> Callable[[Tensor], Tensor]:
    """The file in ONNX Runtime, on one thread: more would spin, on machines that have other work."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"lr": x.numpy()})[0])


def open_vino(path: Path) -> Callable[[Tensor], Tensor]:
    """The file in OpenVINO, in the file's own precision."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.from_numpy(compiled(x.numpy())[0])


def photographs(folder: Path, count: int) -> Iterator[tuple[str, Tensor]]:
    """The first ``count`` pictures, each [1, 3, h, w] in [0, 1] with sides of 40 to 200, all different."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".jpg", ".jpeg", ".webp"})
    if not files:
        raise SystemExit(f"{folder}: holds no pictures")
    for i, path in enumerate(files[:count]):
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((40 + (i * 53) % 161, 40 + (i * 31) % 127))
        yield path.name, torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].float() / 255


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns the number of results beyond the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="t-x4")
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20)
    given = parser.parse_args(arguments)

    exact = check.plain(seemore_fast.load(given.model), torch.float64)
    runtimes = {"ONNX Runtime": onnx_runtime(given.onnx), "OpenVINO": open_vino(given.onnx)}
    half = "float16" in _input_type(given.onnx)
    dtype = torch.float16 if half else torch.float32
    worst, ways, bad = dict.fromkeys(runtimes, 0.0), set(), 0
    for name, photo in photographs(given.photos, given.count):
        batch = torch.cat([photo, photo.flip(3), 1 - photo]).to(dtype)
        want = exact(batch.double())
        ways |= set(check.routes(exact, batch.double()))
        errors = []
        for runtime, run in runtimes.items():
            for part in (slice(0, 1), slice(None)):
                errors.append(relative_l2(run(batch[part]), want[part]))
                worst[runtime] = max(worst[runtime], errors[-1])
                bad += not errors[-1] <= LIMITS[dtype]
        size = f"{photo.shape[3]}x{photo.shape[2]}"
        print(f"{name:30} {size:>8}  " + "  ".join(f"{error:.1e}" for error in errors))
    print(f"{len(ways)} routes; largest error " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    return bad


def _input_type(path: Path) -> str:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path)).get_inputs()[0].type


if __name__ == "__main__":
    sys.exit(min(1, main()))
