"""Which methods name the patches that a model classifies by: `python -m scripts.measure_faithfulness TAR STATE [--write]`.

Every embedded classifier and every method that applies to it, on the same photos of a labelled set: areas of deletion and
insertion beside those of random orders, and, to see which measure tells methods apart best, two others:

- SaCo (Wu et al. 2024, arXiv:2404.01415): ten groups of patches, from the highest values to the lowest, are replaced, one at a
  time; -1 to 1 says how far the falls of the score follow the values.
- Infidelity (Yeh et al. 2019, arXiv:1901.09392), with random halves of the patches replaced: the share of the squared falls of
  the score that the map, scaled as well as possible, does not predict; 0 to 1.

Measures are compared by Kendall's W: how far photos agree about the order of the methods, 0 (not at all) to 1.

STATE gets one line of JSON for each photo and model, as it is done: another run with the same file goes on from there, and with
`--photos 0` the tables are made of what is in it. `--write` puts them into `docs/methods.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from scripts.parts import replace_part
from vitdemo.evaluation.accuracy import read_labelled
from vitdemo.evaluation.faithfulness import faithfulness, pixels_of, scores_without
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import embedded_models
from vitdemo.settings import ROOT, get_settings
from vitdemo.types import ModelSpec, Photo
from vitdemo.types.labels import class_called

GROUPS = 10
MASKS = 20
CHOSEN = 200
"""Photos that are chosen from the set, spread over its classes; `--photos` measures the first of them."""

EXTRA = {"rollout, vit-explain, discard 0.9": ExplainRequest("rollout", discard=0.9, variant="vit-explain")}
"""Beside the defaults and the variants of every method."""

MEASURES = {
    "deletion": ("deletion", -1),
    "insertion": ("insertion", 1),
    "difference": ("insertion - deletion", 1),
    "saco": ("SaCo", 1),
    "infidelity": ("infidelity", -1),
}
"""Heading, and whether higher (1) or lower (-1) is better."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Faithfulness of every model and method.")
    parser.add_argument("data", type=Path, metavar="TAR")
    parser.add_argument("state", type=Path, metavar="STATE")
    parser.add_argument("--photos", type=int, default=CHOSEN, help="how many of the chosen ones")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    done = read_state(options.state)
    if options.photos:
        known = {(entry["photo"], entry["model"]) for entry in done}
        with options.state.open("a", encoding="utf-8") as file:
            for entry in measure(options.data, options.photos, known):
                done.append(entry)
                file.write(json.dumps(entry) + "\n")
                file.flush()
    text = tables(done)
    print(text)
    if options.write:
        replace_part(ROOT / "docs" / "methods.md", "measured: faithfulness", text)


