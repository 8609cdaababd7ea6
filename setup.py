"""Builds seemore_fast._C with CMake; everything else about the package is in pyproject.toml.

Where it cannot be built, the package is plain PyTorch and says why; SEEMORE_NATIVE=on makes that an error.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Runs CMakeLists.txt with this Python and puts the module where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        configure = [
            *("cmake", "-S", ROOT, "-B", build, "-G", "Ninja"),
            *(f"-DPython_EXECUTABLE={sys.executable}", f"-DSEEMORE_OUTPUT_DIR={output}"),
        ]
        wish = os.environ.get("SEEMORE_NATIVE") or "auto"
        if wish not in ("auto", "on", "off"):
            sys.exit(f"error: SEEMORE_NATIVE must be auto, on or off, got {wish!r}")
        if wish == "off":
            reason = "it was left out by SEEMORE_NATIVE=off"
        else:
            reason = _failure([*map(str, configure)]) or _failure(["cmake", "--build", str(build)])
        if reason and wish == "on":
            sys.exit(f"error: seemore_fast._C was not built: {reason}")
        note = output / "native_missing.txt"
        note.unlink(missing_ok=True)
        if reason:
            ext.optional = True  # its file need not be there
            output.mkdir(parents=True, exist_ok=True)
            note.write_text(f"it was not built: {reason}\n", encoding="utf-8")
            self.warn(
                f"seemore-fast becomes a plain PyTorch package, for its library was not built: {reason}"
            )


def _failure(command: list[str]) -> str:
    """Runs a step of the build, its output passing through; why it failed, in one line, or nothing."""
    try:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        return f"{command[0]} does not start ({error.strerror}); pip install cmake ninja"
    said = []
    for line in run.stdout:
        sys.stdout.write(line)
        said.append(line)
    if run.wait() == 0:
        return ""
    text = "".join(said)
    if "CMAKE_CXX_COMPILER" in text or ("compiler" in text.lower() and "not able to compile" in text):
        return "no working C++20 compiler was found; install GCC 12 or newer, or Clang 15, and install again"
    errors = [line.strip() for line in said if "error" in line.lower()] or said[-1:] or ["no message"]
    return errors[0].strip()[:200]


setup(
    packages=[
        *find_packages(include=["seemore_fast", "seemore_fast.*"]),
        "seemore_fast.kernels",
        "seemore_fast.csrc.cuda",
    ],
    package_dir={
        "seemore_fast": "seemore_fast",
        "seemore_fast.kernels": "kernels",
        "seemore_fast.csrc.cuda": "csrc/cuda",  # the CUDA kernels' sources, for NVRTC
    },
    package_data={
        "seemore_fast": ["py.typed", "native_missing.txt"],
        "seemore_fast.network.weights": ["*.safetensors", "*.md", "*.yml"],
        "seemore_fast.demo": ["samples/*"],
        "seemore_fast.csrc.cuda": [
            f"{where}.{kind}" for where in ("*", "*/*") for kind in ("cu", "cuh", "h")
        ],
    },
    ext_modules=[Extension("seemore_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
