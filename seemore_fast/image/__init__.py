"""Pictures on disk <-> numpy arrays, with their colour profile and metadata; the formats are libvips's."""

from __future__ import annotations

from .formats import FORMATS, Format
from .picture import Animation, Image
from .reading import MAX_PIXELS, read, size
from .writing import Writer, check_writable, write

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "Animation",
    "Format",
    "Image",
    "Writer",
    "check_writable",
    "read",
    "size",
    "write",
]
