"""Make the strip that ships, assets/strip.npz: `python -m scripts.make_strip DATA ... --test DATA --source WORDS ...`.

It trains the from-scratch ViT on the photos, watches one of the examples, and keeps the maps and the figures, no weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitdemo.threads import prepare_threads
from vitdemo.training.strip import SHIPPED, STRIP, read_strip, write_strip

EXAMPLES = SHIPPED.parent / "examples"

LARGEST = 100_000
"""Bytes of the file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and write the strip."""
    parser = argparse.ArgumentParser(prog="python -m scripts.make_strip", description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="photos: folder, zip or tar")
    parser.add_argument("--test", nargs="+", type=Path, required=True, metavar="DATA", help="photos to evaluate on")
    parser.add_argument("--source", required=True, help="what the photos are, in words")
    parser.add_argument("--license", required=True, help="of the photos")
    parser.add_argument("--machine", required=True, help="in words, such as: one of two CPU cores")
    parser.add_argument("--photo", default="kangaroo.jpg", help="one of assets/examples")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args(arguments)
    prepare_threads()
    from vitdemo.training.config import TrainConfig, TrainJob
    from vitdemo.training.run import train

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "run"
        job = TrainJob(
            data=tuple(options.data),
            test=tuple(options.test),
            recipe="supervised",
            arch="scratch",
            out=out,
            minutes=options.minutes,
            watch=EXAMPLES / options.photo,
            cpu=True,
            license=options.license,
            config=TrainConfig(steps=0, batch=options.batch, resolution=options.resolution, evaluate_every=10**9),
        )
        found = train(job, lambda figures: print(figures["step"], f"{figures['loss']:.3f}", file=sys.stderr))
        strip = read_strip(out / STRIP)
    about = {
        **strip.about,
        "photos": found.photos,
        "source": options.source,
        "license": options.license,
        "machine": options.machine,
        "minutes": round(found.result.seconds / 60, 1),
        "resolution": options.resolution,
        "batch": options.batch,
    }
    write_strip(replace(strip, about=about), SHIPPED)
    size = SHIPPED.stat().st_size
    print(
        f"{SHIPPED.name}: {len(strip.steps)} steps up to {strip.steps[-1]}, {size / 1000:.0f} kB, {strip.scores[-1]:.1%}"
    )
    return 0 if size <= LARGEST else 1


if __name__ == "__main__":
    sys.exit(main())
