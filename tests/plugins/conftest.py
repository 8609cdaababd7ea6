"""For the plug-ins' tests: docs/plug-ins.md's scripts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from seemore_fast.model import load
from seemore_fast.network import weights
from tests.support.repository import ROOT

PAGE = ROOT / "docs/plug-ins.md"


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
