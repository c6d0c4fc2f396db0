"""Thumbnails of several photos, each with the models' labels and how far they disagree."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from vitdemo.pipeline.batch import Row, grouped, in_words, ranked, rows_csv
from vitdemo.ui import STATIC

SIDE = 256
"""Long side of a thumbnail, in pixels."""


def gallery(elem_id: str, target: str) -> gr.HTML:
    """The component; its values are results of `gallery_value`, or None before the first run.

    `select` fires with the `index` of the photo that was chosen, as it was given, not as it is shown; then the page scrolls to
    the element with the id `target`.
    """
    return gr.HTML(
        None,
        html_template=(
            f'<div class="vd-gallery" role="group" aria-label="Compared photos" data-target="{target}">'
            '<div class="vd-state"><p role="status"></p><progress aria-label="Photos compared" hidden></progress>'
            '<a class="vd-csv" download="vitdemo-photos.csv" hidden>Download CSV</a></div><ol></ol></div>'
        ),
        css_template=(STATIC / "gallery.css").read_text(encoding="utf-8"),
        js_on_load=(STATIC / "gallery.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def gallery_value(
    run: str, state: str, titles: Sequence[str], models: int, rows: Sequence[Row], cards: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Everything that the gallery shows.

    Args:
        run: a name of its own, so that nothing of an earlier run stays on the page.
        state: `waiting`, `running`, `done` or `stopped`.
        titles: of all photos that were asked for.
        models: how many there are, for the room that each photo will need.
        rows, cards: of the photos that are done, in the order in which they were given.
    """
    ended = state in ("done", "stopped")
    return {
        "run": run,
        "state": state,
        "titles": list(titles),
        "models": models,
        "cards": list(cards),
        "status": _status(state, len(titles), rows),
        # Sorted once, at the end: nothing moves under the pointer meanwhile.
        "order": ranked(rows) if ended else list(range(len(rows))),
        "csv": rows_csv(rows[index] for index in ranked(rows)) if ended and rows else "",
    }


def card(row: Row, image: Image.Image | None) -> dict[str, Any]:
    """One photo of the gallery."""
    doubt = [answer.model for answer in row.answers if answer.uncovered]
    return {
        "src": _thumbnail(image) if image is not None else "",
        "groups": [(label or "no classifier", _named(models, row)) for label, models in grouped(row)],
        "doubt": _named(doubt, row),
        "disagreement": row.disagreement,
        "words": in_words(row),
        "maps": row.map_disagreement,
        "error": row.error,
    }


def _named(models: list[str], row: Row) -> list[str]:
    return [f"all {len(models)} models"] if len(models) == len(row.answers) > 2 else models


def _status(state: str, total: int, rows: Sequence[Row]) -> str:
    failed = sum(bool(row.error) for row in rows)
    broken = f" {failed} could not be compared." if failed else ""
    if state == "waiting":
        return f"Waiting: 0 of {_photos(total)} compared."
    if state == "running":
        return f"{len(rows)} of {_photos(total)} compared.{broken}"
    if state == "stopped":
        return (
            f"Stopped: {len(rows)} of {_photos(total)} compared{', most disagreement first' if rows else ''}.{broken}"
        )
    return f"{_photos(total - failed)} compared, most disagreement first.{broken}"


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _thumbnail(image: Image.Image) -> str:
    scale = min(1.0, SIDE / max(image.size))
    # `thumbnail` would turn a 1 x 5000 photo into one of 0 columns.
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2).save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
