"""Every photo through every model: photos are read and decoded in a thread beside the forward passes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vitdemo.errors import ChoiceStoppedError, ClientLeftError, VitDemoError
from vitdemo.evaluation.choose.photos import Chunk, Item, Listed, chunks
from vitdemo.evaluation.choose.store import Feature, FeatureStore, model_key
from vitdemo.evaluation.choose.types import Floats, Ints, PhotoEntry, Progress, Report
from vitdemo.evaluation.labelled_inputs import geometry_of, input_of
from vitdemo.evaluation.perturb import Pixels
from vitdemo.images.class_folders import read_file
from vitdemo.models.preprocess import normalise
from vitdemo.pipeline import Pipeline
from vitdemo.types import Capture, ModelOutput, ModelSpec

logger = logging.getLogger("vitdemo")

BATCH = 8
"""Photos of a forward pass; a borrowed GPU gets more in one call."""

BORROWED_BATCH = 64

FEATURES_SHARE = 0.9
"""Of all the work of a choice, for `Progress.share`."""


@dataclass
class Seen:
    """What the models made of the photos."""

    photos: list[PhotoEntry] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    vectors: dict[str, Floats] = field(default_factory=dict)
    """By model: `[N, D]`."""
    own: dict[str, Ints] = field(default_factory=dict)
    """By model: `[N]`, the class of its own classifier, or -1."""
    errors: dict[str, str] = field(default_factory=dict)
    """By model, why it ended."""
    ran_on: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By model: device and dtype."""
    forward_seconds: float = 0.0


def see_all(
    pipeline: Pipeline,
    specs: Sequence[ModelSpec],
    files: Sequence[Listed],
    dtype: str,
    store: FeatureStore,
    report: Report,
    stopped: Callable[[], bool],
) -> Seen:
    """Features of every photo by every model; those in the store are not computed again.

    A model that fails ends with its reason, and harms no other.

    Raises:
        ChoiceStoppedError: `stopped` became true; what is done is in the store.
        InputError: an archive is damaged.
    """
    keys = {spec.name: model_key(spec, _dtype_of(pipeline, dtype)) for spec in specs}
    seen, made = Seen(), {spec.name: list[Feature]() for spec in specs}
    clock = _Clock(specs, len(files), report)
    processors = {keys[spec.name]: spec.processor for spec in specs}

    def ended() -> bool:
        return stop.is_set() or stopped()

    stop = threading.Event()
    reader = _ahead(lambda: chunks(files, processors, store, pipeline.settings, ended), stop)
    try:
        for chunk in reader:
            seen.photos += [item.entry for item in chunk.items]
            seen.labels += [item.label for item in chunk.items]
            seen.skipped += chunk.skipped
            for spec in specs:
                clock.passed(spec.name, len(chunk.skipped))
                if spec.name in seen.errors:
                    clock.passed(spec.name, len(chunk.items))
                    continue
                try:
                    made[spec.name] += _features(
                        pipeline, spec, keys[spec.name], chunk, dtype, store, seen, clock, stopped
                    )
                except (ChoiceStoppedError, ClientLeftError):
                    raise
                except VitDemoError as error:
                    seen.errors[spec.name] = str(error)
                except Exception:
                    logger.exception("A model failed on some photos")
                    seen.errors[spec.name] = (
                        f"{spec.name} failed on these photos. The reason was logged; the others are not affected."
                    )
            if stopped():
                raise _stopped(len(seen.photos), len(files))
        if stopped():
            raise _stopped(len(seen.photos), len(files))
    finally:
        stop.set()
    for spec in specs:
        if spec.name not in seen.errors and made[spec.name]:
            seen.vectors[spec.name] = np.stack([one.vector for one in made[spec.name]])
            seen.own[spec.name] = np.array([one.answer for one in made[spec.name]], np.int64)
        made.pop(spec.name)
    return seen


def _dtype_of(pipeline: Pipeline, dtype: str) -> str:
    """What decides on the dtype beside the model: features of a GPU are not those of a CPU in their last digits."""
    return f"{pipeline.backend.where} {dtype if dtype != 'auto' else pipeline.settings.dtype}"


def _stopped(done: int, total: int) -> ChoiceStoppedError:
    return ChoiceStoppedError(
        f"Stopped after {done:,} of {total:,} photos. What is done is kept: the same call goes on from there."
    )


