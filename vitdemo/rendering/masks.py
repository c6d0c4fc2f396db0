"""Masks, principal components and matches rendered over the crop."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from vitdemo.rendering.overlay import overlay, upsample
from vitdemo.types import AttributionMap, Photo, Segmentation

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000")
"""Mask colours, repeated as needed: the palette of Okabe & Ito 2008, distinguishable with colour blindness."""

DEFAULT_MASK_OPACITY = 0.6


def colours_of(numbers: Sequence[int]) -> NDArray[np.uint8]:
    """RGB colours `[n, 3]` of the masks of these numbers.

    >>> colours_of([1, 9]).tolist()
    [[230, 159, 0], [230, 159, 0]]
    """
    table = np.array([list(bytes.fromhex(colour[1:])) for colour in COLOURS], np.uint8)
    return table[(np.asarray(numbers, np.intp) - 1) % len(table)]


def label_map(masks: NDArray[np.bool_], numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Masks `[n, H, W]` to a label map `[H, W]`: 0, or the number of the first mask there.

    >>> label_map(np.array([[[True, False, False]], [[True, True, False]]]), numbers=[1, 3]).tolist()
    [[1, 3, 0]]
    """
    labels = np.zeros(masks.shape[1:], np.uint8)
    for mask, number in reversed(list(zip(masks, numbers, strict=True))):
        labels[mask] = number
    return labels


def segmentation_overlay(
    photo: Photo, segmentation: Segmentation, opacity: float = DEFAULT_MASK_OPACITY, *, outliers: bool = False
) -> Image.Image:
    """The crop with masks filled and outlined, and numbered if there are several.

    For `pca` the fill is the components; for `similarity` a heat map, with the best matches boxed and numbered.

    Args:
        outliers: whether each outlier patch has a dotted square.
    """
    if segmentation.method == "similarity" and segmentation.values is not None:
        heat = AttributionMap(segmentation.values, segmentation.method, None, None, None)
        pixels = np.array(overlay(photo, segmentation.view, heat, opacity=opacity))
        if outliers:
            _mark_outliers(pixels, segmentation)
        _outline(pixels, segmentation, white=True)
        return _with_boxes(pixels, segmentation)
    pixels = np.array(photo.image.crop(segmentation.view.crop))
    if segmentation.colours is not None:
        fill, where = np.asarray(components_image(segmentation)), _coloured(segmentation).astype(np.uint8)
    else:
        where = label_map(segmentation.masks, segmentation.numbers)
        fill = cv2.LUT(cv2.merge([where] * 3), colours_of(range(256))[:, None])
    cv2.copyTo(cv2.addWeighted(pixels, 1 - opacity, fill, opacity, 0), where, pixels)
    if outliers:
        _mark_outliers(pixels, segmentation)
    _outline(pixels, segmentation, white=segmentation.colours is not None)
    image = Image.fromarray(pixels)
    if len(segmentation.masks) > 1:
        for mask, name in zip(segmentation.masks, segmentation.names, strict=True):
            if mask.any():
                # The number in the name, as in the list of masks: "head 1", "part 3".
                _number(image, innermost_point(mask), name.split()[-1])
    return image


