"""Photos whose answers are known: computed one at a time, in this process, before any server runs."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.settings import ASSETS, Settings

SIDE = 640
"""Long side, in pixels."""
CLOSE = 0.04
"""Scores that differ by less are the same: a mark of a few pixels, and batches, change them a little; of 1,632 marked photos one
by more than 0.02, none by 0.03."""
APART = 0.1
"""By how much the scores of two photos differ at least, in one model."""

Scores = Mapping[str, Mapping[str, float]]
"""By model and label."""


@dataclass(frozen=True)
class Known:
    """A photo, and each model's scores of its best labels."""

    image: Image.Image
    scores: Scores

    def fresh(self, numbers: random.Random) -> bytes:
        """As a JPEG file that no cache has seen: one block of pixels is a little brighter or darker."""
        image = self.image.copy()
        left, top = (8 * numbers.randrange(side // 8) for side in image.size)
        block = image.crop((left, top, left + 8, top + 8))
        level = numbers.choice((-12, -9, -6, 6, 9, 12))
        image.paste(block.point([min(255, max(0, value + level)) for value in range(256)] * 3), (left, top))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95)
        return buffer.getvalue()


class Photos:
    """Photos that no two models could mistake for each other, and judgement on answers about them."""

    def __init__(self, known: list[Known], models: list[str]) -> None:
        self.known, self.models = known, models

    @classmethod
    def computed(cls, examples: int | None = None) -> Photos:
        """Of so many of the embedded examples, or of all, with the models that the page opens with."""
        pipeline = Pipeline(Settings(device="cpu"))
        specs = default_models(pipeline.settings)
        found: list[Known] = []
        for image in _images(examples):
            opened = pipeline.open(_encoded(image))
            answers = {spec.name: pipeline.classify([opened], spec, top_k=5)[0].labels for spec in specs}
            scores = {name: {label.label: label.score for label in labels} for name, labels in answers.items()}
            if all(_difference(scores, known.scores) >= APART for known in found):
                found.append(Known(image, scores))
        return cls(found, [spec.name for spec in specs])

    def judge(self, index: int, answer: Sequence[Mapping[str, Any]], models: Sequence[str]) -> str:
        """ "right", "wrong", or "of another": the answer to another photo.

        Args:
            answer: a mapping with `model` and `labels` for each of the `models` that were asked for.
        """
        try:
            scores = {
                str(one["model"]): {str(label["label"]): float(label["score"]) for label in one["labels"]}
                for one in answer
            }
        except (KeyError, TypeError, ValueError):
            return "wrong"
        if list(scores) != list(models):
            return "wrong"

        def fits(known: Known) -> bool:
            return _difference({model: known.scores[model] for model in models}, scores) < CLOSE

        if fits(self.known[index]):
            return "right"
        return "of another" if any(fits(other) for other in self.known) else "wrong"


def _difference(expected: Scores, found: Scores) -> float:
    """The largest one, over all models and the best labels. A label that is not among the found ones counts as 0."""
    return max(
        abs(score - found[model].get(label, 0.0))
        for model, labels in expected.items()
        for label, score in sorted(labels.items(), key=lambda item: -item[1])[:3]
    )


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _images(examples: int | None) -> list[Image.Image]:
    """The examples, their mirror images, and their halves."""
    found = []
    for path in sorted((ASSETS / "examples").glob("*.jpg"))[:examples]:
        with Image.open(path) as opened:
            image = ImageOps.contain(opened.convert("RGB"), (SIDE, SIDE))
        width, height = image.size
        for part in (image, image.crop((0, 0, width * 2 // 3, height)), image.crop((width // 3, 0, width, height))):
            found += [part, ImageOps.mirror(part)]
    return found
