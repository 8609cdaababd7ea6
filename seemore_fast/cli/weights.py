"""``seemore-fast weights``: which weights there are by name, and where they lie."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from seemore_fast.system.terminal import Screen


def command() -> None:
    """List the weights that --model takes by name: bundled, fetched before, known.

    A known one is fetched when it is first asked for. Further ones can be added to the table that the last
    line names; docs/guide.md tells how.

    Exit status:
    0    always, but
    2    where your own table, or the record of what was fetched, cannot be read
    """
    from seemore_fast.network import weights
    from seemore_fast.network.weights import catalogue

    table = Table(box=None)
    for column in ("name", "scale", "Set5, dB", "kB", "licence", "where"):
        table.add_column(column, justify="right" if column in ("Set5, dB", "kB") else "left")
    for name in weights.names():
        card, file = weights.CARDS[name], weights.path(name)
        _row(table, name, f"x{name[-1]}", card.set5, file.stat().st_size, card.licence, "bundled")
    known = catalogue.known()
    for entry in known.values():
        _known(table, entry)
    console = Screen()
    console.print(table)
    places = dict.fromkeys(entry.by_hand for entry in known.values() if not entry.places)
    for line in (
        "known: fetched when first asked for",
        *(f"by hand: {place}; then give the file, --model FILE" for place in places),
        f"your own table: {catalogue.users_table() or 'none, for there is no home folder'}",
    ):
        console.print(Text(line), soft_wrap=True)


def _known(table: Table, entry: Any) -> None:
    from seemore_fast.network.weights import fetch

    file = fetch.cached(entry)
    seen = fetch.sha256(entry)
    if file is not None and not file.is_file():
        file = None
    if file is not None:
        where = f"cached, SHA-256 {(seen or '?')[:12]}"
    else:
        where = "known" if entry.places else "by hand"
    size = None if file is None else file.stat().st_size
    _row(table, entry.name, f"x{entry.config['scale']}", entry.set5, size, entry.licence, where)


def _row(
    table: Table, name: str, scale: str, set5: float | None, size: int | None, licence: str, where: str
) -> None:
    psnr = "" if set5 is None else f"{set5:.2f}"
    table.add_row(*map(Text, (name, scale, psnr, "" if size is None else f"{size // 1000}", licence, where)))