def pairs_image(first: tuple[Photo, Segmentation], second: tuple[Photo, Segmentation]) -> Image.Image:
    """Two crops side by side, scaled to one height, with lines between corresponding patches."""
    crops = [photo.image.crop(found.view.crop) for photo, found in (first, second)]
    height = max(crop.height for crop in crops)
    scales = [height / crop.height for crop in crops]
    crops = [
        crop.resize((max(1, round(crop.width * scale)), height)) for crop, scale in zip(crops, scales, strict=True)
    ]
    gap = max(4, height // 50)
    image = Image.new("RGB", (crops[0].width + gap + crops[1].width, height), "white")
    image.paste(crops[0], (0, 0))
    image.paste(crops[1], (crops[0].width + gap, 0))
    draw, stroke = ImageDraw.Draw(image), max(2, round(height / 200))
    lines = []
    for pair in second[1].pairs:
        ends = []
        for point, (_, found), scale, start in zip(
            (pair.first, pair.second), (first, second), scales, (0, crops[0].width + gap), strict=True
        ):
            left, top = found.view.crop[:2]
            ends.append((round(start + (point[0] - left) * scale), round((point[1] - top) * scale)))
        lines.append((ends[0], ends[1]))
    for number, line in enumerate(lines):
        draw.line(line, "black", 2 * stroke + 1)
        draw.line(line, COLOURS[number % (len(COLOURS) - 1)], stroke)
    for number, line in enumerate(lines, start=1):
        for end in line:
            _number(image, end, str(number))
    return image


def components_image(segmentation: Segmentation) -> Image.Image:
    """The principal components as colours, at the size of the crop; black outside the mask."""
    colours = extended_colours(segmentation)
    height, width = segmentation.masks.shape[1:]
    large = np.stack([upsample(colours[:, :, channel], width, height) for channel in range(3)], axis=-1)
    pixels = np.rint(np.clip(large, 0, 1) * 255).astype(np.uint8)
    pixels[~_coloured(segmentation)] = 0
    return Image.fromarray(pixels)


def extended_colours(segmentation: Segmentation) -> NDArray[np.float32]:
    """Its principal components as colours `[h, w, 3]`, continued beyond the mask, so that its edge is not dark."""
    colours = segmentation.colours
    if colours is None:
        raise ValueError(f"{segmentation.method} has no components.")
    if not segmentation.patches.any():
        return colours
    inside = np.logical_or.reduce(segmentation.patches)
    rows, columns = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    extended: NDArray[np.float32] = colours[rows, columns]
    return extended


def _coloured(segmentation: Segmentation) -> NDArray[np.bool_]:
    """Where components are shown: in the mask, or everywhere without one."""
    if not len(segmentation.masks):
        return np.ones(segmentation.masks.shape[1:], np.bool_)
    inside: NDArray[np.bool_] = np.logical_or.reduce(segmentation.masks)
    return inside


def _mark_outliers(pixels: NDArray[np.uint8], segmentation: Segmentation) -> None:
    """Draw a dotted square around every outlier patch: light dots with a dark rim."""
    if segmentation.outliers is None:
        return
    stroke, (height, width) = _stroke(pixels), pixels.shape[:2]
    rows, columns = segmentation.outliers.shape
    for row, column in np.argwhere(segmentation.outliers).tolist():
        x = [round((column + share) / columns * width) for share in np.linspace(0.15, 0.85, 5)]
        y = [round((row + share) / rows * height) for share in np.linspace(0.15, 0.85, 5)]
        dots = [*((one, y[end]) for one in x for end in (0, -1)), *((x[end], one) for one in y for end in (0, -1))]
        for shade, radius in ((0, 2 * stroke), (255, stroke)):
            for dot in dots:
                cv2.circle(pixels, dot, radius, (shade,) * 3, -1, cv2.LINE_AA)


def _stroke(pixels: NDArray[np.uint8]) -> int:
    longest: int = max(pixels.shape)
    return max(1, round(longest / 400))


def _outline(pixels: NDArray[np.uint8], segmentation: Segmentation, white: bool) -> None:
    """Outline masks in their colour or in white, edged in black, so that the line shows on every photo."""
    stroke = _stroke(pixels)
    colours = colours_of(segmentation.numbers).tolist()
    for mask, colour in zip(segmentation.masks, colours, strict=True):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        line = (255, 255, 255) if white or not any(colour) else colour
        cv2.drawContours(pixels, contours, -1, (0, 0, 0), 3 * stroke, cv2.LINE_AA)
        cv2.drawContours(pixels, contours, -1, line, stroke, cv2.LINE_AA)


def _with_boxes(pixels: NDArray[np.uint8], segmentation: Segmentation) -> Image.Image:
    stroke = _stroke(pixels)
    for colour, width in (((0, 0, 0), 3 * stroke), ((255, 255, 255), stroke)):
        for left, top, right, bottom in segmentation.boxes:
            cv2.rectangle(pixels, (left, top), (max(left, right - 1), max(top, bottom - 1)), colour, width)
    image = Image.fromarray(pixels)
    for number, (left, top, right, bottom) in enumerate(segmentation.boxes, start=1):
        _number(image, ((left + right) // 2, (top + bottom) // 2), str(number))
    return image


def _number(image: Image.Image, centre: tuple[int, int], text: str) -> None:
    """Draw a number in white on a black disc."""
    size = max(9, round(min(image.size) / 28))
    x, y = centre
    draw = ImageDraw.Draw(image)
    radius = round(0.8 * size)
    disc = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(disc, fill="black", outline="white", width=max(1, size // 10))
    draw.text((x, y), text, fill="white", font=ImageFont.load_default(size), anchor="mm")


def innermost_point(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """x and y of the point of a mask that is farthest from its edge."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(x), int(y)
