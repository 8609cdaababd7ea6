"""The CUDA kernels as nvcc and ptxas make them: PTX, registers, machine code with lines of PTX.

Results are kept under build-gpu-cost/, by what went into them.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc/cuda"
KEPT = ROOT / "build-gpu-cost"

FLAGS = ("-std=c++20", "-O3", "-ftz=true", "-prec-div=false")


@dataclass(frozen=True)
class Instruction:
    """Of the machine: opcode with modifiers, text, the line of PTX that it comes from, its basic block."""

    opcode: str
    text: str
    line: int
    block: int


@dataclass(frozen=True)
class Compiled:
    """One program (source and options) for one architecture; the dicts are by kernel."""

    program: str
    ptx: str
    registers: dict[str, int]
    sass: dict[str, list[Instruction]]


def tool(name: str) -> str:
    """nvcc, ptxas or nvdisasm: of PATH, a toolkit, or what Triton and NVIDIA's packages bring along.

    Raises FileNotFoundError where there is none.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin:/usr/local/bin")
    for packages in map(Path, sys.path):
        for path in (packages / "triton/backends/nvidia/bin" / name, *packages.glob(f"nvidia/*/bin/{name}")):
            if not found and path.exists():
                found = str(path)
    if not found:
        raise FileNotFoundError(f"{name} is not installed: it comes with CUDA, and nvdisasm with Triton")
    return found


def _run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout}")
    return done.stdout


@functools.cache
def nvcc_version() -> str:
    """Such as 13.0.88."""
    found = re.search(r"V(\d+\.\d+\.\d+)", _run(tool("nvcc"), "--version"))
    assert found
    return found[1]


@functools.cache
def _sources() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in (".cu", ".cuh", ".h"):
            digest.update(path.read_bytes())
    return digest.digest()


def _instructions(listing: str) -> dict[str, list[Instruction]]:
    """Of nvdisasm's text, by kernel; subroutines for rare operands are left out.

    A block ends at a label and behind a branch.
    """
    found: dict[str, list[Instruction]] = {}
    line = block = 0
    here: list[Instruction] = []
    for text in listing.splitlines():
        if section := re.match(r"\.text\.(\S+):", text):
            here = found.setdefault(section[1], [])
            line = 0
        elif lines := re.search(r'nv_debug_ptx_txt[^"]*", line (\d+)', text):
            line = int(lines[1])
        elif label := re.match(r"\s*([.$\w]+):\s*$", text):
            block += 1
            if "__internal" in label[1]:
                here = []
        elif code := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", text):
            body = code[1].strip()
            opcode = re.sub(r"^@!?U?P\w+\s+", "", body).split()[0]
            here.append(Instruction(opcode, body, line, block))
            if opcode.split(".")[0] in ("BRA", "EXIT", "RET", "BRX", "CALL", "BSYNC"):
                block += 1
    return found


def folder_of(source: str, options: str, architecture: int) -> Path:
    """What is made of a program is kept there; another one as soon as any source has changed."""
    key = hashlib.sha256(_sources() + f"{source} {options} {architecture} {FLAGS}".encode())
    folder = KEPT / key.hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ptx_of(source: str, options: str, architecture: int) -> Path:
    """``source`` below csrc/cuda, without .cu, for compute_``architecture``.

    Raises RuntimeError with nvcc's messages where that fails, FileNotFoundError without nvcc.
    """
    path = folder_of(source, options, architecture) / f"kernels-{nvcc_version()}.ptx"
    if not path.exists():
        part, source_file = path.with_suffix(".part"), SOURCES / f"{source}.cu"
        given: list[str | Path] = [f"-arch=compute_{architecture}", "-I", ROOT / "csrc", *options.split()]
        _run(tool("nvcc"), *FLAGS, "-ptx", *given, source_file, "-o", part)
        part.rename(path)
    return path


def compile_source(source: str, options: str, architecture: int) -> Compiled:
    """PTX and machine code of one program; raises what ptx_of does."""
    ptx = ptx_of(source, options, architecture)
    cubin, listing, report = (ptx.with_suffix(suffix) for suffix in (".cubin", ".sass", ".txt"))
    if not report.exists():
        text = _run(tool("ptxas"), f"-arch=sm_{architecture}", "-lineinfo", "-v", ptx, "-o", cubin)
        listing.write_text(_run(tool("nvdisasm"), "-gp", "-c", cubin))
        report.write_text(text)
    found = re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", report.read_text(), re.DOTALL)
    registers = {kernel: int(count) for kernel, count in found}
    return Compiled(f"{source} {options}", ptx.read_text(), registers, _instructions(listing.read_text()))


def compile_all(programs: Sequence[tuple[str, str]], architecture: int) -> list[Compiled]:
    """`compile_source` of each."""
    nvcc_version(), _sources()
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda p: compile_source(p[0], p[1], architecture), programs))
