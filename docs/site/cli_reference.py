"""Writes docs/cli-reference.md from the commands themselves: python docs/site/cli_reference.py"""

from __future__ import annotations

import enum
import re
import typing
from pathlib import Path
from typing import Any

from typer.main import get_command

from seemore_fast.cli import app

PAGE = Path(__file__).resolve().parents[1] / "cli-reference.md"

_HEAD = """# Every option

Written by `python docs/site/cli_reference.py` from the commands' own help; a test tells when it is out of
date. [The command line](cli.md) says what they are for.
"""


def page() -> str:
    """The page's text."""
    parts = [_HEAD]
    choices = {command.name: _choices(command.callback) for command in app.registered_commands}
    for name, command in sorted(get_command(app).commands.items()):
        summary, _, rest = (command.help or "").replace("\b\n", "").strip().partition("\n\n")
        parts.append(f"\n## {name}\n\n{_plain(summary)}\n\n| option | |\n|---|---|\n")
        parts += [row for parameter in command.params if (row := _row(parameter, choices[name]))]
        if rest:
            parts.append("\n" + "\n".join(f"    {line}".rstrip() for line in rest.splitlines()) + "\n")
    return "".join(parts)


def _choices(function: Any) -> dict[str, list[str]]:
    """The values of a command's parameters that are enumerations."""
    found = {}
    for name, hint in typing.get_type_hints(function).items():
        for kind in (hint, *typing.get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, enum.Enum):
                found[name] = [str(member.value) for member in kind]
    return found


def _row(parameter: Any, choices: dict[str, list[str]]) -> str:
    """One table row; nothing for hidden parameters and --help."""
    if getattr(parameter, "hidden", False) or parameter.name == "help":
        return ""
    names = [*parameter.opts, *parameter.secondary_opts]
    if names and not names[0].startswith("-"):
        names = [parameter.metavar or parameter.name.upper()]
    text = getattr(parameter, "help", None) or ""
    if parameter.name in choices:
        text += f" One of {', '.join(choices[parameter.name])}."
    shown = getattr(parameter, "show_default", None)
    default = shown if isinstance(shown, str) else parameter.default
    if parameter.required:
        text += " Required."
    elif default not in (None, False, "", []) and not callable(default):
        text += f" Default: {getattr(default, 'value', default)}."
    return f"| {', '.join(f'`{name}`' for name in names)} | {_plain(text)} |\n"


def _plain(text: str) -> str:
    """On one line, safe in a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
