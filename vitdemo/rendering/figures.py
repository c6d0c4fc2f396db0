"""Figures to save: pictures in a row, with captions and colour bars. Text is black on white."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitdemo.options.methods import METHODS
from vitdemo.rendering.overlay import DEFAULT_COLOUR_MAP, colour_table, overlay
from vitdemo.rendering.scale import ColourScale, colour_scale, worded
from vitdemo.types import Explanation, Photo, Reconstruction

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLUMNS = 6
"""Most pictures in a row."""

MARGIN, LINE, BAR = 16, 22, 8
"""Pixels between pictures, from one line of text to the next, and of a colour bar's height."""


def reconstruction_figure(photo: Photo, found: Reconstruction) -> Image.Image:
    """The crop, the masked input and the reconstruction in a row."""
    width, height = found.seen.size
    crop = photo.image.crop(found.view.crop).resize((width, height), Image.Resampling.LANCZOS)
    figure = Image.new("RGB", (3 * width + 16, height), "white")
    for index, image in enumerate((crop, found.seen, found.filled)):
        figure.paste(image, (index * (width + 8), 0))
    return figure


def picture_row(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures of one size side by side, in rows of at most six, each over its caption."""
    width, height = pictures[0].size
    columns = min(COLUMNS, len(pictures))
    block = height + LINE + MARGIN
    rows = -(-len(pictures) // columns)
    figure = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * block + MARGIN), "white")
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(15)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = MARGIN + index % columns * (width + MARGIN), MARGIN + index // columns * block
        figure.paste(picture, (left, top))
        draw.text((left, top + height + 4), caption, fill="black", font=font)
    return figure


def comparison_figure(photo: Photo, explanations: Sequence[Explanation], side: int = 320) -> Image.Image:
    """One column per model, in rows of at most six: overlay, colour bar, name, best labels."""
    bold, plain, small = (ImageFont.load_default(size) for size in (17, 15, 13))
    scales = _scales(explanations)
    captions = [_caption(one, side, bold, plain) for one in explanations]
    columns = min(COLUMNS, max(1, len(explanations)))
    tallest = max((len(caption) for caption in captions), default=0)
    block = side + BAR + LINE + tallest * LINE + MARGIN
    rows = -(-len(explanations) // columns)
    figure = Image.new("RGB", (columns * (side + MARGIN) + MARGIN, rows * block + MARGIN), "white")
    draw = ImageDraw.Draw(figure)
    for index, (explanation, scale, caption) in enumerate(zip(explanations, scales, captions, strict=True)):
        left, top = MARGIN + index % columns * (side + MARGIN), MARGIN + index // columns * block
        image = photo.image.crop(explanation.view.crop)
        if explanation.map is not None and scale is not None:
            image = overlay(photo, explanation.view, explanation.map, scale=scale)
            low, high = _ends(explanation, scale)
            _bar(figure, left, top + side + 4, side)
            draw.text((left, top + side + BAR + 6), low, fill="black", font=small)
            draw.text((left + side, top + side + BAR + 6), high, fill="black", font=small, anchor="ra")
        zoom = side / max(image.size)
        image = image.resize((max(1, round(image.width * zoom)), max(1, round(image.height * zoom))))
        figure.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
        for number, (text, font) in enumerate(caption):
            draw.text((left, top + side + BAR + LINE + 6 + number * LINE), text, fill="black", font=font)
    return figure


def _scales(explanations: Sequence[Explanation]) -> list[ColourScale | None]:
    """One for all where values have one unit, as on the page; methods that follow gradients have a unit for each model."""
    maps = [one.map for one in explanations if one.map is not None]
    shared = len(maps) > 1 and not any(METHODS[one.method].class_specific for one in maps)
    common = colour_scale([one.values for one in maps]) if shared else None
    return [None if one.map is None else common or colour_scale([one.map.values]) for one in explanations]


def _ends(explanation: Explanation, scale: ColourScale) -> tuple[str, str]:
    """What the ends of the colour bar stand for."""
    shares = explanation.map is not None and explanation.map.method == "attention"
    return worded(scale.low, shares), worded(scale.high, shares) + (" or more" if scale.capped else "")


def _bar(figure: Image.Image, left: int, top: int, width: int) -> None:
    ramp = colour_table(DEFAULT_COLOUR_MAP)[np.linspace(0, 255, width).astype(int)]
    figure.paste(Image.fromarray(np.repeat(ramp[None], BAR, axis=0)), (left, top))


def _caption(explanation: Explanation, width: int, bold: Font, plain: Font) -> list[tuple[str, Font]]:
    """Lines of text, whole."""
    prediction = explanation.prediction
    labels = [f"{label.score:.0%}  {label.label}" for label in prediction.labels[:3]]
    texts = [(prediction.spec.name, bold)]
    texts += [(text, plain) for text in labels or ["no classifier: self-supervised"]]
    return [(line, font) for text, font in texts for line in _wrapped(text, width, font)]


def _wrapped(text: str, width: int, font: Font) -> list[str]:
    """At spaces where there are some, else anywhere."""
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        if lines[-1] and font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength((lines[-1] + character).rstrip()) > width:
                lines.append("")
            lines[-1] += character
    return [line.rstrip() for line in lines]
