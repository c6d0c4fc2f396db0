"""Model cards of the embedded models: what was measured stands between two marks, the rest is written by hand."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import torch

from vitdemo.evaluation import Evaluation
from vitdemo.types import ModelSpec

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"


def write_card(spec: ModelSpec, figures: Evaluation, data: Sequence[Path]) -> None:
    """Put the figures into `README.md` of the model's folder, in place of the ones that are there."""
    path = Path(spec.checkpoint) / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {spec.name}\n\n"
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:  # no marks, or half of them: nothing that stands there is ours to replace
        before, after = before + rest.removeprefix("\n"), "\n"
    path.write_text(before + BEGIN + "\n" + _table(spec, figures, data) + END + after, encoding="utf-8")


def _table(spec: ModelSpec, figures: Evaluation, data: Sequence[Path]) -> str:
    names = " and ".join(f"`{path.name}`" for path in data)
    rows = [
        ("top-1", f"{figures.top1:.1%}"),
        ("top-5", f"{figures.top5:.1%}"),
        ("mean per-class top-1", f"{figures.mean_per_class:.1%}"),
        (f"expected calibration error, temperature {figures.temperature:.2f}", f"{figures.ece:.3f}"),
        (f"labelled photos that score at least {figures.threshold:.2f}", f"{figures.kept:.1%}"),
        (f"photos of no class that score less than {figures.threshold:.2f}", f"{figures.refused:.1%}"),
    ]
    body = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return (
        f"\nMeasured on {figures.photos} photos of {names}, through the product's own preprocessing "
        f"(PyTorch {torch.__version__}, {datetime.date.today():%Y-%m-%d}):\n\n"
        f"| figure | value |\n|---|---|\n{body}\n"
        f"Measured with `python -m vitdemo evaluate {' '.join(path.name for path in data)} --model {spec.name} --card`; "
        "calibration and shares of scores on the half of the photos that temperature and threshold were not fitted on.\n\n"
    )
