"""The straight path: photo, pixels, forward, map. Every face of the product (page, command line, API) calls this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution import agreement_of, attention_map, describe, patch_map
from vitdemo.engine import Backend, LocalBackend
from vitdemo.errors import OptionError
from vitdemo.images import open as images
from vitdemo.models.attention_tap import TOKEN_NAMES
from vitdemo.models.masking import grey_out, hidden_patches, to_image
from vitdemo.models.preprocess import at_resolution, preprocess
from vitdemo.options.explain import (
    fusion_of,
    method_for,
    missing_target,
    patch_at,
    readouts_of,
    reason_against,
    share_of,
)
from vitdemo.options.methods import METHODS
from vitdemo.options.targets import parse_target, resolve_target
from vitdemo.pipeline.cache import Remembered, bytes_of
from vitdemo.pipeline.outputs import holds, on_grid, prediction_of
from vitdemo.settings import Settings, get_settings
from vitdemo.types import (
    Attribution,
    AttributionMap,
    Capture,
    Comparison,
    Explanation,
    ModelOutput,
    ModelSpec,
    Photo,
    PixelBatch,
    Prediction,
    Processor,
    Readout,
    Reconstruction,
)

if TYPE_CHECKING:
    import PIL.Image

MAX_TOKENS = 4000
"""Patches up to which a photo is enlarged."""

GRADIENT_TOKENS = 1024
"""Patches up to which it is for methods that keep all attention matrices, or, of BEiT, all position biases."""


class Pipeline:
    """Models and photos in, predictions and maps out. Safe to share between threads and users."""

    def __init__(self, settings: Settings | None = None, backend: Backend | None = None) -> None:
        self.settings = settings or get_settings()
        self.backend = backend or LocalBackend(self.settings)
        self._cache = Remembered(int(self.settings.cache_mb * 1e6))

    def open(self, source: str | Path | bytes | PIL.Image.Image | NDArray[Any] | Photo) -> Photo:
        """Let a picture in through the image door.

        Raises:
            ImageError: see `vitdemo.images.open`.
        """
        return source if isinstance(source, Photo) else images.open_image(source, self.settings)

    def classify(
        self, photos: Sequence[Photo], spec: ModelSpec, *, top_k: int = 5, dtype: str = "auto"
    ) -> list[Prediction]:
        """One prediction a photo, in forwards of at most `max_batch` of them."""
        batch = preprocess(photos, spec.processor)
        outputs = self.backend.run(spec, batch.pixel_values, Capture(), dtype)
        return [prediction_of(spec, output, top_k) for output in outputs]

    def explain(
        self,
        photo: Photo,
        spec: ModelSpec,
        *,
        method: str = "attention",
        layer: int | str = -1,
        head: int | str = "mean",
        readout: Readout | None = None,
        target: int | str | None = None,
        resolution: int | None = None,
        discard: float = 0.0,
        point: tuple[float, float] | None = None,
        top_k: int = 5,
        dtype: str = "auto",
        shared: dict[Processor, PixelBatch] | None = None,
        remember: bool = True,
        keep: bool = False,
        features: bool = False,
    ) -> Explanation:
        """A prediction, and one map of where the model looked.

        Args:
            method: a name of `vitdemo.options.methods.METHODS`.
            layer, readout: for `attention`; whose attention is the model's own default if not given; "patch" is that of the
                patch at `point`.
            head: for `attention`; `rollout` takes a fusion.
            target: a label, its index, or "top:K", for methods that explain a class; the predicted one if not given.
            resolution: long side in pixels to enlarge the photo to, keeping its shape; the model's own input if not given.
            discard: for `rollout`: share of the smallest attention of each row that is left out, from 0, below 1.
            point: for `similarity`, and for the read-out "patch": `(x, y)` in pixels of the upright photo; the middle of what
                the model sees if not given.
            keep: whether `queries` are wanted, from which the attention of any patch follows.
            features: whether the patches' `features` are wanted.
            remember: whether the result is kept for the next time; not worth it for frames of a camera.
            shared: pixel tensors of this photo, filled here, for models that agree on how to make them.

        Raises:
            OptionError: a method, layer, head, read-out, target or point that this model or photo does not have.
        """
        chosen = method_for(method, spec)
        if readout is not None and readout not in readouts_of(spec):
            choices = ", ".join(readouts_of(spec)) or "none, it has no attention"
            raise OptionError(f"{spec.name} has no read-out {readout!r}. Choose from: {choices}.")
        index, rank = parse_target(target, spec)
        limit = MAX_TOKENS
        if chosen is not None and (chosen.needs == "gradients" or (method == "rollout" and spec.model_type == "beit")):
            limit = GRADIENT_TOKENS
        processor, notes = at_resolution(spec, photo.size, resolution, limit)
        request = None
        if chosen is not None and chosen.needs != "rows":
            query = patch_at(point, photo, spec, processor) if method == "similarity" else 0
            fusion = fusion_of(head) if method == "rollout" else "mean"
            request = Attribution(method, index, rank, fusion, share_of(discard), query)
        pixels = {} if shared is None else shared
        # A method's own map has neither rows nor features beside it.
        whole = bool(spec.readouts) and request is None
        keep = (keep or readout == "patch") and whole
        capture = Capture(
            tokens=tuple(index for index, name in enumerate(TOKEN_NAMES) if name in spec.readouts),
            mean="mean" in spec.readouts,
            queries=keep,
            features=features and whole,
        )
        output, view, from_cache = self._run(photo, spec, processor, dtype, pixels, request or capture, remember)
        prediction = replace(prediction_of(spec, output, top_k), from_cache=from_cache)
        rows = {name: on_grid(values, spec, output.patch_grid) for name, values in output.rows.items()}
        attribution, description = None, "no attention: a convolutional network"
        if output.values is not None:
            values: NDArray[np.float32] = output.values.numpy()
            values.flags.writeable = False
            place = divmod(request.query, values.shape[1]) if request is not None and method == "similarity" else None
            attribution = AttributionMap(values, method, None, None, None, output.target, place)
            description = describe(attribution, "" if output.target is None else spec.labels[output.target])
        elif spec.readouts:
            shown = readout or spec.readouts[0]
            if shown == "patch":
                attribution = patch_map(
                    output.queries, output.patch_grid, patch_at(point, photo, spec, processor), layer, head
                )
            else:
                attribution = attention_map(rows[shown], layer, head, shown)
            description = describe(attribution)
            if target is not None:
                attribution = replace(attribution, target=resolve_target(target, spec, output))
                notes += ("Attention does not depend on the target class.",)
        if spec.note:
            notes += (spec.note,)
        notes = (*photo.notes, *notes, *output.notes)
        return Explanation(
            prediction,
            attribution,
            rows,
            view,
            description,
            notes,
            output.patch_grid,
            output.queries if keep else (),
            output.features if capture.features else None,
        )

    def compare(
        self,
        photo: Photo,
        specs: Sequence[ModelSpec],
        *,
        method: str = "attention",
        readout: str | None = None,
        **options: Any,
    ) -> Comparison:
        """Several models on one photo: one decode, and one preprocess for all that agree on it.

        Args:
            method: a model to which it does not apply has no map; its description and notes say why. So has one that does not
                have the class that is to be explained, as long as another one has it.
            readout: a model that has no such read-out shows its own default.
            options: of `explain`.
        """
        if not specs:
            raise OptionError("Choose at least one model.")
        if readout and readout not in get_args(Readout):
            raise OptionError(f"There is no read-out {readout!r}. Choose from: {', '.join(get_args(Readout))}.")
        shared: dict[Processor, PixelBatch] = {}
        missing = {spec: missing_target(spec, method, options.get("target")) for spec in specs}
        if all(missing.values()):
            raise OptionError(missing[specs[0]])
        explanations = tuple(
            self._compared(photo, spec, method, readout, missing[spec], shared=shared, **options) for spec in specs
        )
        return Comparison(explanations, tuple(agreement_of(*pair) for pair in combinations(explanations, 2)))

    def _compared(
        self, photo: Photo, spec: ModelSpec, method: str, readout: str | None, missing: str, **options: Any
    ) -> Explanation:
        reason = reason_against(method, spec) or missing
        if not reason or method == "attention":
            shown = next((name for name in readouts_of(spec) if name == readout), None)
            return self.explain(photo, spec, method=method, readout=shown, **options)
        kept = {name: value for name, value in options.items() if name in ("resolution", "top_k", "dtype", "shared")}
        found = self.explain(photo, spec, **kept)
        known = METHODS[method]
        return replace(
            found,
            map=None,
            rows={},
            description=f"no {known.title}: {reason}",
            notes=(*found.notes, missing or f"{known.title} does not apply to {spec.name}: {reason}."),
        )

    def reconstruct(
        self, photo: Photo, spec: ModelSpec, *, ratio: float = 0.75, seed: int = 0, dtype: str = "auto"
    ) -> Reconstruction:
        """Hide patches of a photo and let a masked autoencoder fill them in.

        Args:
            ratio: share of the patches that is hidden, above 0 and below 1.
            seed: which ones.

        Raises:
            OptionError: the model is no masked autoencoder with a decoder, or the ratio leaves nothing to hide or to see.
        """
        if not spec.reconstructs:
            raise OptionError(f"{spec.name} does not reconstruct. A masked autoencoder does, such as mae-mini.")
        hidden = hidden_patches(spec.patch_grid, ratio, seed)
        batch = preprocess([photo], spec.processor)
        filled, output = self.backend.reconstruct(spec, batch.pixel_values, hidden[None], dtype)
        return Reconstruction(
            spec=spec,
            seen=grey_out(to_image(batch.pixel_values[0], spec.processor), hidden),
            filled=to_image(filled[0], spec.processor),
            hidden=hidden.numpy(),
            view=batch.views[0],
            milliseconds=output.milliseconds,
            device=output.device,
            dtype=output.dtype,
            notes=(*photo.notes, *output.notes),
        )

    def _run(
        self,
        photo: Photo,
        spec: ModelSpec,
        processor: Processor,
        dtype: str,
        shared: dict[Processor, PixelBatch],
        request: Attribution | Capture,
        remember: bool,
    ) -> tuple[ModelOutput, Any, bool]:
        key = (
            photo.digest,
            spec.checkpoint,
            spec.revision,
            processor,
            dtype,
            request if isinstance(request, Attribution) else None,
        )
        known, view = self._cache.get(key) or (None, None)
        if known is not None and (isinstance(request, Attribution) or holds(known, request)):
            return known, view, True
        if processor not in shared:
            shared[processor] = preprocess([photo], processor)
        batch = shared[processor]
        if isinstance(request, Attribution):
            (output,) = self.backend.attribute(spec, batch.pixel_values, request, dtype)
        else:
            (output,) = self.backend.run(spec, batch.pixel_values, request, dtype)
            if known is not None:
                output = replace(
                    output, queries=output.queries or known.queries, features=output.features or known.features
                )
        if remember:
            self._cache.put(key, (output, batch.views[0]), bytes_of(output))
        return output, batch.views[0], False
