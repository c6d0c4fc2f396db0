"""The measured figures in model cards, and the models table of the README: both stand between two marks."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from vitdemo.evaluation.accuracy import Evaluation
from vitdemo.registry import PROBE_FILE, embedded_models
from vitdemo.settings import ROOT
from vitdemo.types import ModelSpec

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
TABLE_BEGIN, TABLE_END = "<!-- models -->\n", "<!-- /models -->"
TOP1, PER_CLASS, ECE = "top-1", "mean per-class top-1", "expected calibration error"


def write_card(spec: ModelSpec, figures: Evaluation, data: Sequence[Path]) -> None:
    """Write the figures into the model's `README.md`, replacing the previous ones."""
    path = Path(spec.checkpoint) / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {spec.name}\n\n"
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:  # a mark is missing: append, replace nothing
        before, after = before + rest.removeprefix("\n"), "\n"
    path.write_text(before + BEGIN + "\n" + _table(spec, figures, data) + END + after, encoding="utf-8")


def figure(spec: ModelSpec, name: str) -> str | None:
    """A figure from the model's card, such as "59.5%"; None if it is not there."""
    path = Path(spec.checkpoint) / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(rf"^\| {re.escape(name)}(?:, [^|]*)? \| ([^|]+) \|$", text, re.MULTILINE)
    return found[1] if found else None


def models_table() -> str:
    """Markdown table of the embedded models with the figures of their cards."""
    rows = "".join(
        f"| [`{spec.name}`](assets/models/{spec.name}/README.md) | {_kind(spec)} | "
        f"{' | '.join(figure(spec, name) or 'none' for name in (TOP1, PER_CLASS, ECE))} | "
        f"{spec.parameters / 1e6:.1f} M | {spec.bytes / 1e6:.1f} MB |\n"
        for spec in embedded_models()
    )
    return (
        "| name | family | top-1 | mean per class | calibration error | parameters | file |\n"
        f"|---|---|---|---|---|---|---|\n{rows}"
    )


def _kind(spec: ModelSpec) -> str:
    if (Path(spec.checkpoint) / PROBE_FILE).exists():
        return f"{spec.family}, linear probe"
    return f"{spec.family}, distilled" if "distillation" in spec.readouts else spec.family


def write_models_table(readme: Path | None = None) -> None:
    """Write the table between its marks in the repository's README, if both are there."""
    if readme is None:
        if ROOT is None:
            return
        readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    before, begun, rest = text.partition(TABLE_BEGIN)
    _, ended, after = rest.partition(TABLE_END)
    if begun and ended:
        readme.write_text(before + TABLE_BEGIN + models_table() + TABLE_END + after, encoding="utf-8")


def _table(spec: ModelSpec, figures: Evaluation, data: Sequence[Path]) -> str:
    names = " and ".join(f"`{path.name}`" for path in data)
    rows = [
        (TOP1, f"{figures.top1:.1%}"),
        ("top-5", f"{figures.top5:.1%}"),
        (PER_CLASS, f"{figures.mean_per_class:.1%}"),
        (f"{ECE}, temperature {figures.temperature:.2f}", f"{figures.ece:.3f}"),
        (f"labelled photos that score at least {figures.threshold:.2f}", f"{figures.kept:.1%}"),
        (f"photos of no class that score less than {figures.threshold:.2f}", f"{figures.refused:.1%}"),
        ("AUROC of the top score, labelled photos against those of no class", f"{figures.auroc:.3f}"),
    ]
    body = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return (
        f"\nMeasured on {figures.photos} photos of {names}, through the product's own preprocessing "
        f"(PyTorch {torch.__version__}, {datetime.date.today():%Y-%m-%d}):\n\n"
        f"| figure | value |\n|---|---|\n{body}\n"
        f"Measured with `python -m vitdemo evaluate {' '.join(path.name for path in data)} --model {spec.name} --card`; "
        "calibration and shares of scores on the half of the photos that temperature and threshold were not fitted on.\n\n"
    )
