"""`robustness`."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdemo.cli.common import (
    EXIT_OK,
    add_command,
    add_inference,
    pipeline_of,
    positive,
    print_json,
    rounded,
    specs_of,
    write,
)
from vitdemo.errors import OptionError
from vitdemo.options.perturbations import PERTURBATIONS, plan_of

if TYPE_CHECKING:
    from vitdemo.types import RobustnessCurve, RobustnessPoint

COLUMNS = (
    *("model", "kind", "unit", "strength", "photos", "accuracy", "agreement", "score", "interval_low", "interval_high"),
    *("follows", "stays"),
)
"""Of the CSV."""


def add_commands(commands: Any) -> None:
    """Define the command."""
    robustness = add_command(
        commands, "robustness", run_robustness, "accuracy on labelled photos that are perturbed more and more"
    )
    robustness.add_argument("data", type=Path, metavar="DATA", help="folder, zip or tar with one folder per class")
    robustness.add_argument(
        "--kinds",
        action="append",
        metavar="NAME",
        help=f"{', '.join(PERTURBATIONS)}; may be repeated, or a,b,c (default: all)",
    )
    robustness.add_argument(
        "--strengths", metavar="A,B,C", help="of a single kind, instead of its own (default: see docs/benchmarks.md)"
    )
    robustness.add_argument("--photos", type=positive, default=200, help="drawn at random (default: 200)")
    robustness.add_argument("--seed", type=int, default=0, help="which photos, cells and patches (default: 0)")
    robustness.add_argument("--csv", type=Path, metavar="FILE", help="write one line per model, kind and strength")
    robustness.add_argument("--out", type=Path, metavar="PNG", help="write one curve per model and kind")
    add_inference(robustness)


def run_robustness(options: argparse.Namespace) -> int:
    plan = plan_of(_parts(options.kinds), _numbers(options.strengths))
    from vitdemo.evaluation.labelled_inputs import draw
    from vitdemo.evaluation.robustness import measure, require_classifier
    from vitdemo.rendering.curves import curves_figure

    specs = [require_classifier(spec) for spec in specs_of(options, every=True)]
    pipeline = pipeline_of(options)
    photos = draw(pipeline, options.data, specs, options.photos, options.seed)
    curves: list[RobustnessCurve] = []
    for spec in specs:
        found = measure(
            pipeline, spec, photos, plan, seed=options.seed, dtype=options.dtype, report=_reporter(spec.name)
        )
        if found[0].note:
            print(found[0].note, file=sys.stderr)
        curves += found
    if options.csv:
        write(options.csv, lambda: options.csv.write_text(curves_csv(curves), encoding="utf-8", newline=""))
    if options.out:
        write(options.out, lambda: curves_figure(curves).save(options.out, format="PNG"))
    if options.json:
        print_json(
            {
                "data": options.data.name,
                "photos": len(photos),
                "seed": options.seed,
                "curves": [curve_json(one) for one in curves],
            }
        )
    else:
        print(tables(curves))
    return EXIT_OK


def curve_json(curve: RobustnessCurve) -> dict[str, Any]:
    """What `--json` prints of a curve; `follows` and `stays` only of a shift."""
    kind = PERTURBATIONS[curve.kind]
    found = {
        "model": curve.model,
        "kind": curve.kind,
        "unit": kind.unit,
        "source": kind.source,
        "measure": curve.measure,
        "points": [_point_json(point, curve.kind) for point in curve.points],
    }
    return {**found, "note": curve.note} if curve.note else found


def _point_json(point: RobustnessPoint, kind: str) -> dict[str, Any]:
    found = {
        "strength": point.strength,
        "photos": point.photos,
        "accuracy": rounded(point.accuracy),
        "agreement": rounded(point.agreement),
        "score": rounded(point.score),
        "interval": [rounded(end) for end in point.interval],
    }
    moves = {"follows": rounded(point.follows), "stays": rounded(point.stays)} if kind == "shift" else {}
    return {**found, **moves}


def curves_csv(curves: Sequence[RobustnessCurve]) -> str:
    """One line per model, kind and strength; what does not apply is empty."""
    buffer = io.StringIO()
    table = csv.writer(buffer)
    table.writerow(COLUMNS)
    for curve in curves:
        for point in curve.points:
            found = _point_json(point, curve.kind)
            low, high = found.pop("interval")
            values = {**found, "interval_low": low, "interval_high": high}
            line = (
                curve.model,
                curve.kind,
                PERTURBATIONS[curve.kind].unit,
                *(values.get(name) for name in COLUMNS[3:]),
            )
            table.writerow(line)
    return buffer.getvalue()


def tables(curves: Sequence[RobustnessCurve]) -> str:
    """For each perturbation a table in Markdown, one row per model; for a shift also of how the last feature map moves."""
    found = []
    for kind in dict.fromkeys(curve.kind for curve in curves):
        own = [curve for curve in curves if curve.kind == kind]
        facts = PERTURBATIONS[kind]
        measures = " or ".join(dict.fromkeys(curve.measure for curve in own))
        found.append(_table(f"{facts.title}, {facts.unit}: {measures}", own, lambda point: f"{point.value:.0%}"))
        if kind == "shift":
            found.append(
                _table(f"{facts.title}, {facts.unit}: how the last feature map follows / stays", own, _moves_worded)
            )
    return "\n".join(found)


def _moves_worded(point: RobustnessPoint) -> str:
    return "-" if point.follows is None or point.stays is None else f"{point.follows:.2f} / {point.stays:.2f}"


def _table(title: str, curves: Sequence[RobustnessCurve], cell: Callable[[RobustnessPoint], str]) -> str:
    neutral = PERTURBATIONS[curves[0].kind].neutral
    strengths = ["none" if point.strength == neutral else f"{point.strength:g}" for point in curves[0].points]
    rows = [["model", *strengths], ["---"] * (1 + len(strengths))]
    rows += [[curve.model, *(cell(point) for point in curve.points)] for curve in curves]
    return f"{title}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _reporter(name: str) -> Callable[[int, int], None]:
    """A line on stderr for every tenth of the photos."""

    def report(done: int, total: int) -> None:
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{name}: {done} of {total} photos", file=sys.stderr, flush=True)

    return report


def _parts(values: Sequence[str] | None) -> list[str]:
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def _numbers(text: str | None) -> list[float]:
    found = []
    for part in _parts([text] if text else []):
        try:
            found.append(float(part))
        except ValueError:
            raise OptionError(
                f"{part!r} is not a number. Give strengths as numbers, such as --strengths 1,2,4."
            ) from None
    return found
