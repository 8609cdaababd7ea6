"""SeemoRe as a ``.pt2`` file: a torch.export program, or an AOTInductor package, machine code in a file.

Both are run by PyTorch alone, without this package, with live routing and any batch, height and width.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx.experimental import _config as shapes

from seemore_fast.errors import SeemoreError
from seemore_fast.export.check import check, example_and_sizes, plain, quiet
from seemore_fast.network import reference
from seemore_fast.system.atomic import atomic_path


def export_program(model: reference.SeemoRe, path: str | os.PathLike[str]) -> None:
    """Writes ``model`` as a torch.export program: ``torch.export.load(path).module()(lr)``.

    float32; lr (n, in_chans, h, w) with n >= 1 and h, w >= ``model.min_size``.  The file appears only after
    it was read back and held to float64 on pictures that take different experts.

    Raises SeemoreError where ``path`` does not end in ``.pt2`` or cannot be written, or the check fails.
    """
    target, network = _target(path), plain(model)
    program = _trace(network)
    try:
        with atomic_path(target) as temporary:
            # To an open file: by name, PyTorch insists on the suffix.
            with temporary.open("wb") as file, quiet():
                torch.export.save(program, file)
            with temporary.open("rb") as file, quiet():
                loaded = torch.export.load(file).module()
            check(network, loaded, "torch.export")
    except OSError as error:
        raise SeemoreError(f"{target}: cannot be written ({error.strerror})") from None


def export_aoti(model: reference.SeemoRe, path: str | os.PathLike[str]) -> None:
    """Writes ``model`` as an AOTInductor package: ``torch._inductor.aoti_load_package(path)(lr)``.

    float32, compiled for the instructions of this machine's CPU; from C++, PyTorch's
    ``AOTIModelPackageLoader`` runs it without Python.  Sizes and check are those of `export_program`.
    Compiling takes a minute or two.

    Raises SeemoreError as that does, and where there is no C++ compiler.
    """
    target, network = _target(path), plain(model)
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise SeemoreError("AOTInductor: needs a C++ compiler (g++, or the one that CXX names)")
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    program = _trace(network)
    # Compiled under a name of its own beside the target, for PyTorch asks for the suffix .pt2 here.
    part = target.with_name(f".{target.stem}.{os.getpid()}.pt2")
    try:
        with atomic_path(target) as temporary:
            with quiet():
                aoti_compile_and_package(program, package_path=str(part))
                loaded = aoti_load_package(str(part))
            check(network, loaded, "AOTInductor")
            os.replace(part, temporary)
    except OSError as error:
        raise SeemoreError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix != ".pt2":
        raise SeemoreError(f"{target}: PyTorch's exported programs must end in .pt2")
    if not target.parent.is_dir():
        raise SeemoreError(f"{target}: there is no folder {target.parent}")
    return target


def _trace(network: reference.SeemoRe) -> ExportedProgram:
    example, sizes = example_and_sizes(network)
    # Without this the example's coarsest map, one pixel high, would fix the height.
    with quiet(), shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(network, (example,), dynamic_shapes=(sizes,))
