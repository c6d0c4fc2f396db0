"""What people would see of the embedded models.

    python -m scripts.measure_models TEST [--apart DATA] [--none DATA ...] [--models FOLDER]

TEST and `--apart` hold labelled photos in class folders, `--none` photos that show none of the classes. `--models` names a folder
of candidates, such as that of `rebuild`; without it the models that ship are measured. Printed as JSON: accuracy, calibration,
AUROC of "none of the classes", overlap of the foreground with the object of composites, rank correlation of the last layers' maps
between each two models, and what each model names in the examples.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vitdemo.evaluation.accuracy import evaluate, read_labelled
from vitdemo.evaluation.segmentation_benchmark import composites_to_report, mean_iou
from vitdemo.images.class_folders import BACKGROUND
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import embedded_models, spec_from_folder
from vitdemo.settings import ASSETS
from vitdemo.types import ModelSpec, Photo

STEP = 12
"""Every twelfth test photo: maps are compared on these."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("test", type=Path)
    parser.add_argument("--apart", type=Path)
    parser.add_argument("--none", type=Path, nargs="+", default=())
    parser.add_argument("--models", type=Path)
    options = parser.parse_args()
    specs = embedded_models() if options.models is None else candidates(options.models)
    pipeline = Pipeline()
    classifiers = [spec for spec in specs if spec.labels]
    pairs = composites_to_report(options.test)
    for spec in classifiers:
        figures: dict[str, Any] = {"model": spec.name, **accuracy(pipeline, spec, options.test, options.none)}
        if options.apart is not None:
            apart = evaluate(pipeline, spec, read_labelled(options.apart))
            figures["apart"] = {"top1": apart.top1, "photos": apart.photos}
        if spec.readouts:
            figures["foreground"] = mean_iou(pipeline, spec, pairs, SegmentRequest(refine=True)).mean
        show(figures)
    with_maps = [spec for spec in classifiers if spec.readouts]
    show(
        {
            "rank correlation": correlations(
                pipeline, with_maps, list(itertools.islice(read_labelled(options.test), 0, None, STEP))
            )
        }
    )
    show({"examples": examples(pipeline, classifiers)})


def candidates(folder: Path) -> list[ModelSpec]:
    """The model folders directly inside, by name."""
    return [spec_from_folder(path.parent) for path in sorted(folder.glob("*-mini/config.json"))]


def accuracy(pipeline: Pipeline, spec: ModelSpec, test: Path, none: Sequence[Path]) -> dict[str, float]:
    """On the test photos; AUROC also against photos of no class from elsewhere."""

    def photos() -> Iterator[tuple[str, Photo]]:
        yield from read_labelled(test)
        for path in none:
            yield from ((BACKGROUND, photo) for _, photo in read_labelled(path))

    found = evaluate(pipeline, spec, photos())
    return {"top1": found.top1, "per_class": found.mean_per_class, "ece": found.ece, "auroc": found.auroc}


def correlations(
    pipeline: Pipeline, specs: Sequence[ModelSpec], photos: Sequence[tuple[str, Photo]]
) -> dict[str, float]:
    """Mean over the photos of the rank correlation of each two models' maps, and the mean of all."""
    values: dict[str, list[float]] = {}
    for _, photo in photos:
        for one in pipeline.compare(photo, specs).agreement:
            if one.rank_correlation is not None:
                values.setdefault(" and ".join(one.models), []).append(one.rank_correlation)
    means = {pair: fmean(found) for pair, found in values.items()}
    return {**means, "mean": fmean(means.values())}


def examples(pipeline: Pipeline, specs: Sequence[ModelSpec]) -> dict[str, dict[str, str]]:
    """What each model names, with its score."""
    found = {}
    for path in sorted((ASSETS / "examples").glob("*.jpg")):
        photo = pipeline.open(path)
        tops = [(spec.name, pipeline.classify([photo], spec, top_k=1)[0].labels[0]) for spec in specs]
        found[path.stem] = {name: f"{top.label} {top.score:.0%}" for name, top in tops}
    return found


def show(figures: dict[str, Any]) -> None:
    json.dump(figures, sys.stdout, indent=1, default=float)
    print(flush=True)


if __name__ == "__main__":
    main()
