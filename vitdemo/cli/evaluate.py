"""`evaluate`, `sanity` and `bench`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdemo.cli.common import (
    EXIT_OK,
    VARIANT_HELP,
    add_command,
    add_inference,
    methods_of,
    positive,
    print_json,
    rounded,
    settings_of,
    specs_of,
    variant_of,
    writable,
)
from vitdemo.errors import OptionError

if TYPE_CHECKING:
    from vitdemo.pipeline import Pipeline
    from vitdemo.settings import Settings
    from vitdemo.types import ModelSpec


def add_commands(commands: Any) -> None:
    """Define the commands."""
    evaluate = add_command(commands, "evaluate", run_evaluate, "accuracy on labelled photos")
    evaluate.add_argument("data", nargs="+", type=Path, metavar="DATA", help="tar or folder with one folder per class")
    evaluate.add_argument(
        "--card", action="store_true", help="write the figures into the models' cards, and their table into the README"
    )
    evaluate.add_argument(
        "--calibrate", action="store_true", help="fit the model's temperature and threshold on half of these photos"
    )
    evaluate.add_argument("--faithfulness", action="store_true", help="deletion and insertion instead of accuracy")
    evaluate.add_argument("--method", action="append", help="for --faithfulness: may be repeated, or a,b,c")
    evaluate.add_argument("--variant", help=f"for --faithfulness: {VARIANT_HELP}")
    evaluate.add_argument("--photos", type=positive, default=200, help="for --faithfulness (default: 200)")
    evaluate.add_argument("--steps", type=positive, default=20, help="for --faithfulness (default: 20)")
    evaluate.add_argument(
        "--segmentation",
        action="store_true",
        help="overlap of foreground masks with pasted objects instead of accuracy",
    )
    add_inference(evaluate)

    sanity = add_command(commands, "sanity", run_sanity, "whether maps depend on what a model learnt")
    sanity.add_argument("images", nargs="+", metavar="IMAGE", help="path or URL")
    sanity.add_argument("--method", action="append", help="may be repeated, or a,b,c (default: all that apply)")
    sanity.add_argument("--variant", help=VARIANT_HELP)
    add_inference(sanity)

    bench = add_command(commands, "bench", run_bench, "time ratios, interleaved in one process")
    bench.add_argument("--pairs", type=positive, default=15, help="interleaved pairs (default: 15)")
    bench.add_argument("--resolution", type=positive, metavar="LONG_SIDE", help="pixels of the input's long side")
    bench.add_argument("--batch", type=positive, default=1, help="images in a forward pass (default: 1)")
    bench.add_argument(
        "--random", metavar="NAME", help="an official ViT encoder with random weights, such as facebook/dino-vits8"
    )
    bench.add_argument(
        "--no-memory", action="store_true", help="leave out peak memory, which takes one process per variant"
    )
    bench.add_argument("--variant", help=argparse.SUPPRESS)
    add_inference(bench)


def run_evaluate(options: argparse.Namespace) -> int:
    if options.faithfulness:
        return run_faithfulness(options)
    if options.segmentation:
        return run_segmentation(options)
    from vitdemo.evaluation.accuracy import calibrate, evaluate, read_labelled
    from vitdemo.evaluation.model_card import write_card, write_models_table
    from vitdemo.registry import embedded_models

    specs = specs_of(options, every=True) if options.model else [spec for spec in embedded_models() if spec.labels]
    if options.card or options.calibrate:
        specs = [writable(spec) for spec in specs]
    pipeline = _pipeline(options)
    results: list[dict[str, Any]] = []
    for spec in specs:
        print(f"evaluating {spec.name} ...", file=sys.stderr)
        photos = (item for path in options.data for item in read_labelled(path))
        if options.calibrate:
            spec = calibrate(pipeline, spec, photos)
            results.append({"model": spec.name, "temperature": spec.temperature, "threshold": spec.threshold})
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
    if options.card and any(spec.source == "embedded" for spec in specs):
        write_models_table()
    if options.json:
        print_json(results)
    return EXIT_OK


def run_bench(options: argparse.Namespace) -> int:
    from vitdemo.evaluation import bench

    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(options)
        specs = (
            [bench.random_checkpoint(options.random, Path(folder))] if options.random else specs_of(options, every=True)
        )
        if options.variant:
            size = bench.peak_memory(
                specs[0], settings, options.dtype, options.variant, options.resolution, options.batch
            )
            print_json({"bytes": size})
            return EXIT_OK
        results = []
        for spec in specs:
            entry = bench.bench(spec, settings, options.pairs, options.dtype, options.resolution, options.batch)
            if not options.no_memory:
                entry["peak_mb"] = bench.memory_table(_arguments(options, spec), [bench.PLAIN, *bench.compared(entry)])
            results.append(entry)
            if not options.json:
                _print_bench(entry)
    if options.json:
        print_json(results)
    return EXIT_OK


def _arguments(options: argparse.Namespace, spec: ModelSpec) -> list[str]:
    """Arguments with which another process measures the same."""
    name = spec.checkpoint if spec.source == "local" else spec.name
    found = ["--random", options.random] if options.random else ["--model", name]
    found += ["--dtype", options.dtype, "--batch", str(options.batch)]
    if options.resolution:
        found += ["--resolution", str(options.resolution)]
    return [*found, "--device", options.device] if options.device else found


def _print_bench(entry: dict[str, Any]) -> None:
    height, width = entry["input"]
    print(
        f"{entry['model']}  {width} x {height} px, {entry['tokens']} tokens, batch {entry['batch']}  "
        f"({entry['device']}, {entry['dtype']}, {entry['threads']} threads, {entry['pairs']} interleaved pairs)"
    )
    peaks = entry.get("peak_mb", {})
    for name, size in peaks.items():
        if name not in entry["ratios"]:
            print(f"  {name:46} time 1                               peak {size:7.0f} MB")
    for name, ratio in entry["ratios"].items():
        spread = f"(quartiles {ratio['q1']:.2f} to {ratio['q3']:.2f})"
        peak = f"peak {peaks[name]:7.0f} MB" if name in peaks else ""
        print(f"  {name:46} time {ratio['median']:6.3f}  {spread:27} {peak}")
    if entry["bf16"]:
        found = entry["bf16"]
        same = "-" if found["same_top1"] is None else f"{found['same_top1']:.0%}"
        alike = "-" if found["map_rank_correlation"] is None else f"{found['map_rank_correlation']:.4f}"
        print(
            f"  bf16 over fp32: time {found['time']['median']:.2f}, same best class on {same} of {found['photos']} photos, "
            f"maps correlate at {alike}"
        )


def _settings(options: argparse.Namespace) -> Settings:
    """Everything that is measured runs in the requested dtype."""
    settings = settings_of(options)
    return settings if options.dtype == "auto" else replace(settings, dtype=options.dtype)


def _pipeline(options: argparse.Namespace) -> Pipeline:
    from vitdemo.pipeline import Pipeline

    return Pipeline(_settings(options))


def run_sanity(options: argparse.Namespace) -> int:
    from vitdemo.evaluation.randomization import randomisation

    specs, pipeline = specs_of(options, every=True), _pipeline(options)
    photos = [pipeline.open(name) for name in options.images]
    results = []
    for spec in specs:
        methods = methods_of(options, spec)
        found = randomisation(spec, photos, methods, _settings(options), variant=variant_of(options, methods))
        results.append({"model": spec.name, "photos": len(photos), "rank_correlation": found})
        if not options.json:
            print(
                f"{spec.name}: rank correlation with the trained model's maps, blocks randomised from the head backwards"
            )
            print(f"  {'method':14} {'1/4':>6} {'2/4':>6} {'3/4':>6} {'all':>6}")
            for method, values in found.items():
                print(f"  {method:14} {' '.join('     -' if one is None else f'{one:6.2f}' for one in values)}")
    if options.json:
        print_json(results)
    return EXIT_OK


def run_faithfulness(options: argparse.Namespace) -> int:
    from vitdemo.evaluation.accuracy import read_labelled
    from vitdemo.evaluation.faithfulness import measure

    specs, pipeline = specs_of(options, every=True), _pipeline(options)
    results: list[dict[str, Any]] = []
    for spec in specs:
        print(f"measuring {spec.name} ...", file=sys.stderr)
        every = [photo for path in options.data for label, photo in read_labelled(path) if label in spec.labels]
        # Spread over the classes, and the same ones each time.
        photos = every[:: max(1, len(every) // options.photos)][: options.photos]
        methods = methods_of(options, spec)
        figures = measure(pipeline, spec, photos, methods, options.steps, variant_of(options, methods))
        results += [{key: _rounded(value) for key, value in vars(one).items()} for one in figures]
        if not options.json:
            print(
                f"{spec.name}, {len(photos)} photos, {options.steps} steps; areas under the score of the predicted class"
            )
            print(
                f"  {'method':14} {'deletion':>9} {'- random, 95% interval':>24} {'insertion':>10} {'- random, 95% interval':>24}"
            )
            for one in figures:
                low, high = one.deletion_interval
                below, above = one.insertion_interval
                print(
                    f"  {one.method:14} {one.deletion:9.3f} {f'{low:+.3f} to {high:+.3f}':>24} "
                    f"{one.insertion:10.3f} {f'{below:+.3f} to {above:+.3f}':>24}"
                )
            print(f"  {'random':14} {figures[0].random:9.3f} {'':24} {figures[0].random:10.3f}")
    if options.json:
        print_json(results)
    return EXIT_OK


def run_segmentation(options: argparse.Namespace) -> int:
    from vitdemo.evaluation.segmentation_benchmark import (
        Overlap,
        centre_box,
        composites_to_report,
        mean_iou,
        whole_photo,
    )
    from vitdemo.options.segment import SegmentRequest

    if len(options.data) > 1:
        raise OptionError("Composites are made of the photos of one archive.")
    pipeline = _pipeline(options)
    pairs = composites_to_report(options.data[0])
    found: list[tuple[Overlap, bool | None]] = [(whole_photo(pairs), None), (centre_box(pairs), None)]
    for spec in specs_of(options, every=True):
        if not spec.readouts:
            continue  # it has no patches to tell apart
        print(f"segmenting with {spec.name} ...", file=sys.stderr)
        found += [(mean_iou(pipeline, spec, pairs, SegmentRequest(refine=way)), way) for way in (False, True)]
    figures = [
        {
            "name": one.name,
            "refine": way,
            "mean_iou": rounded(one.mean),
            "interval": _rounded(one.interval),
            "above_half": rounded(one.hits),
        }
        for one, way in found
    ]
    if options.json:
        print_json({"composites": len(pairs), "figures": figures})
        return EXIT_OK
    print(f"{len(pairs)} composites; intersection over union of the foreground with the pasted object")
    print(f"  {'':24} {'mean':>6} {'95% interval':>16} {'above 0.5':>10}")
    for one, way in found:
        low, high = one.interval
        name = f"{one.name}, refined" if way else one.name
        print(f"  {name:24} {one.mean:6.3f} {f'{low:.3f} to {high:.3f}':>16} {one.hits:10.0%}")
    return EXIT_OK


def _rounded(value: Any) -> Any:
    return [rounded(part) for part in value] if isinstance(value, tuple) else rounded(value)
