"""The commands `train`, `probe` and `rebuild`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from vitdemo.cli.common import EXIT_OK, add_command, positive, print_json, rounded, writable
from vitdemo.errors import OptionError
from vitdemo.interrupt import INTERRUPTED, FirstInterruption
from vitdemo.training.config import ARCHITECTURES, OPTIMISERS, RECIPES, SIZES, TrainConfig, TrainJob


def add_commands(commands: Any) -> None:
    train = add_command(commands, "train", run_train, "train a model on labelled photos")
    train.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="folder, zip or tar with one folder per class"
    )
    train.add_argument("--recipe", choices=RECIPES, default="supervised")
    train.add_argument("--arch", choices=ARCHITECTURES, default="vit")
    train.add_argument("--size", choices=tuple(SIZES), default="mini")
    train.add_argument(
        "--resolution", type=positive, default=224, metavar="PIXELS", help="side of the input (default: 224)"
    )
    length = train.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_number, help="passes over the photos (default: 30)")
    length.add_argument("--minutes", type=_number, help="train for about this long")
    train.add_argument(
        "--test", nargs="+", type=Path, default=(), metavar="DATA", help="photos to evaluate on (default: a tenth)"
    )
    train.add_argument("--teacher", metavar="NAME", help="a model with the same classes, or a folder with one")
    train.add_argument("--init", type=Path, metavar="FOLDER", help="start from these weights, where they fit")
    train.add_argument(
        "--pretrain",
        action="store_true",
        help="a head with a hidden layer, which a run with --init replaces by a linear one (vit, scratch)",
    )
    train.add_argument(
        "--watch",
        type=Path,
        metavar="PHOTO",
        help="keep its attention at steps 1, 2, 4, ...: watched.npz and .png in --out",
    )
    train.add_argument("--out", type=Path, default=Path("runs/latest"), metavar="FOLDER", help="(default: runs/latest)")
    train.add_argument("--resume", action="store_true", help="resume the run in --out, with the same settings")
    train.add_argument("--batch", type=positive, default=64)
    train.add_argument("--rate", type=_number, default=5e-4, help="peak learning rate (default: 5e-4)")
    train.add_argument("--optimiser", choices=OPTIMISERS, default="adamw")
    train.add_argument("--average", type=_share, default=0.0, metavar="DECAY", help="EMA of the weights, such as 0.999")
    train.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    train.add_argument(
        "--judge-every", type=positive, metavar="STEPS", help="steps between evaluations (default: one epoch)"
    )
    train.add_argument(
        "--patience", type=_count, default=0, metavar="N", help="stop after N evaluations without a better score"
    )
    train.add_argument("--seed", type=_count, default=0)
    train.add_argument("--cpu", action="store_true", help="do not use a GPU")
    train.add_argument("--license", default="unknown", help="licence of the photos, for the card")
    train.add_argument("--json", action="store_true", help="JSON on stdout")

    probe = add_command(commands, "probe", run_probe, "evaluate frozen features: linear probe and nearest neighbours")
    probe.add_argument("data", nargs="+", type=Path, metavar="DATA", help="photos to fit on: folder, zip or tar")
    probe.add_argument("--model", required=True, metavar="NAME", help="a model, or a folder with one")
    probe.add_argument(
        "--test", nargs="+", type=Path, default=(), metavar="DATA", help="photos to evaluate on (default: a tenth)"
    )
    probe.add_argument("--save", action="store_true", help="save the probe with a model that has no classifier")
    probe.add_argument("--json", action="store_true", help="JSON on stdout")

    rebuild = add_command(commands, "rebuild", run_rebuild, "train an embedded model from scratch, with its own recipe")
    rebuild.add_argument("name", metavar="NAME", help="such as vit-mini")
    rebuild.add_argument(
        "data", nargs="+", type=Path, metavar="DATA", help="folder, zip or tar with one folder per class"
    )
    rebuild.add_argument(
        "--test", nargs="+", type=Path, default=(), metavar="DATA", help="photos to evaluate on (default: a tenth)"
    )
    rebuild.add_argument(
        "--out", type=Path, default=Path("runs/embedded"), metavar="FOLDER", help="(default: runs/embedded)"
    )
    rebuild.add_argument(
        "--unlabelled",
        nargs="+",
        type=Path,
        default=(),
        metavar="DATA",
        help="more photos, whose folders are no classes",
    )
    rebuild.add_argument(
        "--dino-teacher",
        default="facebook/dinov2-small",
        metavar="NAME",
        help="what dino-mini learns from: a model, or a folder with one (default: facebook/dinov2-small)",
    )
    rebuild.add_argument(
        "--share", type=_number, default=1.0, help="share of the steps; 2 trains twice as long (default: 1)"
    )
    rebuild.add_argument("--cpu", action="store_true", help="do not use a GPU")
    rebuild.add_argument("--license", default="unknown", help="licence of the photos, for the card")
    rebuild.add_argument("--json", action="store_true", help="JSON on stdout")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def run_train(options: argparse.Namespace) -> int:
    _need_accelerate()
    from vitdemo.engine.devices import free_memory
    from vitdemo.training.run import train

    config = TrainConfig(
        steps=0,
        batch=options.batch,
        resolution=options.resolution,
        optimiser=options.optimiser,
        learning_rate=options.rate,
        ema_decay=options.average,
        precision=options.precision,
        seed=options.seed,
        evaluate_every=options.judge_every or 0,
        patience=options.patience,
    )
    job = TrainJob(
        data=tuple(options.data),
        recipe=options.recipe,
        arch=options.arch,
        out=options.out,
        size=options.size,
        test=tuple(options.test),
        teacher=options.teacher,
        init=options.init,
        pretrain=options.pretrain,
        watch=options.watch,
        epochs=options.epochs,
        minutes=options.minutes,
        max_photo_bytes=free_memory() // 2,
        resume=options.resume,
        cpu=options.cpu,
        command=_command(),
        license=options.license,
        config=config,
    )
    print("reading photos ...", file=sys.stderr)
    bar, interruption = _ProgressBar(), FirstInterruption()

    def report(figures: dict[str, Any]) -> None:
        if "step" in figures:
            interruption.catch()
        bar(figures)

    outcome = train(job, report, stop=lambda: interruption.came)
    bar.close()
    for line in outcome.skipped:
        print(f"skipped: {line}", file=sys.stderr)
    result = outcome.result
    figures = {
        "model": str(options.out),
        "steps": result.steps,
        "score": rounded(result.score),
        "seconds": rounded(result.seconds),
        "images_per_second": rounded(result.images_per_second),
        "bare_images_per_second": rounded(outcome.bare_images_per_second),
        "efficiency": rounded(outcome.efficiency),
        "stopped_early": result.stopped_early,
        "interrupted": result.interrupted,
        "skipped": len(outcome.skipped),
    }
    if options.json:
        print_json(figures)
    else:
        print("\n".join(f"{name:24} {value}" for name, value in figures.items()))
    if result.interrupted:
        print(f"stopped after step {result.steps}; --resume continues", file=sys.stderr)
        return INTERRUPTED
    return EXIT_OK


class _ProgressBar:
    """Progress bar of a run's steps on stderr."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.run = ""

    def __call__(self, figures: dict[str, Any], run: str = "") -> None:
        from tqdm import tqdm

        if run != self.run:
            self.close()
            self.run = run
        if "views" in figures:
            print(f"{figures['store']}: part {figures['part']}, {figures['views']} of {figures['of']}", file=sys.stderr)
            return
        if self.bar is None:
            self.bar = tqdm(
                unit="step",
                desc=run or None,
                file=sys.stderr,
                dynamic_ncols=True,
                total=figures["steps"],
                initial=figures["step"] - 1,
            )
        self.bar.update(figures["step"] - self.bar.n)
        shown = {"loss": f"{figures['loss']:.3f}", "photos/s": f"{figures['images_per_second']:.0f}"}
        shown |= {name: f"{figures[name]:.3f}" for name in ("accuracy", "agreement", "score") if name in figures}
        self.bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def run_rebuild(options: argparse.Namespace) -> int:
    _need_accelerate()
    from vitdemo.training.rebuild import Rebuild, rebuild

    bar = _ProgressBar()
    shared = Rebuild(
        tuple(options.data),
        options.out,
        tuple(options.test),
        tuple(options.unlabelled),
        options.dino_teacher,
        options.share,
        options.cpu,
        options.license,
    )
    folder = rebuild(options.name, shared, lambda run, figures: bar(figures, run))
    bar.close()
    if options.json:
        print_json({"model": str(folder)})
    else:
        print(folder)
    return EXIT_OK


def run_probe(options: argparse.Namespace) -> int:
    from vitdemo.engine.devices import pick_device
    from vitdemo.registry import find_spec
    from vitdemo.training.probe import probe

    spec = find_spec(options.model)
    if options.save:
        spec = writable(spec)
    figures = probe(spec, options.data, options.test, save=options.save, device=pick_device("auto"))
    shown = {key: rounded(value) for key, value in figures.items()}
    if options.json:
        print_json(shown)
    else:
        print("\n".join(f"{name:24} {value}" for name, value in shown.items()))
    return EXIT_OK


def _command() -> str:
    return "python -m vitdemo " + shlex.join(sys.argv[1:])


def _need_accelerate() -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise OptionError("Training needs one more package: pip install accelerate") from None
