"""`evaluate` and `bench`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vitdemo.cli.common import (
    FINE,
    add_command,
    add_inference,
    pipeline_of,
    positive,
    print_json,
    rounded,
    settings_of,
    specs_of,
)


def add_commands(commands: Any) -> None:
    """Define them."""
    evaluate = add_command(commands, "evaluate", run_evaluate, "accuracy on labelled photos")
    evaluate.add_argument("data", nargs="+", type=Path, metavar="DATA", help="tar or folder with a folder a class")
    evaluate.add_argument("--card", action="store_true", help="write the figures into the embedded model's card")
    evaluate.add_argument(
        "--fit-threshold", action="store_true", help="choose the threshold of the model on these photos"
    )
    add_inference(evaluate)

    bench = add_command(commands, "bench", run_bench, "time ratios, interleaved in one process")
    bench.add_argument("--pairs", type=positive, default=15, help="interleaved pairs (default: 15)")
    add_inference(bench)


def run_evaluate(options: argparse.Namespace) -> int:
    from vitdemo.cards import write_card
    from vitdemo.evaluation import evaluate, fit_threshold, read_labelled

    specs, pipeline = specs_of(options, every=True), pipeline_of(options)
    results: list[dict[str, Any]] = []
    for spec in specs:
        print(f"evaluating {spec.name} ...", file=sys.stderr)
        photos = (item for path in options.data for item in read_labelled(path))
        if options.fit_threshold:
            spec = fit_threshold(pipeline, spec, photos)
            results.append({"model": spec.name, "threshold": spec.threshold})
        else:
            figures = evaluate(pipeline, spec, photos)
            results.append({key: rounded(value) for key, value in vars(figures).items()})
            if options.card:
                write_card(spec, figures, options.data)
        if not options.json:
            confusions = results[-1].get("confusions", ())
            print("  ".join(f"{key} {value}" for key, value in results[-1].items() if key != "confusions"))
            for right, named, count in confusions:
                print(f"    {right} taken for {named}: {count}")
    if options.json:
        print_json(results)
    return FINE


def run_bench(options: argparse.Namespace) -> int:
    from vitdemo.bench import bench

    specs = specs_of(options, every=True)
    results = [bench(spec, settings_of(options), options.pairs, options.dtype) for spec in specs]
    if options.json:
        print_json(results)
    for entry in [] if options.json else results:
        print(f"{entry['model']}  ({entry['device']}, {entry['dtype']}, {entry['pairs']} interleaved pairs)")
        for name, ratio in entry["ratios"].items():
            print(f"  {name:52} {ratio['median']:.3f}  (quartiles {ratio['q1']:.3f} to {ratio['q3']:.3f})")
    return FINE
