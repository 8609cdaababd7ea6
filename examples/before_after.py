"""Draws README's picture, docs/images/before-after.jpg: the sample by bicubic (left) and by t-x4 (right).

Run as ``python examples/before_after.py`` with seemore-fast installed, whenever the bundled weights change.
"""

from pathlib import Path

from PIL import Image

import seemore_fast

ROOT = Path(__file__).resolve().parents[1]
CROP = (110, 50, 530, 470)  # left, top, right, bottom in the large picture: eyes, nose, whiskers
GAP = 8

with Image.open(ROOT / "examples/cat.png") as file:
    small = file.convert("RGB")
ours = seemore_fast.Upscaler("t-x4").up(small)
bicubic = small.resize(ours.size, Image.Resampling.BICUBIC)

width, height = CROP[2] - CROP[0], CROP[3] - CROP[1]
both = Image.new("RGB", (2 * width + GAP, height), "white")
both.paste(bicubic.crop(CROP), (0, 0))
both.paste(ours.crop(CROP), (width + GAP, 0))
both.save(ROOT / "docs/images/before-after.jpg", quality=90, subsampling=0, optimize=True)
