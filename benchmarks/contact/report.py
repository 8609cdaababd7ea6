"""The report of a course: what each step came to, what was predicted and what was measured.

Made from the rows of a folder, as far as they go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import gpu_targets
from benchmarks.contact import rows
from benchmarks.contact.rows import Row

PREDICTED = Path(__file__).with_name("predicted.json")
"""By benchmarks/gpu_cost.py --docs, in fp16."""

_TIMES = ("cold_ms", "warm_ms", "graph_ms", "wall_ms")


def make(folder: Path) -> str:
    """All tables, as text; those of which nothing is known are left out."""
    tables = {
        "Steps": steps(folder),
        "Launches beside the simulator's": launches(folder),
        "Times, ms": times(folder),
        "Predicted and measured, fp16, ms": predicted(folder),
        "Kernels under ncu beside the model": kernels(folder),
        "Training, ms": training(folder),
        "Targets": gpu_targets.lines(folder),
    }
    return "\n".join(f"== {title}\n{text}\n" for title, lines in tables.items() if (text := "\n".join(lines)))


def steps(folder: Path) -> Iterator[str]:
    """A process that was started and has no end was under way when the course died."""
    last = {row["name"]: row for row in rows.read(folder / "steps.jsonl")}
    for name, row in last.items():
        status = "under way" if row["status"] == "started" else row["status"]
        seconds = f"{row['seconds']:.1f} s" if "seconds" in row else ""
        hint = "" if status == "ok" or "skipped" in status else f", see {name}.log"
        yield f"{name:28} {seconds:>8}  {status}{hint}"
        if hint and (words := _last_line(folder / f"{name}.log")):
            yield f"{'':40}{words}"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    return next((line[:120] for line in reversed(lines) if line), "")


def launches(folder: Path) -> Iterator[str]:
    """For each precision the first wrong launch, or the largest error."""
    found: dict[str, list[Row]] = {}
    for row in rows.read(folder / "launches.jsonl"):
        found.setdefault(row["precision"], []).append(row)
    for precision, some in found.items():
        wrong = next((row for row in some if not row["passed"]), None)
        if wrong is None:
            worst = max(some, key=lambda row: row["error"])
            yield (
                f"{precision}: {len(some)} launches right, the largest error {worst['error']:.1e} in "
                f"{worst['kernel']}"
            )
            continue
        why = wrong.get("failed") or f"{wrong['part']} off by {wrong['error']:.1e}: {wrong['where']}"
        yield f"{precision}: WRONG from launch {wrong['launch']}, {wrong['kernel']}: {why}"


def measured(folder: Path) -> dict[tuple[str, str], Row]:
    """By case and contender."""
    found = {}
    for name in ("times", "compiled", "autotuned"):
        for row in rows.read(folder / f"{name}.jsonl"):
            if "contender" in row:
                found[row["case"], row["contender"]] = row
    return found


def times(folder: Path) -> Iterator[str]:
    for (case, contender), row in measured(folder).items():
        if "failed" in row or "skipped" in row:
            yield f"{case:16} {contender:26} {row.get('failed') or row['skipped']}"
            continue
        figures = "  ".join(f"{key[:-3]} {_ms(row, key)}" for key in _TIMES)
        yield f"{case:16} {contender:26} {figures}  error {row['error']:.1e}{_verdict(row)}"


def _ms(row: Row, key: str) -> str:
    return f"{row[key]:8.3f}" if row.get(key) is not None else f"{'-':>8}"


def _verdict(row: Row) -> str:
    return "" if row["passed"] else f"  ABOVE ITS GATE of {row['gate']:.1e}"


def predicted(folder: Path) -> Iterator[str]:
    """Ours, eager and torch.compile beside the model, for cases that have a prediction for this GPU."""
    card, known = card_of(folder), prediction()
    found = measured(folder)
    contenders = {
        "modelled_ms": "ours fp16",
        "eager_modelled_ms": "free fp16 channels_last",
        "compile_modelled_ms": "compiled fp16",
    }
    for row in known["cases"]:
        if row["card"] != card:
            continue
        case = f"{row['variant'].lower()}-x{row['scale']} {row['size']}"
        for key, contender in contenders.items():
            here = found.get((case, contender), {})
            if "cold_ms" in here:
                ratio = here["cold_ms"] / row[key]
                yield (
                    f"{case:16} {contender:26} predicted {row[key]:8.3f}  measured {here['cold_ms']:8.3f} "
                    f"cold, {ratio:.2f} of it{_verdict(here)}"
                )


def prediction() -> dict[str, Any]:
    return dict(json.loads(PREDICTED.read_text())) if PREDICTED.exists() else {"cases": [], "kernels": []}


def card_of(folder: Path) -> str:
    """The model's name for the GPU; an H100's where it has none."""
    gpu = next((str(row["gpu"]) for row in rows.read(folder / "environment.jsonl")), "")
    cards = dict.fromkeys(row["card"] for row in prediction()["cases"])
    return next((card for card in cards if card in gpu.replace(" ", "")), "H100")


def kernels(folder: Path) -> Iterator[str]:
    """Per launch; wi and wavefronts are per pixel of the input, with the model's beside them."""
    card, known = card_of(folder), prediction()
    for row in rows.read(folder / "profile.jsonl"):
        variant, size = row["case"].split()
        width, height = map(int, size.split("x"))
        model = next((k for k in known["kernels"] if _is(k, card, variant, size, row["kernel"])), None)
        stalls = sorted(row["stalls"].items(), key=lambda item: -item[1])[:3]
        figures = [
            f"{row.get('ns', 0) / 1e6:7.3f} ms ({_of(model, 'modelled_ms', '.3f')})",
            f"issue {row.get('issue_percent', 0):3.0f} %",
            f"wi/px {row.get('instructions', 0) / (width * height):6.1f} ({_of(model, 'wi_per_px', '.1f')})",
            f"wavefronts/px {row.get('shared_wavefronts', 0) / (width * height):5.1f} "
            f"({_of(model, 'shared_wavefronts_per_px', '.1f')})",
            f"conflicts/px {row.get('bank_conflicts', 0) / (width * height):4.1f}",
            f"registers {row.get('registers', 0):.0f} ({_of(model, 'registers', '.0f')})",
            "stalls " + ", ".join(f"{name} {value:.1f}" for name, value in stalls),
        ]
        yield f"{row['kernel']:13} {'  '.join(figures)}"


def _is(kernel: Row, card: str, variant: str, size: str, name: str) -> bool:
    same = kernel["card"] == card and kernel["size"] == size
    of = f"{kernel['variant'].lower()}-x{kernel['scale']}"
    return same and of == variant and _stem(kernel["kernel"]) == _stem(name)


def _stem(kernel: str) -> str:
    """Without the scale, or what sort of stripes' kernel it is."""
    return kernel.removesuffix("_tall").removesuffix("_broad").rstrip("0123456789")


def _of(row: Row | None, key: str, form: str) -> str:
    return "-" if row is None else format(row[key], form)


def training(folder: Path) -> Iterable[str]:
    for row in [*rows.read(folder / "step.jsonl"), *rows.read(folder / "train.jsonl")]:
        what = f"{row['model']} {row['dtype']} {row.get('name', '')}"
        if "failed" in row:
            yield f"{what}: {row['failed']}"
        else:
            yield f"{what:28} {row['median_ms']:8.2f}  error {row['rel_l2']:.1e}{_verdict(row)}"
