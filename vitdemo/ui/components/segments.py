"""What was found, in words: areas and notes."""

from __future__ import annotations

import html
from collections.abc import Sequence

from vitdemo.takeaway import COLOURS
from vitdemo.types import Segmentation


def segments_html(found: Segmentation | str, failed: Sequence[str] = ()) -> str:
    """A list of masks with their shares of the picture, then notes; or only a message."""
    if isinstance(found, str):
        return f'<div class="vd-segments"><p role="status">{html.escape(found)}</p></div>'
    items = "".join(
        f'<li><span class="vd-swatch" style="background:{COLOURS[(number - 1) % len(COLOURS)]}" aria-hidden="true"></span>'
        f"{html.escape(name)}: {area:.1%} of the picture</li>"
        for number, name, area in zip(found.numbers, found.names, found.areas, strict=True)
        if found.method in ("attention", "foreground", "parts")
    )
    facts = (
        f"{found.spec.name}, {found.patches.shape[1]} \N{MULTIPLICATION SIGN} {found.patches.shape[2]} patches, "
        f"{found.milliseconds:.0f} ms for the forward, {found.device}, {found.dtype}"
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in (*found.notes, *failed, facts))
    return f'<div class="vd-segments"><ul>{items}</ul>{notes}</div>'
