"""Deletion and insertion curves as a picture and in words."""

from __future__ import annotations

import html
from collections.abc import Sequence

from vitdemo.types import Faithfulness

WIDTH, HEIGHT = 360, 160


def curve_html(found: Faithfulness, label: str, title: str) -> str:
    """Two plots, each with the random baseline, and the areas under the lines."""
    deletion = _plot(found.deletion, found.random, "Deletion: the best patches go first")
    insertion = _plot(found.insertion, found.random[::-1], "Insertion: the best patches come first")
    name = html.escape(label)
    words = (
        f"{html.escape(title)}, score of “{name}” in {len(found.shares) - 1} steps. "
        f"Area of deletion {found.deletion_auc:.3f} (lower is better), "
        f"of insertion {found.insertion_auc:.3f} (higher is better); "
        f"patches in random order {found.random_auc:.3f}."
    )
    verdict = _verdict(found)
    return f'<div class="vd-curve"><div>{deletion}{insertion}</div><p>{words} <strong>{verdict}</strong></p></div>'


def _verdict(found: Faithfulness) -> str:
    removes, brings = found.deletion_auc < found.random_auc, found.insertion_auc > found.random_auc
    if removes and brings:
        return "The map names patches that matter more than random ones, both ways."
    if removes or brings:
        return f"Better than random by {'deletion' if removes else 'insertion'} only."
    return "No better than random patches on this photo."


def _plot(values: Sequence[float], baseline: Sequence[float], caption: str) -> str:
    lines = f'<polyline class="vd-random" points="{_points(baseline)}"/><polyline class="vd-line" points="{_points(values)}"/>'
    return (
        f'<figure><svg viewBox="-44 -8 {WIDTH + 54} {HEIGHT + 34}" role="img" aria-label="{caption}; numbers below">'
        f'<path class="vd-axis" d="M0 0V{HEIGHT}H{WIDTH}"/>{lines}'
        f'<text x="-6" y="6" text-anchor="end">100%</text><text x="-6" y="{HEIGHT}" text-anchor="end">0%</text>'
        f'<text x="0" y="{HEIGHT + 18}">no patch</text><text x="{WIDTH}" y="{HEIGHT + 18}" text-anchor="end">all patches</text>'
        f"</svg><figcaption>{caption}; dashed: random order</figcaption></figure>"
    )


def _points(values: Sequence[float]) -> str:
    step = WIDTH / (len(values) - 1)
    return " ".join(f"{index * step:.1f},{HEIGHT * (1 - value):.1f}" for index, value in enumerate(values))
