"""Several photos through several models: one row per photo, those first on which the models disagree most, and a CSV."""

from __future__ import annotations

import csv
import io
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from vitdemo.errors import NoGPUError, OptionError, VitDemoError
from vitdemo.images.open import Source
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.types import Comparison, Explanation, Label, ModelSpec, Photo

logger = logging.getLogger("vitdemo")

COLUMNS = (
    *("image", "disagreement", "map_disagreement", "model", "family", "label", "score", "second_label", "second_score"),
    *("uncovered", "ms", "device", "dtype", "rank_correlation", "error"),
)
"""Of the CSV."""

AT_ONCE = 10
"""Photos of one call, where each call borrows a GPU; elsewhere one after the other, so that others get their turn."""

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What makes a spreadsheet compute a cell; the wide ones do in East Asian settings."""


@dataclass(frozen=True)
class Answer:
    """One model's answer for one photo."""

    model: str
    family: str
    labels: tuple[Label, ...]
    """The best two; empty for a model without a classifier."""
    uncovered: bool
    milliseconds: float
    device: str
    dtype: str
    rank_correlation: float | None
    """The mean over the other models; None where its map can be compared with none."""


@dataclass(frozen=True)
class Row:
    """One photo, in a few hundred bytes: no image, no map."""

    image: str
    pairs: int = 0
    """Pairs of models of one vocabulary."""
    differing: int = 0
    """Those of them whose best labels differ."""
    map_disagreement: float | None = None
    """1 - the mean rank correlation of all pairs of maps, 0 to 2; None without any."""
    answers: tuple[Answer, ...] = ()
    error: str = ""
    """Why there is no answer."""

    @property
    def disagreement(self) -> float | None:
        """Share of the pairs whose best labels differ, 0 to 1; None without a pair of one vocabulary."""
        return self.differing / self.pairs if self.pairs else None


@dataclass(frozen=True)
class ComparedPhoto:
    """A row and what it was made of. With many photos, only the rows are worth keeping."""

    row: Row
    photo: Photo | None = None
    comparison: Comparison | None = None
    failure: VitDemoError | None = None
    """Why there is no comparison."""


def compare_many(
    pipeline: Pipeline,
    photos: Iterable[tuple[str, Source | Photo]],
    specs: Sequence[ModelSpec],
    request: ExplainRequest | None = None,
    *,
    dtype: str = "auto",
    remember: bool = True,
) -> Iterator[ComparedPhoto]:
    """Compare photo by photo, each one on its own, so that the photos of others get their turn in between.

    Args:
        photos: a name and an image each, which is opened when its turn comes.
        request, dtype, remember: as for `Pipeline.compare`.

    Yields:
        One per photo, as soon as it is done. A photo that fails has its reason in words, and harms no other.

    Raises:
        OptionError: there is no model. The request is checked photo by photo: a point may lie in one, and outside another.
    """
    if not specs:
        raise OptionError("Choose at least one model.")
    remaining = iter(photos)
    while some := list(itertools.islice(remaining, AT_ONCE if pipeline.backend.borrowed else 1)):
        yield from _compared(pipeline, some, specs, request, dtype, remember)


def _compared(
    pipeline: Pipeline,
    photos: Sequence[tuple[str, Source | Photo]],
    specs: Sequence[ModelSpec],
    request: ExplainRequest | None,
    dtype: str,
    remember: bool,
) -> list[ComparedPhoto]:
    """In one call; where one of several fails, each on its own."""
    name = photos[0][0]
    try:
        opened = [pipeline.open(source) for _, source in photos]
        options: dict[str, Any] = {"dtype": dtype, "remember": remember}
        if len(opened) == 1:
            compared = [pipeline.compare(opened[0], specs, request, **options)]
        else:
            compared = pipeline.compare_each(opened, specs, request, **options)
    except NoGPUError as error:
        # It would be refused again for each.
        return [ComparedPhoto(Row(name, error=str(error)), failure=error.with_traceback(None)) for name, _ in photos]
    except Exception as error:
        if len(photos) > 1:
            return [row for one in photos for row in _compared(pipeline, [one], specs, request, dtype, remember)]
        if isinstance(error, VitDemoError):
            return [ComparedPhoto(Row(name, error=str(error)), failure=error.with_traceback(None))]
        logger.exception("One of several photos failed")
        failure = VitDemoError("Something went wrong. It was logged; please try this photo again.")
        return [ComparedPhoto(Row(name, error=str(failure)), failure=failure)]
    return [
        ComparedPhoto(summarise(name, comparison), photo, comparison)
        for (name, _), photo, comparison in zip(photos, opened, compared, strict=True)
    ]


