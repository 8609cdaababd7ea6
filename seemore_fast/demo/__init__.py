"""The demo page, and its sample photographs (``samples/``)."""

from seemore_fast.demo.page import Limits, serving

__all__ = ["Limits", "serving"]
