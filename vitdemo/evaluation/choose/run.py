"""The whole of a choice: photos to features to figures to a verdict."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vitdemo.engine.devices import free_memory
from vitdemo.errors import ClientLeftError, InputError, OptionError, VitDemoError
from vitdemo.evaluation.choose import boxes as coco
from vitdemo.evaluation.choose import timing
from vitdemo.evaluation.choose.features import BATCH, FEATURES_SHARE, Seen, see_all
from vitdemo.evaluation.choose.judge import go_on, judged
from vitdemo.evaluation.choose.photos import Listed, listed, thumbnail_of
from vitdemo.evaluation.choose.store import FeatureStore
from vitdemo.evaluation.choose.types import (
    Candidate,
    Choice,
    ChooseRequest,
    Progress,
    Report,
)
from vitdemo.evaluation.choose.verdict import machine_of, verdict_of
from vitdemo.pipeline import Pipeline
from vitdemo.types import ModelSpec

logger = logging.getLogger("vitdemo")

PER_PHOTO = 4000
"""Bytes of a photo on the disk beside its features: its picture, and what a database adds."""

WIDTH = 1024
"""Numbers that a feature is reckoned with before it is known."""


def choose(
    pipeline: Pipeline,
    specs: Sequence[ModelSpec],
    request: ChooseRequest,
    *,
    store: FeatureStore | None = None,
    report: Report | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Choice:
    """Run every photo through every model, and compare what their features are worth.

    Args:
        store: where features are kept; `FeatureStore.default(settings)` if None.
        report: told how far it is, from this thread.
        stopped: asked between batches, from several threads; when it is true, the run ends with what is done kept in the store.

    Raises:
        OptionError: no model, or an option out of range.
        InputError: the data is missing, damaged, holds fewer than two photos, or does not fit into memory.
        ChoiceStoppedError: `stopped` became true. The same call resumes.
    """
    start, tell = time.perf_counter(), report or (lambda progress: None)
    specs = tuple({spec.name: spec for spec in specs}.values())
    _check(specs, request)
    objects = coco.read_coco(request.boxes) if request.boxes else {}
    tell(Progress("reading", "", 0, 0, 0.0, None))
    files, notes = listed(request)
    store = store or FeatureStore.default(pipeline.settings)
    notes += _room(files, specs, store)
    evicted = store.evicted
    seen = see_all(pipeline, specs, files, request.dtype, store, tell, stopped)
    if len(seen.photos) < 2:
        unreadable = (
            f" {len(seen.skipped)} files were not readable, the first: {seen.skipped[0]}" if seen.skipped else ""
        )
        raise InputError(f"At least two photos are needed; there is {'one' if seen.photos else 'none'}.{unreadable}")
    if store.refusal:
        notes.append(f"{store.refusal} This result is whole, but the next one starts from what was kept before.")
    elif store.evicted > evicted:
        notes.append(
            f"The features of these photos take more than the {store.limit / 1e6:,.0f} MB that are kept: the next run computes "
            "some of them again. Set VITDEMO_FEATURES_MB higher to keep them all."
        )
    rows = []
    for number, spec in enumerate(specs):
        go_on(stopped)
        rows.append(_timed(pipeline, spec, seen, request, tell, number, len(specs)))
    if objects:
        rows = _localized(pipeline, specs, rows, seen, objects, request, tell, stopped)
    choice = judged(
        Choice(
            request=request,
            photos=tuple(seen.photos),
            classes=(),
            labels=np.zeros(0, np.int64),
            skipped=tuple(seen.skipped),
            specs=specs,
            candidates=tuple(rows),
            features=seen.vectors,
            answers={},
            verdict=verdict_of(rows, {}, request, ""),
            notes=tuple(notes),
            machine=machine_of(pipeline.backend.where),
            batch=BATCH,
            forward_seconds=seen.forward_seconds,
            thumbnails=_thumbnails(seen, store),
            own=seen.own,
        ),
        seen.labels,
        tell,
        stopped,
    )
    return replace(choice, seconds=time.perf_counter() - start)


def relabelled(choice: Choice, labels: Mapping[str, str], report: Report | None = None) -> Choice:
    """The same photos and features with other labels, by file name; no forward pass. Files that are not named have none."""
    request = replace(choice.request, labels=dict(labels), ignore_labels=False)
    found = [labels.get(photo.name) or None for photo in choice.photos]
    kept = {key: value for key, value in choice.kept.items() if key[0] not in ("differing", "clusters")}
    return judged(replace(choice, request=request, kept=kept), found, report or (lambda progress: None))


def _check(specs: Sequence[ModelSpec], request: ChooseRequest) -> None:
    """Raises OptionError: something is out of range."""
    if not specs:
        raise OptionError("Choose at least one model.")
    if not request.data:
        raise OptionError("Give a folder, zip or tar of photos.")
    limits = (
        ("folds", request.folds, 2, 20),
        ("k", request.k, 1, 1000),
        ("clusters", request.clusters, 2, 100),
        ("strength", request.strength, 1e-6, 1e6),
        ("photos", request.most, 2, 10**9),
    )
    for name, value, least, most in limits:
        if value is not None and not least <= value <= most:
            raise OptionError(f"{name} must be from {least:g} to {most:,g}, not {value:g}.")


def _room(files: Sequence[Listed], specs: Sequence[ModelSpec], store: FeatureStore) -> list[str]:
    """Notes on the disk.

    Raises:
        InputError: the features do not fit into memory.
    """
    needed = 4 * WIDTH * len(files) * len(specs)
    if needed > free_memory() / 2:
        raise InputError(
            f"The features of {len(files):,} photos by {len(specs)} models may take {needed / 1e9:.1f} GB of memory, and "
            f"{free_memory() / 1e9:.1f} GB are free. Give fewer photos or models."
        )
    wanted = min(needed + PER_PHOTO * len(files), store.limit)
    free = shutil.disk_usage(store.folder).free + store.size
    if wanted > free:
        return [
            f"The features of {len(files):,} photos may take {wanted / 1e6:,.0f} MB of disk, and {free / 1e6:,.0f} MB are free: "
            "when it is full, the run goes on in memory, and what it has kept until then stays."
        ]
    return []


def _thumbnails(seen: Seen, store: FeatureStore) -> Callable[[int], bytes]:
    photos = seen.photos

    def thumbnail(photo: int) -> bytes:
        return store.thumbnail(photos[photo].digest) or thumbnail_of(photos[photo])

    return thumbnail


def _timed(
    pipeline: Pipeline, spec: ModelSpec, seen: Seen, request: ChooseRequest, tell: Report, number: int, models: int
) -> Candidate:
    """The row of a model with all that is not measured on the photos."""
    row = Candidate(
        spec.name, spec.family, spec.parameters, spec.bytes, spec.license, error=seen.errors.get(spec.name, "")
    )
    if row.error or spec.name not in seen.vectors:
        return row
    tell(Progress("timing", spec.name, number, models, FEATURES_SHARE + 0.04 * number / models, None))
    row = replace(row, dimensions=int(seen.vectors[spec.name].shape[1]))
    try:
        alone, batched, device, dtype = timing.milliseconds(pipeline, spec, request.dtype)
        row = replace(row, ms_alone=alone, ms_batched=batched, device=device, dtype=dtype)
        return replace(row, memory=timing.memory(pipeline, spec))
    except ClientLeftError:
        raise
    except VitDemoError as error:
        return replace(row, error=f"Its time could not be measured: {error}")
    except Exception:
        logger.exception("A model could not be timed")
        return replace(row, error="Its time or memory could not be measured. The reason was logged.")


def _localized(
    pipeline: Pipeline,
    specs: Sequence[ModelSpec],
    rows: Sequence[Candidate],
    seen: Seen,
    objects: Mapping[str, coco.Objects],
    request: ChooseRequest,
    tell: Report,
    stopped: Callable[[], bool],
) -> list[Candidate]:
    alive = [spec for spec in specs if spec.name in seen.vectors]

    def report(model: str, done: int, total: int) -> None:
        tell(Progress("boxes", model, done, total, FEATURES_SHARE + 0.04 + 0.03 * done / total, None))

    found, failed = coco.localize(
        pipeline, alive, seen.photos, coco.matched(objects, seen.photos), request.dtype, report, stopped
    )
    return [
        replace(row, localization=found.get(row.model), error=row.error or failed.get(row.model, "")) for row in rows
    ]
