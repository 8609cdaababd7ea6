"""Damages files the way disks, networks and wrong renames do: bit flips, truncations, foreign headers.

As a script it lets the command line loose on many of them, each in bounded memory:
``python tests/support/corrupt.py --images 1000 --checkpoints 300``.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from seemore_fast import SeemoRe
from seemore_fast.network import checkpoint

MEMORY = 6 << 30  # of address space, most of which PyTorch's libraries take
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif", "GIF": ".gif"}


def sound_images() -> list[tuple[str, bytes]]:
    """Small files of every format, gray and colour, with and without alpha, a profile's worth of metadata."""
    yy, xx = np.mgrid[:24, :32]
    rgba = np.stack([yy * 9, xx * 7, (yy * xx) % 256, 255 - yy * 5], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    files = []
    for format_, suffix in SUFFIXES.items():
        modes = ("L", "RGB", "CMYK") if format_ == "JPEG" else ("L", "RGB", "RGBA")
        for mode in modes:
            file = io.BytesIO()
            extra = {"exif": exif} if format_ not in ("GIF", "TIFF") and mode != "CMYK" else {}
            Image.fromarray(rgba).convert(mode).save(file, format_, **extra)
            files.append((suffix, file.getvalue()))
    for mode, options in [("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "jpeg"})]:
        file = io.BytesIO()
        Image.fromarray(rgba).convert(mode).save(file, "TIFF", **options)
        files.append((".tif", file.getvalue()))
    for format_ in ("GIF", "WEBP"):
        file = io.BytesIO()
        frames = [Image.fromarray(np.roll(rgba[..., :3], shift, axis=1)) for shift in range(3)]
        frames[0].save(file, format_, save_all=True, append_images=frames[1:])
        files.append((SUFFIXES[format_], file.getvalue()))
    return files


def sound_checkpoints(folder: Path) -> list[tuple[str, bytes]]:
    """A tiny network as PyTorch and as safetensors file."""
    torch.manual_seed(0)
    network = SeemoRe(scale=2, num_experts=3, num_layers=2, embedding_dim=8, lr_space="exp", topk=1)
    torch.save({"params": network.state_dict()}, folder / "sound.pth")
    checkpoint.save(network, folder / "sound.safetensors")
    return [(suffix, (folder / f"sound{suffix}").read_bytes()) for suffix in (".pth", ".safetensors")]


def damaged(sound: list[tuple[str, bytes]], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged files, as (suffix, content); the same for the same ``seed``."""
    draw = random.Random(seed)
    for index in range(count):
        suffix, data = sound[index % len(sound)]
        kind = draw.choice(("flips", "flips", "header", "cut", "swap", "hole"))
        content = bytearray(data)
        if kind == "flips":
            for _ in range(draw.choice((1, 1, 3, 30))):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == "header":  # where sizes and offsets are
            for _ in range(draw.choice((1, 2, 4))):
                content[draw.randrange(min(len(content), 64))] = draw.randrange(256)
        elif kind == "cut":
            del content[draw.randrange(len(content)) :]
        elif kind == "swap":
            other = draw.choice(sound)[1]
            length = draw.choice((8, 16, 64))
            content[:length] = other[:length]
        else:
            start = draw.randrange(len(content))
            content[start : start + draw.randrange(1, 200)] = b""
        yield suffix, bytes(content)


def limit_memory() -> None:
    """For the child process: a decoder that believes a huge size fails, and does not take the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(*command: object, timeout: float) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in bounded memory."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        preexec_fn=limit_memory,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


# One process for many checkpoints: starting PyTorch takes longer than reading one.
TRY_CHECKPOINTS = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from seemore_fast.cli import app
folder = Path(sys.argv[1])
for model in sorted(folder.glob("model*")):
    arguments = "upscale", folder / "small.png", "-o", folder / "large.png", "--model", model
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    lines = result.stderr.splitlines()
    assert result.exit_code in (0, 2), (model, result.exit_code, result.exception, result.stderr)
    assert len(lines) == (result.exit_code == 2), (model, result.stderr)
    assert (folder / "large.png").exists() == (result.exit_code == 0), model
    (folder / "large.png").unlink(missing_ok=True)
    print(result.exit_code, *lines)
"""


def try_images(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Upscales a folder of damaged pictures; how many were written and how many failed, together all."""
    sound_checkpoints(folder)
    (folder / "in").mkdir()
    for index, (suffix, content) in enumerate(damaged(sound_images(), count, seed)):
        (folder / "in" / f"{index:05}{suffix}").write_bytes(content)
    command = "-m", "seemore_fast.cli", "upscale", folder / "in", "-o", folder / "out"
    done = run(*command, "--model", folder / "sound.pth", timeout=60 + count)
    assert done.returncode in (0, 1), (done.returncode, done.stderr[-3000:])
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    left = [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")]
    assert not left, left
    written = {path.name for path in (folder / "out").iterdir()}
    failed = {line.rpartition("/")[2] for line in done.stderr.splitlines() if "  failed: " in line}
    assert not written & failed
    assert len(written) + len(failed) == count
    return len(written), len(failed)


def try_checkpoints(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Upscales with damaged weights; how many worked all the same and how many were refused, together all."""
    (folder / "small.png").write_bytes(sound_images()[1][1])
    for index, (suffix, content) in enumerate(damaged(sound_checkpoints(folder), count, seed)):
        (folder / f"model{index:05}{suffix}").write_bytes(content)
    done = run("-c", TRY_CHECKPOINTS, folder, timeout=60 + 5 * count)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    codes = [line.split()[0] for line in done.stdout.splitlines()]
    assert len(codes) == count
    return codes.count("0"), codes.count("2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--checkpoints", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print("images written, failed:", *try_images(Path(name), args.images, args.seed), flush=True)
    with tempfile.TemporaryDirectory() as name:
        print("checkpoints used, refused:", *try_checkpoints(Path(name), args.checkpoints, args.seed))


if __name__ == "__main__":
    main()
