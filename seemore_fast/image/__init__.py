"""Pictures on disk <-> numpy arrays, with their colour profile and metadata; the formats are libvips's."""

from __future__ import annotations

from seemore_fast.image.formats import FORMATS, Format
from seemore_fast.image.picture import Animation, Image
from seemore_fast.image.reading import MAX_PIXELS, read, size
from seemore_fast.image.resample import resampled
from seemore_fast.image.whole import WholeWriter
from seemore_fast.image.writing import Writer, check_writable, open_writer, write

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "Animation",
    "Format",
    "Image",
    "WholeWriter",
    "Writer",
    "check_writable",
    "open_writer",
    "read",
    "resampled",
    "size",
    "write",
]
