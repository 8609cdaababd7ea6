"""``python -m seemore_fast.cli``: the command, where its script is not on the PATH."""

from seemore_fast.cli import main

main()
