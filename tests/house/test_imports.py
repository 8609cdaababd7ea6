"""What importing the package costs: nothing beyond torch, and optional packages only when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = (
    "av",
    "cv2",
    "gradio",
    "huggingface_hub",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "ray",
    "scipy",
    "spandrel",
    "torchvision",
)


def imported_by(code: str) -> set[str]:
    """Top-level modules that are there after ``code``, in a process of its own."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_command_line_starts_without_torch() -> None:
    assert not imported_by("import seemore_fast, seemore_fast.cli") & {"torch", "numpy", *OPTIONAL}


@pytest.mark.parametrize("name", ["SeemoRe", "load", "Upscaler", "ops"])
def test_no_optional_package_is_imported(name: str) -> None:
    by_torch = imported_by("import torch")
    assert not (imported_by(f"import seemore_fast; seemore_fast.{name}") - by_torch) & set(OPTIONAL)
