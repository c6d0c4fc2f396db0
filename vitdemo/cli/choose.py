"""`choose`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdemo.cli.common import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    add_command,
    add_inference,
    pipeline_of,
    positive,
    print_json,
    specs_of,
    write,
)
from vitdemo.errors import ChoiceStoppedError
from vitdemo.interrupt import INTERRUPTED, FirstInterruption

if TYPE_CHECKING:
    from vitdemo.evaluation.choose import Accuracy, Choice, Progress

EVERY = 2.0
"""Seconds between lines of progress where there is no terminal."""


def add_commands(commands: Any) -> None:
    """Define the command."""
    choose = add_command(
        commands, "choose", run_choose, "which model for your photos: accuracy, time and size, and why"
    )
    choose.add_argument(
        "data",
        nargs="+",
        type=Path,
        metavar="DATA",
        help="folder, zip or tar: one folder per class, or photos without labels",
    )
    choose.add_argument("--folds", type=positive, default=5, help="of the cross-validation (default: 5)")
    choose.add_argument("--k", type=positive, default=20, help="nearest neighbours that vote (default: 20)")
    choose.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="C",
        help="inverse penalty of the linear probe, scikit-learn's C (default: 1)",
    )
    choose.add_argument(
        "--boxes", type=Path, metavar="JSON", help="COCO file with boxes or masks of objects on these photos"
    )
    choose.add_argument(
        "--labels", type=Path, metavar="FILE", help="CSV or JSON, file name to label, instead of folders"
    )
    choose.add_argument(
        "--no-labels", action="store_true", help="clusters, near duplicates and outliers instead of accuracy"
    )
    choose.add_argument(
        "--clusters",
        type=positive,
        metavar="N",
        help="number of clusters (default: of classes, or what the silhouette prefers)",
    )
    choose.add_argument("--photos", type=positive, metavar="N", help="how many at most, drawn by name (default: all)")
    choose.add_argument("--seed", type=int, default=0, help="of folds and clusters (default: 0)")
    choose.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write report.html, choice.json, models.csv and photos.csv there"
    )
    choose.add_argument(
        "--probe",
        nargs=2,
        action="append",
        default=[],
        metavar=("MODEL", "FOLDER"),
        help="write this model with its linear probe as a model folder; may be repeated",
    )
    add_inference(choose)


def run_choose(options: argparse.Namespace) -> int:
    from vitdemo.evaluation.choose import (
        ChooseRequest,
        choice_csv,
        choice_json,
        choose,
        photos_csv,
        read_labels,
        report_html,
        write_probe,
    )

    request = ChooseRequest(
        data=tuple(options.data),
        folds=options.folds,
        k=options.k,
        strength=options.strength,
        clusters=options.clusters,
        labels=read_labels(options.labels) if options.labels else None,
        ignore_labels=options.no_labels,
        boxes=options.boxes,
        most=options.photos,
        seed=options.seed,
        dtype=options.dtype,
    )
    specs = specs_of(options, every=True)
    interruption, report = FirstInterruption(), _Report()
    interruption.catch()
    try:
        choice = choose(pipeline_of(options), specs, request, report=report, stopped=lambda: interruption.came)
    except ChoiceStoppedError as stopped:
        report.close()
        print(f"vitdemo: {stopped}", file=sys.stderr)
        return INTERRUPTED
    report.close()
    for line in choice.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    for note in choice.notes:
        print(note, file=sys.stderr)
    found = choice_json(choice)
    if options.out:
        from vitdemo.registry import write_json

        out: Path = options.out
        files = {"report.html": report_html(choice), "models.csv": choice_csv(choice), "photos.csv": photos_csv(choice)}
        write(out, lambda: out.mkdir(parents=True, exist_ok=True))
        write(out, lambda: write_json(out / "choice.json", found))
        for name, text in files.items():
            write(out, lambda name=name, text=text: (out / name).write_text(text, encoding="utf-8", newline=""))  # type: ignore[misc]
    for model, folder in options.probe:
        made = write_probe(choice, model, Path(folder))
        print(f"{model} with its probe, {len(made.labels)} classes: {folder}", file=sys.stderr)
    if options.json:
        print_json(found)
    else:
        print(table(choice))
        print(f"\n{choice.verdict.sentence}\n\n{choice.verdict.rests_on}")
    return EXIT_SOME_FAILED if any(one.error for one in choice.candidates) else EXIT_OK


def table(choice: Choice) -> str:
    """The models as a table in Markdown."""
    boxes = any(one.localization for one in choice.candidates)
    head = [
        "model",
        "linear probe",
        f"{choice.request.k}-NN",
        "own classifier",
        "ECE",
        "ms alone",
        "ms batched",
        "memory",
    ]
    head += ["parameters", "licence", *(["energy", "IoU"] if boxes else [])]
    rows = [head, ["---"] * len(head)]
    for one in choice.candidates:
        place = one.localization
        rows.append(
            [
                f"{one.model}{' *' if one.pareto else ''}",
                _worded(one.probe),
                _worded(one.knn),
                _worded(one.own),
                "-" if one.ece is None else f"{one.ece:.3f}",
                "-" if one.ms_alone is None else f"{one.ms_alone:.1f}",
                "-" if one.ms_batched is None else f"{one.ms_batched:.1f}",
                "-" if one.memory is None else f"{one.memory / 1e6:.0f} MB",
                f"{one.parameters / 1e6:.1f} M",
                one.license,
                *(
                    ["-", "-"]
                    if boxes and place is None
                    else [f"{place.energy:.1%}", f"{place.iou:.3f}"]
                    if place
                    else []
                ),
            ]
        )
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    failed = "".join(f"{one.model}: {one.error}\n" for one in choice.candidates if one.error)
    return f"{lines}{failed}* on the Pareto front of accuracy and time"


def _worded(found: Accuracy | None) -> str:
    return "-" if found is None else f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"


class _Report:
    """Progress on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.last = 0.0

    def __call__(self, progress: Progress) -> None:
        words = f"{progress.model}: {progress.stage}" if progress.model else progress.stage
        if sys.stderr.isatty():
            from tqdm import tqdm

            if self.bar is None:
                self.bar = tqdm(
                    total=1.0, file=sys.stderr, dynamic_ncols=True, bar_format="{l_bar}{bar}| {elapsed}{postfix}"
                )
            left = f", {_duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
            self.bar.n = progress.share
            self.bar.set_postfix_str(f"{words} {progress.done}/{progress.total}{left}", refresh=True)
        elif time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            left = f", {_duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
            print(f"{words}, {progress.done:,} of {progress.total:,}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _duration(seconds: float) -> str:
    """How long that is.

    >>> _duration(42.3), _duration(200), _duration(8000)
    ('42 s', '3 min', '2.2 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
