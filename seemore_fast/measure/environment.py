"""What a bug report or a benchmark must say about the machine: versions, processor, backends, GPUs.

Plain data (str, int, list, dict, None) with no path of the user's in it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from seemore_fast.backends import choice, cuda_programs, native, nvrtc
from seemore_fast.errors import BackendError
from seemore_fast.measure import self_checks
from seemore_fast.network import weights
from seemore_fast.system import machine
from seemore_fast.system.folders import without_paths

_PACKAGES = ("seemore-fast", "torch", "numpy", "pyvips", "pyvips-binary", "safetensors", "triton")


def environment() -> dict[str, Any]:
    """Versions, platform, CPU and its instruction sets, threads, backends, checks, GPUs, bundled weights."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "platform": platform.platform(),
        "tier": _tier(),
        "cpu": machine.processor(),
        "cores": machine.cores(),
        "threads": torch.get_num_threads(),
        "native": _native_library(),
        "backends": {name: without_paths(choice.missing(name)) for name in choice.NAMES},
        "cuda": torch.version.cuda,
        "kernels": {"ahead": cuda_programs.compiled_ahead(), "nvrtc": without_paths(str(nvrtc.find()))},
        "self_checks": {what: _said(verdict) for what, verdict in self_checks.verdicts().items()},
        "gpus": _gpus(),
        "weights": weights.names(),
        "variables": {k: without_paths(v) for k, v in sorted(os.environ.items()) if k.startswith("SEEMORE_")},
    }


def _said(verdict: dict[str, Any]) -> dict[str, Any]:
    return {**verdict, "why": without_paths(verdict["why"])}


def _version(package: str) -> str | None:
    # torch tells its build (+cpu, +cu130) only here.
    if package == "torch":
        return torch.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tier() -> str:
    """How well this platform is tested (docs/platforms.md)."""
    where = (platform.system(), platform.machine().lower())
    if where == ("Linux", "x86_64"):
        return "1: everything is tested on it"
    if where in (("Linux", "aarch64"), ("Linux", "arm64"), ("Windows", "amd64")):
        return "2: the native library is tested on it, in an emulator"
    return "3: not tested on it"


def _native_library() -> dict[str, Any]:
    lib = native.lib
    if lib is None:
        return {"isa": None, "isas": [], "error": without_paths(str(native.error))}
    try:
        return {"isa": lib.isa(), "isas": lib.isas(), "error": None}
    except BackendError as error:  # SEEMORE_ISA names none that works here
        return {"isa": None, "isas": lib.isas(), "error": str(error)}


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{d.name}, sm_{d.major}{d.minor}, {d.total_memory / 2**30:.0f} GiB" for d in devices]
