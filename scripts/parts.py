"""Parts of a page that a measurement writes, between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path


def replace_part(page: Path, name: str, body: str) -> None:
    """Write a part anew.

    Raises:
        LookupError: the page has no such part.
    """
    text = page.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    new, count = marks.subn(lambda found: f"{found[1]}{body.rstrip()}\n{found[2]}", text)
    if not count:
        raise LookupError(f"{page.name} has no part {name!r}.")
    page.write_text(new, encoding="utf-8")