def _features(
    pipeline: Pipeline,
    spec: ModelSpec,
    key: str,
    chunk: Chunk,
    dtype: str,
    store: FeatureStore,
    seen: Seen,
    clock: _Clock,
    stopped: Callable[[], bool],
) -> list[Feature]:
    """Of all photos of a chunk, in their order."""
    found: dict[str, Feature] = {}
    for item in chunk.items:
        kept = None if key in item.missing else store.get(item.entry.digest, key)
        if kept is not None:
            found[item.entry.digest] = kept
    store.touch(key, list(found))
    clock.known(spec.name, sum(item.entry.digest in found for item in chunk.items))
    # The same photo may be there twice.
    todo = list({item.entry.digest: item for item in chunk.items if item.entry.digest not in found}.values())
    fresh: list[tuple[str, Feature]] = []
    size = BORROWED_BATCH if pipeline.backend.borrowed else min(BATCH, pipeline.settings.max_batch)
    try:
        for start in range(0, len(todo), size):
            if stopped():
                raise _stopped(len(seen.photos) - len(chunk.items), clock.total)
            some = todo[start : start + size]
            outputs, seconds = _passed(pipeline, spec, [_pixels(pipeline, spec, item) for item in some], dtype)
            seen.forward_seconds += seconds
            seen.ran_on[spec.name] = outputs[0].device, outputs[0].dtype
            fresh += [(item.entry.digest, _feature(spec, output)) for item, output in zip(some, outputs, strict=True)]
            clock.computed(spec.name, len(some), seconds)
    finally:
        store.put(key, fresh)
    found |= dict(fresh)
    return [found[item.entry.digest] for item in chunk.items]


def _pixels(pipeline: Pipeline, spec: ModelSpec, item: Item) -> Pixels:
    found = item.pixels.get(geometry_of(spec.processor))
    if found is not None:
        return found
    # It was in the store when it was looked up, and has left it since.
    return input_of(pipeline.open(read_file(item.entry.source, item.entry.name)), spec.processor)


def _passed(
    pipeline: Pipeline, spec: ModelSpec, pixels: Sequence[Pixels], dtype: str
) -> tuple[list[ModelOutput], float]:
    values = torch.from_numpy(np.stack([normalise(one, spec.processor) for one in pixels]))
    start = time.perf_counter()
    outputs = pipeline.backend.run(spec, values, Capture(pooled=True), dtype)
    return outputs, time.perf_counter() - start


def _feature(spec: ModelSpec, output: ModelOutput) -> Feature:
    assert output.pooled is not None
    vector = output.pooled.numpy()
    if output.logits is None:
        return Feature(vector)
    scores = torch.softmax(output.logits / spec.temperature, dim=-1)
    best = int(scores.argmax())
    return Feature(vector, best, float(scores[best]))


def _ahead(make: Callable[[], Iterator[Chunk]], stop: threading.Event) -> Iterator[Chunk]:
    """What a generator yields, made in a thread, one ahead."""
    ready: queue.Queue[Chunk | BaseException | None] = queue.Queue(1)

    def put(one: Chunk | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(one, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for chunk in make():
                if not put(chunk):
                    return
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=produce, name="vitdemo-choose", daemon=True).start()
    while True:
        one = ready.get()
        if one is None:
            return
        if isinstance(one, BaseException):
            raise one
        yield one


class _Clock:
    """Progress, and the time that is left, from the seconds per photo of each model."""

    def __init__(self, specs: Sequence[ModelSpec], total: int, report: Report) -> None:
        self.total, self.report = total, report
        self.done = {spec.name: 0 for spec in specs}
        self.spent = {spec.name: (0, 0.0) for spec in specs}
        self.start = time.perf_counter()
        self.before = 0.0

    def passed(self, model: str, photos: int) -> None:
        """Photos that cost nothing."""
        self.done[model] += photos

    def known(self, model: str, photos: int) -> None:
        self.passed(model, photos)
        if photos:
            self._tell(model)

    def computed(self, model: str, photos: int, seconds: float) -> None:
        self.done[model] += photos
        counted, spent = self.spent[model]
        self.spent[model] = counted + photos, spent + seconds
        self._tell(model)

    def _tell(self, model: str) -> None:
        share = sum(self.done.values()) / max(1, self.total * len(self.done))
        self.report(Progress("features", model, self.done[model], self.total, FEATURES_SHARE * share, self._left()))

    def _left(self) -> float | None:
        known = [spent / counted for counted, spent in self.spent.values() if counted]
        if not known:
            return None
        usual = sum(known) / len(known)
        passes = sum(
            (self.total - done) * (self.spent[model][1] / self.spent[model][0] if self.spent[model][0] else usual)
            for model, done in self.done.items()
        )
        # Whatever else takes time, such as reading, takes its share of what is left, too.
        inside = sum(spent for _, spent in self.spent.values())
        return passes * max(1.0, (time.perf_counter() - self.start) / inside) if inside else None
