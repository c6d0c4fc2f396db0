"""Curves of several models as a figure to save: one panel per perturbation, one line per model."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vitdemo.errors import OptionError
from vitdemo.options.perturbations import PERTURBATIONS
from vitdemo.rendering.masks import COLOURS
from vitdemo.types import RobustnessCurve

COLUMNS = 3
"""Most panels in a row."""

WIDTH, HEIGHT = 300, 180
"""Of a plot, in pixels."""

LEFT, TOP, BOTTOM, RIGHT, LINE = 52, 40, 52, 20, 24
"""Margins around it, and from one line of the legend to the next."""

SCALE = 2
"""Drawn in as many times these pixels: lines and letters stay sharp in print and on dense screens."""


def curves_figure(curves: Sequence[RobustnessCurve]) -> Image.Image:
    """Accuracy over the strength, or agreement where there is none; of one photo, where both are yes or no, the followed score.

    Strengths are at equal distances in their order, the unperturbed photo first. Thin vertical lines are 95% intervals, which a
    single photo has none of.

    Raises:
        OptionError: there are no curves.
    """
    if not curves:
        raise OptionError("There are no curves to draw.")
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    models = list(dict.fromkeys(curve.model for curve in curves))
    # Yellow is too pale for a line on white.
    palette = [colour for colour in COLOURS if colour != "#F0E442"]
    colours = {model: palette[index % len(palette)] for index, model in enumerate(models)}
    columns = min(COLUMNS, len(kinds))
    wide, high = WIDTH + LEFT + RIGHT, HEIGHT + TOP + BOTTOM
    per_line = max(1, columns * wide // 200)
    legend = -(-len(models) // per_line) * LINE + LINE
    size = (columns * wide * SCALE, (-(-len(kinds) // columns) * high + legend) * SCALE)
    figure = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(figure)
    for index, kind in enumerate(kinds):
        place = (index % columns * wide + LEFT, index // columns * high + TOP)
        _panel(draw, place, [curve for curve in curves if curve.kind == kind], colours)
    small = ImageFont.load_default(13 * SCALE)
    for index, model in enumerate(models):
        x = LEFT + index % per_line * 200
        y = size[1] // SCALE - legend + index // per_line * LINE + LINE // 2
        draw.line(_scaled((x, y), (x + 24, y)), fill=colours[model], width=3 * SCALE)
        draw.text(_scaled((x + 32, y))[0], model, fill="black", font=small, anchor="lm")
    return figure


def _panel(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], curves: Sequence[RobustnessCurve], colours: dict[str, str]
) -> None:
    left, top = place
    kind = PERTURBATIONS[curves[0].kind]
    bold, small = ImageFont.load_default(15 * SCALE), ImageFont.load_default(11 * SCALE)
    single = bool(curves[0].pictures)
    measures = dict.fromkeys("score" if single else curve.measure for curve in curves)
    draw.text(_scaled((left, top - 28))[0], f"{kind.title}: {' or '.join(measures)}", fill="black", font=bold)
    for share in (0, 25, 50, 75, 100):
        level = top + HEIGHT * (1 - share / 100)
        draw.line(_scaled((left, level), (left + WIDTH, level)), fill="#DDDDDD", width=SCALE)
        draw.text(_scaled((left - 6, level))[0], f"{share}%", fill="black", font=small, anchor="rm")
    strengths = [point.strength for point in curves[0].points]
    step = WIDTH / max(1, len(strengths) - 1)
    for index, strength in enumerate(strengths):
        text = "none" if strength == kind.neutral else f"{strength:g}"
        draw.text(_scaled((left + index * step, top + HEIGHT + 6))[0], text, fill="black", font=small, anchor="ma")
    draw.text(_scaled((left, top + HEIGHT + 24))[0], kind.unit, fill="black", font=small)
    for curve in curves:
        colour = colours[curve.model]
        places = []
        for index, point in enumerate(curve.points):
            x = left + index * step
            places.append((x, top + HEIGHT * (1 - (point.score if single else point.value))))
            if not single:
                low, high = (top + HEIGHT * (1 - value) for value in point.interval)
                draw.line(_scaled((x, low), (x, high)), fill=colour, width=1)
        draw.line(_scaled(*places), fill=colour, width=2 * SCALE, joint="curve")
        for x, y in _scaled(*places):
            draw.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), fill=colour)


def _scaled(*places: tuple[float, float]) -> list[tuple[float, float]]:
    return [(x * SCALE, y * SCALE) for x, y in places]
