"""Drawings of a choice as SVG, with colours of the page that they stand in: accuracy against time, and maps of the photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from vitdemo.evaluation.choose.types import Candidate, Choice, Floats, Ints

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 16, 44
LARGEST = 26.0
"""Radius, in pixels, of the largest model."""

MAP = 360
MOST_POINTS = 3000
"""Photos of a map; drawn evenly where there are more."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#5B8C2A", "#A23B3B", "#3D6A75")
"""Of Okabe & Ito 2008, without those too pale for a point on white, and darker ones beside them; repeated as needed."""


def scatter(candidates: Sequence[Candidate]) -> str:
    """Accuracy of the probe, with its interval, against milliseconds per photo in a batch, on a logarithmic axis.

    The area of a circle is the number of parameters; the line is the Pareto front. Empty without any such model.
    """
    found = [(one, one.probe, one.ms_batched) for one in candidates]
    points = [(one, probe, ms) for one, probe, ms in found if probe is not None and ms is not None and ms > 0]
    if not points:
        return ""
    times = [math.log10(ms) for _, _, ms in points]
    first, last = min(times) - 0.12, max(times) + 0.12
    low = max(0.0, math.floor(20 * min(probe.low for _, probe, _ in points)) / 20)
    high = min(1.0, math.ceil(20 * max(probe.high for _, probe, _ in points)) / 20)

    def x(ms: float) -> float:
        return LEFT + (math.log10(ms) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + (high - share) / max(high - low, 0.05) * (HEIGHT - TOP - BOTTOM)

    parts = [*_grid(low, high, y), *_times(10**first, 10**last, x)]
    front = sorted((ms, probe.value) for one, probe, ms in points if one.pareto)
    if front:
        # Between two models of the front, the slower one is what more time buys: steps.
        steps = f"M{x(front[0][0]):.1f} {HEIGHT - BOTTOM}V{y(front[0][1]):.1f}"
        steps += "".join(f"H{x(ms):.1f}V{y(share):.1f}" for ms, share in front[1:]) + f"H{WIDTH - RIGHT}"
        parts.append(f'<path class="front" d="{steps}"/>')
    most = max(one.parameters for one, _, _ in points)
    # Large ones first, so that none hides another.
    for one, probe, ms in sorted(points, key=lambda point: -point[0].parameters):
        radius = max(4.0, LARGEST * math.sqrt(one.parameters / most)) if most else 6.0
        words = (
            f"{one.model}: {probe.value:.1%} (95% interval {probe.low:.1%} to {probe.high:.1%}), {ms:.1f} ms, "
            f"{one.parameters / 1e6:.1f} M parameters"
        )
        kind = "model pareto" if one.pareto else "model"
        place = f'cx="{x(ms):.1f}" cy="{y(probe.value):.1f}"'
        parts.append(
            f'<g class="{kind}"><title>{escape(words)}</title>'
            f'<path d="M{x(ms):.1f} {y(probe.low):.1f}V{y(probe.high):.1f}"/>'
            f'<circle {place} r="{radius:.1f}"/><circle class="dot" {place} r="2"/></g>'
        )
    parts += _names([(x(ms), y(probe.value), one.model) for one, probe, ms in points])
    caption = "Accuracy of the linear probe against milliseconds per photo"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{caption}">{"".join(parts)}</svg>'


def _grid(low: float, high: float, y: Callable[[float], float]) -> list[str]:
    step = next(one for one in (0.02, 0.05, 0.1, 0.2) if (high - low) / one <= 8)
    lines = []
    for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        level = y(number * step)
        lines.append(f'<path class="grid" d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{number * step:.0%}</text>')
    return lines


def _times(first: float, last: float, x: Callable[[float], float]) -> list[str]:
    powers = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    ticks = [one * 10.0**power for power in powers for one in (1, 2, 5) if first <= one * 10.0**power <= last]
    if len(ticks) < 2:
        ticks = [float(f"{value:.2g}") for value in np.geomspace(first * 1.05, last / 1.05, 4)]
    texts = [f'<text x="{x(ms):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{ms:g}</text>' for ms in ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*texts, f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">ms per photo, in a batch</text>']


def _names(places: Sequence[tuple[float, float, str]]) -> list[str]:
    """Names beside their circles; those that would lie on another one move down."""
    texts: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for x, y, name in sorted(places, key=lambda place: (place[1], place[0])):
        width = 7.0 * len(name)
        right = x + 10 + width <= WIDTH
        start, level = (x + 10 if right else x - 10 - width), y - 8
        while any(abs(level - other) < 14 and start < end and begin < start + width for begin, end, other in taken):
            level += 14
        taken.append((start, start + width, level))
        texts.append(f'<text class="name" x="{start:.1f}" y="{level:.1f}">{escape(name)}</text>')
    return texts


def photo_map(choice: Choice, places: Floats, groups: Ints, names: Sequence[str], title: str) -> str:
    """Photos at their places `[N, 2]`, in the colours of their groups; -1 is grey."""
    chosen = np.arange(len(places))
    if len(chosen) > MOST_POINTS:
        chosen = np.linspace(0, len(places) - 1, MOST_POINTS).round().astype(int)
    half = MAP / 2 - 8
    points = []
    for photo in chosen:
        group = int(groups[photo])
        colour = PALETTE[group % len(PALETTE)] if group >= 0 else "#999"
        words = choice.photos[photo].name + (f" ({names[group]})" if group >= 0 else "")
        x, y = MAP / 2 + half * float(places[photo, 0]), MAP / 2 - half * float(places[photo, 1])
        points.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"><title>{escape(words)}</title></circle>'
        )
    return f'<svg viewBox="0 0 {MAP} {MAP}" role="img" aria-label="{escape(title)}">{"".join(points)}</svg>'
