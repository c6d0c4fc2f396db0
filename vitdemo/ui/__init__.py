"""The page: tabs, their components, and the HTTP endpoints."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""JavaScript, CSS and HTML of the page."""
