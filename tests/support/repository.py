"""Where the repository lies, whose pages, options and programs tests read and run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
