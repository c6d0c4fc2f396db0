"""The masks of a segmentation as text: areas and notes."""

from __future__ import annotations

import html
from collections.abc import Sequence

from vitdemo.export.segmentation import COLOURS
from vitdemo.types import Segmentation

KEEP_LINK = """() => {
  const link = document.querySelector("#segment-said .vd-link");
  if (window.vitdemoOpened && link && link.offsetParent) history.replaceState(history.state, "", link.href);
}"""
"""The address bar follows what is shown."""


def segments_html(
    found: Segmentation | str, second: Segmentation | None = None, failed: Sequence[str] = (), link: str = ""
) -> str:
    """A list of masks with their shares of the picture, then notes; or only a message.

    Args:
        second: the other model's.
        link: a query string that brings all of it back.
    """
    if isinstance(found, str):
        return f'<div class="vd-segments"><p role="status">{html.escape(found)}</p></div>'
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in failed)
    if link:
        notes += f'<p><a class="vd-link" href="?{html.escape(link)}">Link to this</a></p>'
    return (
        f'<div class="vd-segments">{_one(found, second is not None)}{_one(second, True) if second else ""}{notes}</div>'
    )


def _one(found: Segmentation, named: bool) -> str:
    items = "".join(
        f'<li><span class="vd-swatch" style="background:{COLOURS[(number - 1) % len(COLOURS)]}" aria-hidden="true"></span>'
        f"{html.escape(name)}: {area:.1%} of the picture</li>"
        for number, name, area in zip(found.numbers, found.names, found.areas, strict=True)
        if found.method in ("attention", "foreground", "parts")
    )
    if found.scores:
        cosines = ", ".join(f"{score:.2f}" for score in found.scores)
        items += f"<li>Best matches, cosine: {cosines}</li>"
    facts = (
        f"{found.spec.name}, {found.patches.shape[1]} \N{MULTIPLICATION SIGN} {found.patches.shape[2]} patches, "
        f"{found.milliseconds:.0f} ms for the forward, {found.device}, {found.dtype}"
    )
    name = f"<strong>{html.escape(found.spec.name)}</strong>" if named else ""
    return f"{name}<ul>{items}</ul>" + "".join(f"<p>{html.escape(note)}</p>" for note in (*found.notes, facts))
