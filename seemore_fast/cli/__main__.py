"""``python -m seemore_fast.cli``: the command, where its script is not on the PATH."""

from . import main

main()
