"""The straight path: photo, pixels, forward pass, map. Every face of the product (page, command line, API) calls this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from numpy.typing import NDArray

from vitdemo.attribution import agreement_of
from vitdemo.engine import Backend, ModelRun, backend_of
from vitdemo.errors import OptionError
from vitdemo.images import open as images
from vitdemo.images.plain import is_plain
from vitdemo.models.masking import grey_out, hidden_patches, to_image
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest, missing_target
from vitdemo.options.methods import METHODS
from vitdemo.pipeline.asked import Key, adapted, engine_request, key_of
from vitdemo.pipeline.cache import LRUCache, bytes_of
from vitdemo.pipeline.fill import filled_in
from vitdemo.pipeline.outputs import covers, explanation_of, prediction_of
from vitdemo.pipeline.prepare import Prepared, prepare
from vitdemo.settings import Settings, get_settings
from vitdemo.types import (
    Attribution,
    Capture,
    Comparison,
    Explanation,
    Knockout,
    ModelOutput,
    ModelSpec,
    Photo,
    PixelBatch,
    Prediction,
    Processor,
    Readout,
    Reconstruct,
    Reconstruction,
)

if TYPE_CHECKING:
    import PIL.Image


class Pipeline:
    """Models and photos in, predictions and maps out. Safe to share between threads and users."""

    def __init__(self, settings: Settings | None = None, backend: Backend | None = None) -> None:
        self.settings = settings or get_settings()
        self.backend = backend or backend_of(self.settings)
        self._cache = LRUCache(int(self.settings.cache_mb * 1e6))

    def open(self, source: str | Path | bytes | PIL.Image.Image | NDArray[Any] | Photo) -> Photo:
        """Decode an image within the limits of the settings; a photo is returned as it is.

        Raises:
            ImageError: see `vitdemo.images.open`.
        """
        return source if isinstance(source, Photo) else images.open_image(source, self.settings)

    def classify(
        self, photos: Sequence[Photo], spec: ModelSpec, *, top_k: int = 5, dtype: str = "auto"
    ) -> list[Prediction]:
        """One prediction per photo, in forward passes of at most `max_batch` photos."""
        batch = preprocess(photos, spec.processor)
        outputs = self.backend.run(spec, batch.pixel_values, Capture(), dtype)
        return [
            prediction_of(spec, output, top_k, is_plain(photo, view.crop))
            for photo, view, output in zip(photos, batch.views, outputs, strict=True)
        ]

    def classify_each(
        self, photo: Photo, specs: Sequence[ModelSpec], *, top_k: int = 5, dtype: str = "auto"
    ) -> list[Prediction]:
        """One prediction per model."""
        pixels = {spec.processor: preprocess([photo], spec.processor).pixel_values for spec in specs}
        runs = [ModelRun(spec, pixels[spec.processor], Capture(), dtype) for spec in specs]
        answers = self.backend.run_many(runs)
        return [prediction_of(spec, output, top_k) for spec, (output,) in zip(specs, answers, strict=True)]

    def explain(
        self,
        photo: Photo,
        spec: ModelSpec,
        request: ExplainRequest | None = None,
        *,
        top_k: int = 5,
        dtype: str = "auto",
        capture: Capture | None = None,
        remember: bool = True,
        knockout: Knockout | None = None,
    ) -> Explanation:
        """A prediction, and one map of where the model looked.

        Args:
            request: which map; the attention of the last layer if not given.
            capture: what is wanted beside an attention map: `queries`, from which the attention of any patch follows, and
                `features` of the patches. Other maps have neither.
            remember: whether the result is kept for the next time; not worth it for frames of a camera.
            knockout: parts of the network that are off, and patches that are hidden, while it looks.

        Raises:
            OptionError: the request or the knock-out asks for what this model or photo does not have.
        """
        prepared = prepare(photo, spec, request or ExplainRequest(), knockout)
        (found,) = self._explain([prepared], capture or Capture(), top_k, dtype, remember)
        return found

    def prefetch(
        self, asked: Iterable[tuple[Photo, ModelSpec, ExplainRequest, Capture]], *, dtype: str = "auto"
    ) -> None:
        """Where each call borrows a GPU, have what an action is about to ask for made in one, and remembered.

        Raises:
            OptionError: as `explain`.
        """
        if not self.backend.borrowed:
            return
        prepared = [(prepare(photo, spec, request), capture) for photo, spec, request, capture in asked]
        wanted = [(one, engine_request(one, capture)[0]) for one, capture in prepared]
        self._run(wanted, dtype, remember=True)

    def compare(
        self,
        photo: Photo,
        specs: Sequence[ModelSpec],
        request: ExplainRequest | None = None,
        *,
        top_k: int = 5,
        dtype: str = "auto",
        capture: Capture | None = None,
        remember: bool = True,
    ) -> Comparison:
        """Several models on one photo: one decode, and one preprocessing for all models that agree on it.

        A model to which the method does not apply has no map; its description and notes say why. The same holds for a model
        without the class to be explained, as long as another model has it. A model without the readout shows its default.

        Args:
            request, top_k, dtype, capture, remember: as for `explain`.
        """
        (found,) = self.compare_each(
            [photo], specs, request, top_k=top_k, dtype=dtype, capture=capture, remember=remember
        )
        return found

    def compare_each(
        self,
        photos: Sequence[Photo],
        specs: Sequence[ModelSpec],
        request: ExplainRequest | None = None,
        *,
        top_k: int = 5,
        dtype: str = "auto",
        capture: Capture | None = None,
        remember: bool = True,
    ) -> list[Comparison]:
        """As `compare` for each photo, in one call of the backend."""
        if not specs:
            raise OptionError("Choose at least one model.")
        request = request or ExplainRequest()
        if request.readout and request.readout not in get_args(Readout):
            raise OptionError(f"There is no read-out {request.readout!r}. Choose from: {', '.join(get_args(Readout))}.")
        missing = {spec: missing_target(request, spec) for spec in specs}
        if all(missing.values()):
            raise OptionError(missing[specs[0]])
        own_requests = [adapted(request, spec, missing[spec]) for spec in specs]
        prepared = [
            prepare(photo, spec, own) for photo in photos for spec, (own, _) in zip(specs, own_requests, strict=True)
        ]
        explanations = self._explain(prepared, capture or Capture(), top_k, dtype, remember)
        comparisons = []
        for start in range(0, len(explanations), len(specs)):
            found = []
            for spec, (_, reason), explanation in zip(specs, own_requests, explanations[start:], strict=False):
                if reason:
                    title = METHODS[request.method].title
                    note = missing[spec] or f"{title} does not apply to {spec.name}: {reason}."
                    explanation = replace(
                        explanation,
                        map=None,
                        rows={},
                        description=f"no {title}: {reason}",
                        notes=(*explanation.notes, note),
                    )
                found.append(explanation)
            comparisons.append(Comparison(tuple(found), tuple(agreement_of(*pair) for pair in combinations(found, 2))))
        return comparisons

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
        (output,) = self.backend.run(spec, batch.pixel_values, Reconstruct(hidden[None]), dtype)
        assert output.filled is not None
        return Reconstruction(
            spec=spec,
            seen=grey_out(to_image(batch.pixel_values[0], spec.processor), hidden),
            filled=to_image(output.filled, spec.processor),
            hidden=hidden.numpy(),
            view=batch.views[0],
            milliseconds=output.milliseconds,
            device=output.device,
            dtype=output.dtype,
            notes=(*photo.notes, *output.notes),
        )

    def _explain(
        self, prepared: Sequence[Prepared], wanted: Capture, top_k: int, dtype: str, remember: bool
    ) -> list[Explanation]:
        asked = [engine_request(one, wanted) for one in prepared]
        outputs = self._run(
            [(one, request) for one, (request, _) in zip(prepared, asked, strict=True)], dtype, remember
        )
        return [
            explanation_of(one, output, own, top_k, from_cache)
            for one, (_, own), (output, from_cache) in zip(prepared, asked, outputs, strict=True)
        ]

    def _run(
        self, asked: Sequence[tuple[Prepared, Attribution | Capture]], dtype: str, remember: bool
    ) -> list[tuple[ModelOutput, bool]]:
        """The engine's answers, and whether each was in the cache. What is not there is made in one call."""
        found: dict[Key, tuple[ModelOutput, bool]] = {}
        missing: dict[Key, ModelRun] = {}
        pixels: dict[tuple[str, Processor], PixelBatch] = {}
        keys = [key_of(prepared, request, dtype) for prepared, request in asked]
        for key, (prepared, request) in zip(keys, asked, strict=True):
            known: ModelOutput | None = self._cache.get(key)
            if known is not None and (isinstance(request, Attribution) or covers(known, request)):
                found[key] = known, True
            elif key not in missing:
                shared = prepared.photo.digest, prepared.processor
                if shared not in pixels:
                    pixels[shared] = preprocess([prepared.photo], prepared.processor)
                values, off = pixels[shared].pixel_values, prepared.knockout
                if off:
                    values, off = filled_in(self.backend, prepared, values, dtype)
                    request = replace(request, knockouts=(off,))
                missing[key] = ModelRun(prepared.spec, values, request, dtype)
        if missing:
            for (key, _), (output,) in zip(missing.items(), self.backend.run_many([*missing.values()]), strict=True):
                known = self._cache.get(key)
                if known is not None:
                    output = replace(
                        output, queries=output.queries or known.queries, features=output.features or known.features
                    )
                if remember:
                    self._cache.put(key, output, bytes_of(output))
                found[key] = output, False
        return [found[key] for key in keys]
