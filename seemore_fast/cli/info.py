"""``seemore-fast info``: what to paste into a bug report."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def command(as_json: Annotated[bool, typer.Option("--json", help="As JSON, for tools.")] = False) -> None:
    """Show versions, processor, backends, GPUs and bundled weights; names no path of yours."""
    from seemore_fast.measure.environment import environment

    found = environment()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, box=None)
    for label, text in _rows(found):
        table.add_row(Text(label, style="bold"), Text(text))
    Console().print(table)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    native = found["native"]
    isa = f"{native['isa']} (usable: {', '.join(native['isas'])})" if native["isa"] else native["error"]
    backends = [
        (f"backend {name}", "available" if why is None else f"missing: {why}")
        for name, why in found["backends"].items()
    ]
    return [
        *((name, version or "not installed") for name, version in found["versions"].items()),
        ("platform", found["platform"]),
        ("CPU", found["cpu"]),
        ("cores, threads", f"{found['cores']}, {found['threads']}"),
        ("instruction set", isa),
        *backends,
        ("CUDA of torch", found["cuda"] or "none"),
        ("GPUs", "; ".join(found["gpus"]) or "none"),
        ("weights", ", ".join(found["weights"]) or "none"),
        *found["variables"].items(),
    ]
