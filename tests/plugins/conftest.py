"""For the plug-ins' tests: docs/plug-ins.md's scripts, and a stand-in where torchvision is missing."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from seemore_fast import weights
from seemore_fast.model import load

PAGE = Path(__file__).resolve().parents[2] / "docs/plug-ins.md"


@pytest.fixture
def torchvision_or_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """spandrel and BasicSR import torchvision, whose only build on PyPI wants a CUDA torch.

    Without it, its names are there for their import statements; nothing that SeemoRe needs ever calls them.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return

    class Absent(ModuleType):
        __path__: list[str] = []  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"BILINEAR": None})

    names = ["", ".transforms", ".transforms.functional", ".transforms.functional_tensor"]
    names += [".models", ".models.vgg", ".ops", ".utils"]
    for name in names:
        monkeypatch.setitem(sys.modules, f"torchvision{name}", Absent(f"torchvision{name}"))


@pytest.fixture
def run_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the page's script that has ``marker`` in it, in a folder with the weights; gives its names."""
    monkeypatch.chdir(tmp_path)
    torch.save({"params": load("t-x4").state_dict()}, "seemore_t_x4.pth")

    def run(marker: str, **names: Any) -> dict[str, Any]:
        scripts = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        (script,) = [script for script in scripts if marker in script]
        exec(compile(script, "plug-ins.md", "exec"), names)
        return names

    assert "t-x4" in weights.names()
    return run
