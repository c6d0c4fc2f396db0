"""`python -m vitdemo COMMAND`: thin over the pipeline. JSON alone on stdout, notes and progress on stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdemo.errors import ImageError, OptionError, UnknownModelError, VitDemoError
from vitdemo.registry import available_models, default_models, get_spec
from vitdemo.settings import Settings, get_settings

if TYPE_CHECKING:
    from vitdemo.pipeline import Pipeline
    from vitdemo.types import Explanation, ModelSpec, Photo, Prediction

FINE, SOME_FAILED, WRONG_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 all fine, 1 some input failed, 2 wrong usage."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except (UnknownModelError, OptionError) as error:
        print(f"vitdemo: {error}", file=sys.stderr)
        return WRONG_USAGE
    except VitDemoError as error:
        print(f"vitdemo: {error}", file=sys.stderr)
        return SOME_FAILED
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = argparse.ArgumentParser(prog="vitdemo", description="Show what Vision Transformers see.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    models = _command(commands, "models", run_models, "list the models")
    models.add_argument("--json", action="store_true", help="JSON on stdout")

    classify = _command(commands, "classify", run_classify, "name what is on pictures")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="path, URL, or - for standard input")
    classify.add_argument("--top-k", type=_positive, default=5, help="labels a model (default: 5)")
    _inference(classify)

    explain = _command(commands, "explain", run_explain, "show where one model looked")
    explain.add_argument("image", metavar="IMAGE", help="path, URL, or - for standard input")
    explain.add_argument("--method", default="attention")
    _display(explain)
    explain.add_argument("--readout", help="whose attention: class, distillation or mean (default: the model's own)")
    explain.add_argument("--target", help="class as LABEL, INDEX or top:K, for methods that depend on it")
    explain.add_argument("--raw", type=Path, metavar="NPZ", help="write the numbers to this file")
    _inference(explain)

    compare = _command(commands, "compare", run_compare, "several models side by side")
    compare.add_argument("image", metavar="IMAGE", help="path, URL, or - for standard input")
    _display(compare)
    _inference(compare)

    evaluate = _command(commands, "evaluate", run_evaluate, "accuracy on labelled photos")
    evaluate.add_argument("data", nargs="+", type=Path, metavar="DATA", help="tar or folder with a folder a class")
    evaluate.add_argument("--card", action="store_true", help="write the figures into the embedded model's card")
    evaluate.add_argument(
        "--fit-threshold", action="store_true", help="choose the threshold of the model on these photos"
    )
    _inference(evaluate)

    bench = _command(commands, "bench", run_bench, "time ratios, interleaved in one process")
    bench.add_argument("--pairs", type=_positive, default=15, help="interleaved pairs (default: 15)")
    _inference(bench)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    parser.set_defaults(run=run)
    return parser


def _inference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "--models", action="append", metavar="NAME", help="may be repeated, or a,b,c")
    parser.add_argument("--device", default=None, help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def _display(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", default="-1", help="from 0, or -1 for the last")
    parser.add_argument("--head", default="mean", help="mean, max, min, or a number from 0")
    parser.add_argument(
        "--resolution", type=_positive, metavar="LONG_SIDE", help="enlarge the photo to this many pixels"
    )
    parser.add_argument("--out", type=Path, metavar="PNG", help="write the picture to this file")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def run_models(options: argparse.Namespace) -> int:
    from vitdemo.serialise import model_json

    entries = [model_json(spec) for spec in available_models()]
    if options.json:
        _print_json(entries)
    for entry in [] if options.json else entries:
        size = "x".join(map(str, entry["image_size"]))
        print(
            f"{entry['name']:14} {entry['family']:8} {entry['parameters'] / 1e6:6.1f} M  {size}  "
            f"patch {entry['patch_size']:2}  {entry['classes']} classes  {entry['bytes'] / 1e6:.1f} MB  {entry['source']}"
        )
    return FINE


def run_classify(options: argparse.Namespace) -> int:
    from vitdemo.serialise import prediction_json

    specs, pipeline = _specs(options, every=False), _pipeline(options)
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
        _print_json(entries)
    return SOME_FAILED if failed else FINE


def run_explain(options: argparse.Namespace) -> int:
    from vitdemo.rendering import overlay
    from vitdemo.serialise import explanation_json, save_npz

    specs, pipeline = _specs(options, every=False), _pipeline(options)
    if len(specs) > 1:
        raise OptionError("explain takes one model; use compare for several.")
    photo = _open_or_report(pipeline, options)
    if photo is None:
        return SOME_FAILED
    explanation = pipeline.explain(
        photo, specs[0], method=options.method, readout=options.readout, target=options.target, **_shown(options)
    )
    entry = {"image": options.image, **explanation_json(explanation)}
    if options.out and explanation.map is not None:
        picture = overlay(photo, explanation.view, explanation.map)
        _write(options.out, lambda: picture.save(options.out, format="PNG"))
    if options.raw:
        _write(options.raw, lambda: save_npz(options.raw, explanation, entry))
    _report(options, entry, [explanation])
    return FINE


def run_compare(options: argparse.Namespace) -> int:
    from vitdemo.rendering import comparison_figure
    from vitdemo.serialise import comparison_json

    specs, pipeline = _specs(options, every=True), _pipeline(options)
    photo = _open_or_report(pipeline, options)
    if photo is None:
        return SOME_FAILED
    comparison = pipeline.compare(photo, specs, **_shown(options))
    if options.out:
        figure = comparison_figure(photo, comparison.explanations)
        _write(options.out, lambda: figure.save(options.out, format="PNG"))
    entry = {"image": options.image, **comparison_json(comparison)}
    _report(options, entry, comparison.explanations)
    if not options.json:
        for pair in entry["agreement"]:
            correlation = "-" if pair["rank_correlation"] is None else f"{pair['rank_correlation']:+.2f}"
            print(f"  {' / '.join(pair['models']):30} {pair['prediction']}, maps {correlation}")
    return FINE


def run_evaluate(options: argparse.Namespace) -> int:
    from vitdemo.cards import write_card
    from vitdemo.evaluation import evaluate, fit_threshold, read_labelled

    specs, pipeline = _specs(options, every=True), _pipeline(options)
    results = []
    for spec in specs:
        print(f"evaluating {spec.name} ...", file=sys.stderr)
        photos = (item for path in options.data for item in read_labelled(path))
        if options.fit_threshold:
            spec = fit_threshold(pipeline, spec, photos)
            results.append({"model": spec.name, "threshold": spec.threshold})
        else:
            figures = evaluate(pipeline, spec, photos)
            results.append({key: _rounded(value) for key, value in vars(figures).items()})
            if options.card:
                write_card(spec, figures, options.data)
        if not options.json:
            print("  ".join(f"{key} {value}" for key, value in results[-1].items()))
    if options.json:
        _print_json(results)
    return FINE


def run_bench(options: argparse.Namespace) -> int:
    from vitdemo.bench import bench

    specs = _specs(options, every=True)
    results = [bench(spec, _settings(options), options.pairs, options.dtype) for spec in specs]
    if options.json:
        _print_json(results)
    for entry in [] if options.json else results:
        print(f"{entry['model']}  ({entry['device']}, {entry['dtype']}, {entry['pairs']} interleaved pairs)")
        for name, ratio in entry["ratios"].items():
            print(f"  {name:52} {ratio['median']:.3f}  (quartiles {ratio['q1']:.3f} to {ratio['q3']:.3f})")
    return FINE


def _specs(options: argparse.Namespace, every: bool) -> list[ModelSpec]:
    names = [part for value in options.model or [] for part in value.split(",") if part]
    if names:
        return [get_spec(name) for name in dict.fromkeys(names)]
    specs = list(default_models(get_settings()))
    return specs if every else specs[:1]


def _settings(options: argparse.Namespace) -> Settings:
    settings = get_settings()
    return replace(settings, device=options.device) if options.device else settings


def _pipeline(options: argparse.Namespace) -> Pipeline:
    from vitdemo.pipeline import Pipeline

    return Pipeline(_settings(options))


def _shown(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("layer", "head", "resolution", "dtype")}


def _open(pipeline: Pipeline, name: str) -> Photo:
    if name == "-":
        # One byte more than the limit is enough to be refused.
        limit = int(pipeline.settings.max_image_mb * 1e6)
        return pipeline.open(sys.stdin.buffer.read(limit + 1))
    return pipeline.open(name)


def _open_or_report(pipeline: Pipeline, options: argparse.Namespace) -> Photo | None:
    try:
        return _open(pipeline, options.image)
    except ImageError as error:
        if options.json:
            _print_json({"image": options.image, "error": str(error)})
        print(f"{options.image}: {error}", file=sys.stderr)
        return None


def _write(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error.strerror or error}.") from None


def _report(options: argparse.Namespace, entry: dict[str, Any], explanations: Sequence[Explanation]) -> None:
    if options.json:
        _print_json(entry)
        return
    print(options.image)
    for explanation in explanations:
        _print_prediction(explanation.prediction)
        print(f"    {explanation.description}")
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


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def _rounded(value: Any) -> Any:
    return None if value != value else round(value, 4) if isinstance(value, float) else value
