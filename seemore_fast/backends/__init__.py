"""What can run here and what shall: the choice of a backend, devices and their memory, precision."""

from seemore_fast.backends.choice import NAMES, check, missing, set_default

__all__ = ["NAMES", "check", "missing", "set_default"]
