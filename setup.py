"""Builds seemore_fast._C with CMake; everything else about the package is in pyproject.toml.

Where it cannot be built, the package is plain PyTorch and says why; SEEMORE_NATIVE=on makes that an error.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

_COMPILER = {
    "darwin": "Xcode's command line tools (xcode-select --install)",
    "win32": "Clang (Visual Studio's or LLVM's; then set CXX=clang-cl)",
}.get(sys.platform, "GCC 12 or newer, or Clang 15")


class CMakeBuild(build_ext):
    """Runs CMakeLists.txt with this Python and puts the module where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        module = Path(self.get_ext_fullpath(ext.name)).resolve()
        output = module.parent
        used = ROOT / "seemore_fast" if self.editable_mode else output
        build = Path(self.build_temp).resolve()
        configure = [
            *("cmake", "-S", ROOT, "-B", build, "-G", "Ninja"),
            *(f"-DPython_EXECUTABLE={sys.executable}", f"-DSEEMORE_OUTPUT_DIR={output}"),
        ]
        wish = os.environ.get("SEEMORE_NATIVE") or "auto"
        if wish == "auto" and os.environ.get("SEEMORE_CUDA") == "on":
            wish = "on"  # its kernels are of no use without the library
        if wish not in ("auto", "on", "off"):
            sys.exit(f"error: SEEMORE_NATIVE must be auto, on or off, got {wish!r}")
        if wish == "off":
            reason = "it was left out by SEEMORE_NATIVE=off"
        else:
            # What it found the last time may be gone: pip's ninja of that time, a compiler, the tree's place.
            (build / "CMakeCache.txt").unlink(missing_ok=True)
            reason = _failure([*map(str, configure)]) or _failure(["cmake", "--build", str(build)])
        if reason and wish == "on":
            sys.exit(f"error: seemore_fast._C was not built: {reason}")
        note = used / "native_missing.txt"
        note.unlink(missing_ok=True)
        if self.editable_mode:  # of which setuptools takes the module alone
            for kernels in output.glob("cuda_kernels.zip"):
                shutil.copy2(kernels, used)
        if reason:
            ext.optional = True  # its file need not be there
            for place in {output, used}:  # an earlier build may have left its own
                with suppress(OSError):
                    (place / module.name).unlink()
            used.mkdir(parents=True, exist_ok=True)
            note.write_text(f"it was not built: {reason}\n", encoding="utf-8")
            _say(f"seemore-fast becomes a plain PyTorch package, for its library was not built: {reason}\n")


def _failure(command: list[str]) -> str:
    """Runs a step of the build, its output passing through; why it failed, in one line, or nothing."""
    try:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        return f"{command[0]} does not start ({error.strerror}); pip install cmake ninja"
    said = []
    for line in run.stdout:
        said.append(line.decode(errors="replace"))  # compilers speak the system's language, in any encoding
        _say(said[-1])
    return "" if run.wait() == 0 else _reason("".join(said))


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def _reason(said: str) -> str:
    """What went wrong, by the output of CMake or a compiler, and what would help; at most 300 characters."""
    message = re.search(r"CMake Error[^\n]*:\s*\n((?:\s*\n)?(?:  \S[^\n]*\n)+)", said)
    error = re.search(r"^.*\berror\b.*$", said, re.MULTILINE | re.IGNORECASE)
    if 'corresponding to "Ninja"' in said:
        reason = "ninja was not found; pip install ninja"
    elif "not able to compile" in said or "CMAKE_CXX_COMPILER" in said:
        asked = f" (CXX={os.environ['CXX']})" if os.environ.get("CXX") else ""
        reason = f"no working C++20 compiler was found{asked}; install {_COMPILER}, and install again"
    elif "Could NOT find Python" in said:
        reason = "Python's headers were not found; install python3-dev or python3-devel, and install again"
    elif "pybind11Config.cmake" in said:
        reason = "pybind11 was not found; pip install pybind11"
    elif message:
        reason = message[1]
    else:
        reason = error[0] if error else said.strip().rpartition("\n")[2] or "no message"
    return " ".join(reason.split())[:300]


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