def read_state(path: Path) -> list[dict[str, Any]]:
    """What an earlier run has measured; a line that was cut off counts as not measured."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def measure(data: Path, photos: int, known: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """One entry for each photo and model that is not known yet, photo by photo."""
    pipeline = Pipeline(get_settings())
    specs = [spec for spec in embedded_models() if spec.labels]
    every = [photo for label, photo in read_labelled(data) if class_called(label, specs[0].labels) in specs[0].labels]
    spread = every[:: max(1, len(every) // CHOSEN)][:CHOSEN]
    # In another order, so that the first ones are spread over the classes, too.
    for number in np.random.default_rng(0).permutation(len(spread))[:photos]:
        for spec in specs:
            if (spread[number].digest, spec.name) not in known:
                print(f"photo {number}, {spec.name}", file=sys.stderr, flush=True)
                yield {
                    "photo": spread[number].digest,
                    "model": spec.name,
                    "methods": one_photo(pipeline, spec, spread[number], seed=int(number)),
                }


def requests_of(spec: ModelSpec) -> dict[str, ExplainRequest]:
    """What is measured of a model, by the name in the tables."""
    found = {}
    for name in spec.methods:
        if name == "similarity":
            continue
        found[name] = ExplainRequest(name)
        for variant in METHODS[name].variant_names[1:]:
            # Without discarding and with the mean of heads, rollout's are the same.
            if name != "rollout":
                found[f"{name}, {variant}"] = ExplainRequest(name, variant=variant)
    return found | {name: request for name, request in EXTRA.items() if request.method in spec.methods}


def one_photo(pipeline: Pipeline, spec: ModelSpec, photo: Photo, seed: int) -> dict[str, dict[str, float]]:
    """Each measure by method."""
    found: dict[str, dict[str, float]] = {}
    baseline: Sequence[float] | None = None
    halves = np.random.default_rng(seed).random((MASKS, *spec.patch_grid)) < 0.5
    falls: NDArray[np.float64] | None = None
    pixels = pixels_of(photo, spec, ExplainRequest(spec.methods[0]))
    for name, request in requests_of(spec).items():
        curves = faithfulness(pipeline, photo, spec, request, seed=seed, baseline=baseline)
        baseline = curves.random
        explanation = pipeline.explain(photo, spec, request)
        assert explanation.map is not None
        values = explanation.map.values.astype(np.float64)

        groups = in_groups(values)
        # One batch; the falls without random halves are the same for every method.
        gone = np.concatenate([groups] if falls is not None else [groups, halves])
        scores = scores_without(pipeline, spec, pixels, torch.from_numpy(gone), curves.target)
        fallen = curves.deletion[0] - np.array(scores)
        if falls is None:
            falls = fallen[GROUPS:]
        found[name] = {
            "deletion": curves.deletion_auc,
            "insertion": curves.insertion_auc,
            "random": curves.random_auc,
            "saco": saco(groups.reshape(GROUPS, -1) @ values.ravel(), fallen[:GROUPS]),
            "infidelity": infidelity(halves.reshape(MASKS, -1) @ values.ravel(), falls),
        }
    return found


def in_groups(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """`[GROUPS, h, w]`: the patches of a map from the highest values to the lowest, in groups of one size."""
    groups = np.zeros((GROUPS, values.size), bool)
    order = np.argsort(-values.ravel(), kind="stable")
    for group, members in zip(groups, np.array_split(order, GROUPS), strict=True):
        group[members] = True
    return groups.reshape(GROUPS, *values.shape)


def saco(sums: NDArray[np.float64], falls: NDArray[np.float64]) -> float:
    """Salience-guided faithfulness coefficient: Wu et al. 2024, arXiv:2404.01415, algorithm 1.

    Args:
        sums: of a map's values in each group, in descending order.
        falls: of the score without each group.

    >>> saco(np.array([3.0, 2.0, 1.0]), np.array([0.3, 0.2, 0.1])), saco(np.array([2.0, 1.0]), np.array([0.0, 0.1]))
    (1.0, -1.0)
    """
    first, second = np.triu_indices(len(sums), 1)
    weights = sums[first] - sums[second]
    signs = np.where(falls[first] >= falls[second], 1.0, -1.0)
    total = np.abs(weights).sum()
    return float((weights * signs).sum() / total) if total else 0.0


def infidelity(sums: NDArray[np.float64], falls: NDArray[np.float64]) -> float:
    """Share of the squared falls that the best multiple of the sums leaves unexplained: Yeh et al. 2019, arXiv:1901.09392.

    >>> infidelity(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    0.0
    """
    scale = (sums @ falls) / (sums @ sums) if sums.any() else 0.0
    total = falls @ falls
    return float(((falls - scale * sums) ** 2).sum() / total) if total else 0.0


def tables(done: Sequence[dict[str, Any]]) -> str:
    """The means with their intervals, and how far photos agree by each measure, in Markdown."""
    parts = []
    consistency = []
    for model in dict.fromkeys(entry["model"] for entry in done):
        of_model = [entry["methods"] for entry in done if entry["model"] == model]
        # A method that came later is not in the oldest lines.
        names = [name for name in of_model[-1] if all(name in entry for entry in of_model)]
        values = {
            key: np.array([[entry[name][key] for name in names] for entry in of_model])
            for key in ("deletion", "insertion", "random", "saco", "infidelity")
        }
        values["difference"] = values["insertion"] - values["deletion"]
        random = values["random"].mean()
        parts.append(f"| **{model}**, {len(of_model)} photos | random {random:.3f} | random {random:.3f} | 0 | |")
        for column, name in enumerate(names):
            cells = [name]
            for key in ("deletion", "insertion"):
                low, high = interval(values[key][:, column] - values["random"][:, column])
                mean = values[key][:, column].mean()
                cells.append(f"{mean:.3f} ({low:+.3f} to {high:+.3f})")
            for key in ("saco", "infidelity"):
                low, high = interval(values[key][:, column])
                cells.append(f"{values[key][:, column].mean():.2f} ({low:.2f} to {high:.2f})")
            parts.append(f"| {' | '.join(cells)} |")
        if len(names) > 2:
            agreed = [kendalls_w(sign * values[key]) for key, (_, sign) in MEASURES.items()]
            consistency.append(f"| {model} | {' | '.join(f'{value:.2f}' for value in agreed)} |")
    head = [
        "| method | deletion (lower is better) | insertion (higher is better) | SaCo (higher) | infidelity (lower) |",
        "|---|---|---|---|---|",
    ]
    headings = " | ".join(heading for heading, _ in MEASURES.values())
    agreement = [f"| Kendall's W | {headings} |", f"|{'---|' * (len(MEASURES) + 1)}", *consistency]
    return "\n".join([*head, *parts, "", *agreement])


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95% bootstrap interval of the mean."""
    chosen = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def kendalls_w(values: NDArray[np.float64]) -> float:
    """Kendall's coefficient of concordance of `[photos, methods]`: 0 if each photo orders the methods at random, 1 if all alike.

    >>> kendalls_w(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])), kendalls_w(np.array([[1.0, 2.0], [2.0, 1.0]]))
    (1.0, 0.0)
    """
    ranks = np.apply_along_axis(rankdata, 1, values)
    photos, methods = values.shape
    sums = ranks.sum(axis=0)
    return float(12 * ((sums - sums.mean()) ** 2).sum() / (photos**2 * (methods**3 - methods)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
