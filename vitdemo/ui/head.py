"""What stands in the head of the page: its scripts."""

from __future__ import annotations

from vitdemo.ui import STATIC

SCRIPTS = ("reconnect.js", "busy.js", "intake.js")


def head() -> str:
    """For `launch(head=...)`."""
    return "".join(f"<script>{(STATIC / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS)
