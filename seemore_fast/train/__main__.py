"""``torchrun ... -m seemore_fast.train -opt FILE``: the command ``seemore-fast train``, in each process."""

import sys

from seemore_fast.cli import app

app(["train", *sys.argv[1:]], prog_name="seemore-fast")
