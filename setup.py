"""Builds seemore_fast._C with CMake; everything else about the package is in pyproject.toml."""

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
        try:
            subprocess.run(configure, check=True)
            subprocess.run(["cmake", "--build", build], check=True)
        except FileNotFoundError:
            sys.exit("error: building seemore-fast needs cmake >= 3.24 on PATH")
        except subprocess.CalledProcessError:
            sys.exit("error: building seemore_fast._C failed; the compiler's messages are above")


setup(
    packages=[*find_packages(include=["seemore_fast", "seemore_fast.*"]), "seemore_fast.kernels"],
    package_dir={"seemore_fast": "seemore_fast", "seemore_fast.kernels": "kernels"},
    package_data={
        "seemore_fast": ["py.typed"],
        "seemore_fast.network.weights": ["*.safetensors", "*.md"],
        "seemore_fast.demo": ["samples/*"],
    },
    ext_modules=[Extension("seemore_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
