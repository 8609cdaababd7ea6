"""``seemore-fast info``: what to paste into a bug report."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from seemore_fast.errors import BackendError
from seemore_fast.system.terminal import Screen


def command(
    gpu: Annotated[
        str | None, typer.Argument(help="With --compile: for such GPUs, as sm_90. Default: the one at hand.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for tools.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check the CUDA engine and the Triton operators of SeemoRe-T on each GPU against PyTorch "
            "first, as their first use does, and show what came of it (compiles for minutes).",
        ),
    ] = False,
    compile_kernels: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the CUDA kernels of the bundled networks into the cache (needs NVRTC, but no GPU), "
            "and show time, registers and spills.",
        ),
    ] = False,
) -> None:
    """Show versions, processor, backends, GPUs and bundled weights; names no path of yours."""
    if compile_kernels:
        _compile(gpu, as_json)
        return
    if gpu is not None:
        raise typer.BadParameter("a kind of GPU goes with --compile", param_hint="gpu")
    if check:
        _check()
    from seemore_fast.measure.environment import environment

    found = environment()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, box=None)
    for label, text in _rows(found):
        table.add_row(Text(label, style="bold"), Text(text))
    Screen().print(table)


def _check() -> None:
    import torch

    from seemore_fast.measure import self_checks

    if not torch.cuda.is_available():
        raise BackendError("there is nothing to check: PyTorch finds no GPU")
    for device in range(torch.cuda.device_count()):
        self_checks.run(torch.device("cuda", device))


def _compile(gpu: str | None, as_json: bool) -> None:
    from seemore_fast.backends import native
    from seemore_fast.engines import cuda_compile

    if gpu is None:
        capability = native.require().cuda_capability(0)
    elif found := re.fullmatch(r"sm_(\d{2,3})", gpu):
        capability = int(found[1])
    else:
        raise typer.BadParameter(f"{gpu!r} is no kind of GPU; one is sm_90", param_hint="gpu")
    kernels = list(cuda_compile.compile_all(capability, cuda_compile.bundled()))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(kernel) for kernel in kernels], indent=2))
        return
    table = Table("kernel", "of", "registers", "spilled bytes", "seconds", box=None)
    for kernel in kernels:
        options = kernel.options.replace("-DSM_", "").replace("SPECIAL ", "")
        figures = (str(kernel.registers), str(kernel.spilled_bytes), f"{kernel.seconds:.1f}")
        table.add_row(kernel.name, Text(f"{kernel.source} {options}"), *figures)
    Screen().print(table)
    spilling = sum(kernel.spilled_bytes > 0 for kernel in kernels)
    typer.echo(f"{len(kernels)} kernels for sm_{capability} are in the cache; {spilling} spill registers")


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    native = found["native"]
    isa = f"{native['isa']} (usable: {', '.join(native['isas'])})" if native["isa"] else native["error"]
    backends = [
        (f"backend {name}", "available" if why is None else f"missing: {why}")
        for name, why in found["backends"].items()
    ]
    checks = [
        (f"check of {what}", f"{verdict['why'] or 'passed'} ({verdict['ms']:.0f} ms)")
        for what, verdict in found["self_checks"].items()
    ]
    return [
        *((name, version or "not installed") for name, version in found["versions"].items()),
        ("platform", f"{found['platform']} (tier {found['tier']})"),
        ("CPU", found["cpu"]),
        ("cores, threads", f"{found['cores']}, {found['threads']}"),
        ("instruction set", isa),
        *backends,
        ("CUDA of torch", found["cuda"] or "none"),
        (
            "CUDA kernels",
            f"ahead: {', '.join(found['kernels']['ahead']) or 'none'}; NVRTC: {found['kernels']['nvrtc']}",
        ),
        *checks,
        ("GPUs", "; ".join(found["gpus"]) or "none"),
        ("weights", ", ".join(found["weights"]) or "none"),
        *found["variables"].items(),
    ]
