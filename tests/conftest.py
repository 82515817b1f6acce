"""Shared places and fixtures."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden"
