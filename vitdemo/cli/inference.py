"""`classify`, `explain`, `compare` and `reconstruct`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdemo.cli.boxes import add_box, boxes_of, measure_boxes, print_box
from vitdemo.cli.common import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    VARIANT_HELP,
    add_command,
    add_display,
    add_inference,
    pipeline_of,
    positive,
    print_json,
    source_of,
    specs_of,
    write,
)
from vitdemo.errors import ImageError, OptionError
from vitdemo.options.methods import METHODS
from vitdemo.registry import reconstructing_model

if TYPE_CHECKING:
    from vitdemo.options.explain import ExplainRequest
    from vitdemo.pipeline import Pipeline
    from vitdemo.types import Explanation, Localization, Photo, Prediction


def add_commands(commands: Any) -> None:
    """Define the commands."""
    classify = add_command(commands, "classify", run_classify, "say what's in images")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="path, URL, or - for standard input")
    classify.add_argument("--top-k", type=positive, default=5, help="labels per model (default: 5)")
    add_inference(classify)

    explain = add_command(commands, "explain", run_explain, "show where one model looked")
    explain.add_argument("image", metavar="IMAGE", help="path, URL, or - for standard input")
    add_display(explain)
    add_map(explain)
    add_box(explain)
    explain.add_argument(
        "--faithfulness", action="store_true", help="deletion and insertion of patches, with a baseline"
    )
    explain.add_argument("--raw", type=Path, metavar="NPZ", help="write the numbers to this file")
    add_inference(explain)

    reconstruct = add_command(
        commands, "reconstruct", run_reconstruct, "let a masked autoencoder fill in hidden patches"
    )
    reconstruct.add_argument("image", metavar="IMAGE", help="path, URL, or - for standard input")
    reconstruct.add_argument("--ratio", type=float, default=0.75, help="share of hidden patches (default: 0.75)")
    reconstruct.add_argument("--seed", type=int, default=0, help="which patches are hidden")
    reconstruct.add_argument(
        "--out", type=Path, metavar="PNG", help="write the crop, what the model saw, and the reconstruction"
    )
    add_inference(reconstruct)

    compare = add_command(commands, "compare", run_compare, "several models side by side")
    compare.add_argument("images", nargs="+", metavar="IMAGE", help="path, URL, or - for standard input")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write one line per image and model to this file")
    add_display(compare)
    add_map(compare)
    add_box(compare)
    add_inference(compare)


def add_map(parser: argparse.ArgumentParser) -> None:
    """Options of an `ExplainRequest` beside those of the display."""
    parser.add_argument("--method", default="attention", help=f"one of {', '.join(METHODS)} (default: attention)")
    parser.add_argument(
        "--readout", help="attention from: class, distillation, mean or patch (default: the model's default)"
    )
    parser.add_argument("--target", help="class as LABEL, INDEX or top:K, for methods that depend on it")
    parser.add_argument(
        "--discard", type=float, default=0.0, help="for rollout: share of the smallest attention left out"
    )
    parser.add_argument("--variant", help=VARIANT_HELP)
    parser.add_argument(
        "--point", metavar="X,Y", help="for similarity and --readout patch: pixels of the upright photo"
    )


def run_classify(options: argparse.Namespace) -> int:
    from vitdemo.export.results import prediction_json

    specs, pipeline = specs_of(options, every=False), pipeline_of(options)
    entries, failed = [], False
    for name in options.images:
        try:
            photo = _open(pipeline, name)
        except ImageError as error:
            failed = True
            entries.append({"image": name, "error": str(error)})
            if not options.json:
                print(f"{name}: {error}", file=sys.stderr)
            continue
        found = [pipeline.classify([photo], spec, top_k=options.top_k, dtype=options.dtype)[0] for spec in specs]
        entries.append({"image": name, "results": [prediction_json(prediction) for prediction in found]})
        if not options.json:
            print(name)
            for prediction in found:
                _print_prediction(prediction)
    if options.json:
        print_json(entries)
    return EXIT_SOME_FAILED if failed else EXIT_OK


def run_explain(options: argparse.Namespace) -> int:
    from vitdemo.export.results import explanation_json, save_npz
    from vitdemo.rendering.overlay import overlay

    specs, pipeline = specs_of(options, every=False), pipeline_of(options)
    if len(specs) > 1:
        raise OptionError("explain takes one model; use compare for several.")
    boxes = boxes_of(options)
    photo = _open_or_report(pipeline, options)
    if photo is None:
        return EXIT_SOME_FAILED
    request = _request(options)
    explanation = pipeline.explain(photo, specs[0], request, dtype=options.dtype)
    entry = {"image": options.image, **explanation_json(explanation)}
    on_boxes = measure_boxes(photo, boxes, [explanation], [entry])
    if options.faithfulness:
        from vitdemo.evaluation.faithfulness import faithfulness
        from vitdemo.export.results import faithfulness_json

        measured = faithfulness(pipeline, photo, specs[0], request, dtype=options.dtype)
        entry["faithfulness"] = faithfulness_json(measured)
    if options.out and explanation.map is not None:
        picture = overlay(photo, explanation.view, explanation.map)
        write(options.out, lambda: picture.save(options.out, format="PNG"))
    if options.raw:
        write(options.raw, lambda: save_npz(options.raw, explanation, entry))
    _report(options, entry, [explanation], on_boxes)
    if options.faithfulness and not options.json:
        areas = entry["faithfulness"]
        print(
            f"    deletion {areas['deletion_auc']:.3f}, insertion {areas['insertion_auc']:.3f}, random {areas['random_auc']:.3f}"
        )
    return EXIT_OK


def run_compare(options: argparse.Namespace) -> int:
    from vitdemo.export.results import comparison_json
    from vitdemo.pipeline.batch import compare_many, in_words, ranked, rows_csv
    from vitdemo.rendering.figures import comparison_figure

    several = len(options.images) > 1
    if several and options.out:
        raise OptionError("--out draws one picture: give one IMAGE with it. --csv takes several.")
    if several and options.box:
        raise OptionError("--box is a place on one photo: give one IMAGE with it.")
    boxes = boxes_of(options)
    specs, pipeline = specs_of(options, every=True), pipeline_of(options)
    photos = ((name, source_of(pipeline, name)) for name in options.images)
    entries: list[dict[str, Any]] = []
    rows, failures = [], []
    for done in compare_many(pipeline, photos, specs, _request(options), dtype=options.dtype):
        rows.append(done.row)
        name = done.row.image
        if done.failure is not None:
            if not several and not isinstance(done.failure, ImageError):
                raise done.failure
            failures.append(done.failure)
            entries.append({"image": name, "error": done.row.error})
            print(f"{name}: {done.row.error}", file=sys.stderr)
        if done.photo is None or done.comparison is None:
            continue
        if options.out:
            figure = comparison_figure(done.photo, done.comparison.explanations)
            write(options.out, lambda figure=figure: figure.save(options.out, format="PNG"))  # type: ignore[misc]
        entry = {"image": name, **comparison_json(done.comparison)}
        entries.append(entry)
        found = measure_boxes(done.photo, boxes, done.comparison.explanations, entry["results"])
        if not options.json:
            _report(options, entry, done.comparison.explanations, found)
            _print_agreement(entry["agreement"])
    if len(failures) == len(rows) and isinstance(failures[0], OptionError):
        raise failures[0]
    if options.csv:
        write(options.csv, lambda: options.csv.write_text(rows_csv(rows), encoding="utf-8", newline=""))
    if options.json:
        print_json(entries if several else entries[0])
    elif several:
        print("Most disagreement first")
        for index in ranked(rows):
            number = "-" if rows[index].disagreement is None else f"{rows[index].disagreement:.2f}"
            print(f"  {number:>4}  {rows[index].image}: {in_words(rows[index])}")
    return EXIT_SOME_FAILED if failures else EXIT_OK


def _print_agreement(pairs: Sequence[dict[str, Any]]) -> None:
    for pair in pairs:
        maps = "-" if pair["rank_correlation"] is None else f"{pair['rank_correlation']:+.2f}"
        shared = "" if pair["iou"] is None else f", brightest patches {pair['iou']:.0%} the same"
        print(f"  {' / '.join(pair['models']):30} {pair['prediction']}, maps {maps}{shared}")


def run_reconstruct(options: argparse.Namespace) -> int:
    from vitdemo.export.results import reconstruction_json
    from vitdemo.rendering.figures import reconstruction_figure

    if not options.model:
        options.model = [reconstructing_model().name]
    specs, pipeline = specs_of(options, every=False), pipeline_of(options)
    if len(specs) > 1:
        raise OptionError("reconstruct takes one model.")
    photo = _open_or_report(pipeline, options)
    if photo is None:
        return EXIT_SOME_FAILED
    found = pipeline.reconstruct(photo, specs[0], ratio=options.ratio, seed=options.seed, dtype=options.dtype)
    if options.out:
        figure = reconstruction_figure(photo, found)
        write(options.out, lambda: figure.save(options.out, format="PNG"))
    entry = {"image": options.image, **reconstruction_json(found, options.ratio, options.seed)}
    if options.json:
        print_json(entry)
    else:
        print(options.image)
        print(
            f"  {found.spec.name}  {entry['hidden']} of {entry['patches']} patches hidden  ({found.milliseconds:.0f} ms)"
        )
    return EXIT_OK


def _request(options: argparse.Namespace) -> ExplainRequest:
    from vitdemo.options.explain import ExplainRequest, parse_point

    given = {field.name: getattr(options, field.name) for field in fields(ExplainRequest)}
    return ExplainRequest(**{**given, "point": parse_point(options.point)})


def _open(pipeline: Pipeline, name: str) -> Photo:
    return pipeline.open(source_of(pipeline, name))


def _open_or_report(pipeline: Pipeline, options: argparse.Namespace) -> Photo | None:
    try:
        return _open(pipeline, options.image)
    except ImageError as error:
        if options.json:
            print_json({"image": options.image, "error": str(error)})
        print(f"{options.image}: {error}", file=sys.stderr)
        return None


def _report(
    options: argparse.Namespace,
    entry: dict[str, Any],
    explanations: Sequence[Explanation],
    on_boxes: Sequence[Localization] = (),
) -> None:
    if options.json:
        print_json(entry)
        return
    print(entry["image"])
    for number, explanation in enumerate(explanations):
        _print_prediction(explanation.prediction)
        print(f"    {explanation.description}")
        if on_boxes:
            print_box(on_boxes[number])
    for note in dict.fromkeys(note for explanation in explanations for note in explanation.notes):
        print(f"note: {note}", file=sys.stderr)


def _print_prediction(prediction: Prediction) -> None:
    print(f"  {prediction.spec.name}  ({prediction.milliseconds:.0f} ms, {prediction.device}, {prediction.dtype})")
    for label in prediction.labels:
        print(f"    {label.score:6.1%}  {label.label}")
    if not prediction.labels:
        print("    no classifier: self-supervised")
    if prediction.uncovered:
        print(f"    probably not one of this model's {len(prediction.spec.labels)} classes")
