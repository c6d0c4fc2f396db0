"""`ablate` and `lens`: a network taken apart."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdemo.cli.common import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    add_command,
    add_display,
    add_inference,
    pipeline_of,
    positive,
    print_json,
    specs_of,
    write,
)
from vitdemo.cli.inference import _open_or_report, _print_prediction, _request, add_map
from vitdemo.errors import OptionError
from vitdemo.options.knockout import FILLS, RANKINGS, parse_heads, parse_numbers

if TYPE_CHECKING:
    from vitdemo.types import Ablation, ModelSpec


def add_commands(commands: Any) -> None:
    """Define the commands."""
    ablate = add_command(commands, "ablate", run_ablate, "switch parts of a network off, and see what changes")
    ablate.add_argument("image", metavar="IMAGE", help="path, URL, or - for standard input")
    ablate.add_argument("--heads", metavar="LAYER:HEAD,...", help="heads that are off, such as 3:0,3:1")
    ablate.add_argument("--attention", metavar="LAYERS", help="layers whose attention block is off")
    ablate.add_argument("--mlp", metavar="LAYERS", help="layers whose MLP block is off")
    ablate.add_argument(
        "--patches", metavar="PATCHES", help="hidden patches, row by row from 0: numbers and ranges, such as 0,14-16"
    )
    ablate.add_argument(
        "--fill",
        choices=FILLS,
        default="grey",
        help="what hides them: grey pixels, the mean of the visible patch tokens, or what a masked autoencoder makes up",
    )
    ablate.add_argument(
        "--rank", choices=RANKINGS, help="rank all heads, or all blocks, by what each one does to the score"
    )
    ablate.add_argument("--top", type=positive, default=10, help="parts of the ranking that are shown (default: 10)")
    add_display(ablate)
    add_map(ablate)
    ablate.add_argument("--raw", type=Path, metavar="NPZ", help="write both maps to this file")
    add_inference(ablate)

    lens = add_command(commands, "lens", run_lens, "read the classifier off after each layer")
    lens.add_argument("image", metavar="IMAGE", help="path, URL, or - for standard input")
    lens.add_argument("--target", help="class as LABEL, INDEX or top:K (default: the predicted one)")
    lens.add_argument("--top-k", type=positive, default=3, help="labels per layer (default: 3)")
    lens.add_argument("--resolution", type=positive, metavar="LONG_SIDE", help="enlarge the photo to this many pixels")
    lens.add_argument("--raw", type=Path, metavar="NPZ", help="write the numbers of all patches to this file")
    add_inference(lens)


def run_ablate(options: argparse.Namespace) -> int:
    from vitdemo.export.inspection import ablation_json, ablation_npz
    from vitdemo.pipeline.ablate import ablate
    from vitdemo.rendering.figures import comparison_figure
    from vitdemo.types import Knockout

    knockout = Knockout(
        parse_heads(options.heads),
        parse_numbers(options.attention, "layer"),
        parse_numbers(options.mlp, "layer"),
        parse_numbers(options.patches, "patch"),
        options.fill,
    )
    spec, pipeline = _one(options, "ablate"), pipeline_of(options)
    photo = _open_or_report(pipeline, options)
    if photo is None:
        return EXIT_SOME_FAILED
    progress = _progress if sys.stderr.isatty() else None
    request = _request(options)
    found = ablate(pipeline, photo, spec, knockout, request, rank=options.rank, dtype=options.dtype, progress=progress)
    entry = {"image": options.image, **ablation_json(found, options.top)}
    if options.out:
        figure = comparison_figure(photo, (found.before, found.after))
        write(options.out, lambda: figure.save(options.out, format="PNG"))
    if options.raw:
        write(options.raw, lambda: options.raw.write_bytes(ablation_npz(found, entry)))
    if options.json:
        print_json(entry)
    else:
        _print_ablation(options, found)
    return EXIT_OK


def _print_ablation(options: argparse.Namespace, found: Ablation) -> None:
    print(options.image)
    for title, explanation in (("before", found.before), ("after", found.after)):
        print(f"  {title}")
        _print_prediction(explanation.prediction)
        print(f"    {explanation.description}")
    if found.scores is not None and found.target is not None:
        before, after = found.scores
        label = found.before.prediction.spec.labels[found.target]
        print(f"  {label}: {before:.1%} to {after:.1%} ({100 * (after - before):+.1f} points)")
    if found.agreement.rank_correlation is not None:
        print(f"  maps: rank correlation {found.agreement.rank_correlation:+.2f}")
    for number, effect in enumerate(found.ranking[: options.top], 1):
        # As the options take it: what people read elsewhere counts from 1.
        part = f"--{effect.part} {effect.layer}" if effect.head is None else f"--heads {effect.layer}:{effect.head}"
        print(f"  {number:3}. {part:18} {100 * effect.change:+6.1f} points, then {effect.label}")
    notes = dict.fromkeys((*found.before.notes, *found.after.notes))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def run_lens(options: argparse.Namespace) -> int:
    from vitdemo.export.inspection import lens_json, lens_npz
    from vitdemo.pipeline.lens import lens

    spec, pipeline = _one(options, "lens"), pipeline_of(options)
    photo = _open_or_report(pipeline, options)
    if photo is None:
        return EXIT_SOME_FAILED
    found = lens(
        pipeline,
        photo,
        spec,
        target=options.target,
        resolution=options.resolution,
        top_k=options.top_k,
        dtype=options.dtype,
    )
    entry = {"image": options.image, **lens_json(found)}
    if options.raw:
        write(options.raw, lambda: options.raw.write_bytes(lens_npz(found, entry)))
    if options.json:
        print_json(entry)
        return EXIT_OK
    print(options.image)
    _print_prediction(found.prediction)
    print(
        f"  {spec.labels[found.target]} after each layer, and at how many of its patches; decided in layer {found.decided}"
    )
    for layer in entry["layers"]:
        labels = ", ".join(f"{label['score']:.0%} {label['label']}" for label in layer["labels"])
        print(f"    {layer['layer']:2}  {layer['score']:6.1%}  {layer['patches']['share']:4.0%}   {labels}")
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    return EXIT_OK


def _one(options: argparse.Namespace, command: str) -> ModelSpec:
    specs = specs_of(options, every=False)
    if len(specs) > 1:
        raise OptionError(f"{command} takes one model.")
    return specs[0]


def _progress(done: int, count: int) -> None:
    end = "\n" if done == count else ""
    print(f"\r{done} of {count} parts", end=end, file=sys.stderr, flush=True)