def summarise(name: str, comparison: Comparison) -> Row:
    """The row of a photo."""
    comparable = [pair.same_label for pair in comparison.agreement if pair.same_label is not None]
    correlations = [pair.rank_correlation for pair in comparison.agreement if pair.rank_correlation is not None]
    return Row(
        image=name,
        pairs=len(comparable),
        differing=comparable.count(False),
        map_disagreement=1 - fmean(correlations) if correlations else None,
        answers=tuple(_answer(explanation, comparison) for explanation in comparison.explanations),
    )


def _answer(explanation: Explanation, comparison: Comparison) -> Answer:
    prediction = explanation.prediction
    spec = prediction.spec
    correlations = [
        pair.rank_correlation
        for pair in comparison.agreement
        if spec.name in pair.models and pair.rank_correlation is not None
    ]
    return Answer(
        model=spec.name,
        family=spec.family,
        labels=prediction.labels[:2],
        uncovered=prediction.uncovered,
        milliseconds=prediction.milliseconds,
        device=prediction.device,
        dtype=prediction.dtype,
        rank_correlation=fmean(correlations) if correlations else None,
    )


def ranked(rows: Sequence[Row]) -> list[int]:
    """Indices of the rows: most disagreement first, of equal ones the maps that differ most; then the rest, then what failed."""

    def key(index: int) -> tuple[bool, float, float, int]:
        row = rows[index]
        labels = -1.0 if row.disagreement is None else row.disagreement
        maps = -1.0 if row.map_disagreement is None else row.map_disagreement
        return bool(row.error), -labels, -maps, index

    return sorted(range(len(rows)), key=key)


def in_words(row: Row) -> str:
    """How far the models agree on the label.

    >>> in_words(Row("cat.jpg", pairs=10, differing=7))
    '7 of 10 pairs differ'
    """
    if row.error:
        return row.error
    if not row.pairs:
        return "no two models share their classes"
    if not row.differing:
        return "all models agree" if row.pairs > 1 else "both models agree"
    return f"{row.differing} of {row.pairs} pairs differ" if row.pairs > 1 else "the two models differ"


def grouped(row: Row) -> list[tuple[str, list[str]]]:
    """The best labels, each with its models: the most frequent first; models without a classifier last, under ""."""
    groups: dict[str, list[str]] = {}
    for answer in row.answers:
        groups.setdefault(answer.labels[0].label if answer.labels else "", []).append(answer.model)
    return sorted(groups.items(), key=lambda group: (not group[0], -len(group[1])))


def rows_csv(rows: Iterable[Row]) -> str:
    """One line per photo and model, and one for each photo that failed.

    Text is always in quotes, and none that came with a photo or a model makes a spreadsheet compute: a file may be named
    `=HYPERLINK(...)`.
    """
    buffer = io.StringIO()
    # Quotes around all text, so that no separator of another country's spreadsheet cuts a cell into two.
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for row in rows:
        shared = (row.image, row.disagreement, row.map_disagreement)
        for answer in row.answers:
            first, second = [*((label.label, label.score) for label in answer.labels), ("", None), ("", None)][:2]
            facts = (answer.milliseconds, answer.device, answer.dtype, answer.rank_correlation)
            line = (*shared, answer.model, answer.family, *first, *second, str(answer.uncovered).lower(), *facts, "")
            writer.writerow([cell(value) for value in line])
        if not row.answers:
            empty = [""] * (len(COLUMNS) - len(shared) - 1)
            writer.writerow([cell(value) for value in (*shared, *empty, row.error)])
    return buffer.getvalue()


def cell(value: str | float | None) -> str | float:
    """A value for a CSV, which no spreadsheet computes."""
    if not isinstance(value, str):
        return "" if value is None else float(f"{value:.6g}")
    return f"'{value}" if value.lstrip().startswith(_FORMULA) or value[:1] in tuple("\t\r\n") else value
