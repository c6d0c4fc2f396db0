"""The straight path: photo, pixels, forward pass, map. Every face of the product (page, command line, API) calls this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from numpy.typing import NDArray

from vitdemo.attribution import agreement_of
from vitdemo.engine import Backend, LocalBackend
from vitdemo.errors import OptionError
from vitdemo.images import open as images
from vitdemo.models.attention_tap import TOKEN_NAMES
from vitdemo.models.masking import grey_out, hidden_patches, to_image
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest, missing_target, readouts_of, reason_against
from vitdemo.options.methods import METHODS
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

_SharedPixels = dict[Processor, PixelBatch]
"""Pixel tensors of one photo, for models that agree on how to make them."""


class Pipeline:
    """Models and photos in, predictions and maps out. Safe to share between threads and users."""

    def __init__(self, settings: Settings | None = None, backend: Backend | None = None) -> None:
        self.settings = settings or get_settings()
        self.backend = backend or LocalBackend(self.settings)
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
        return [prediction_of(spec, output, top_k) for output in outputs]

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
            OptionError: the request asks for what this model or photo does not have.
        """
        prepared = prepare(photo, spec, request or ExplainRequest(), knockout)
        return self._explain(prepared, capture or Capture(), top_k, dtype, {}, remember)

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
        if not specs:
            raise OptionError("Choose at least one model.")
        request = request or ExplainRequest()
        if request.readout and request.readout not in get_args(Readout):
            raise OptionError(f"There is no read-out {request.readout!r}. Choose from: {', '.join(get_args(Readout))}.")
        missing = {spec: missing_target(request, spec) for spec in specs}
        if all(missing.values()):
            raise OptionError(missing[specs[0]])
        pixels: _SharedPixels = {}
        found = []
        for spec in specs:
            own, reason = _adapted(request, spec, missing[spec])
            explanation = self._explain(prepare(photo, spec, own), capture or Capture(), top_k, dtype, pixels, remember)
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
        return Comparison(tuple(found), tuple(agreement_of(*pair) for pair in combinations(found, 2)))

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
        self,
        prepared: Prepared,
        wanted: Capture,
        top_k: int,
        dtype: str,
        pixels: _SharedPixels,
        remember: bool,
    ) -> Explanation:
        request, wanted = _engine_request(prepared, wanted)
        output, from_cache = self._run(prepared, request, dtype, pixels, remember)
        return explanation_of(prepared, output, wanted, top_k, from_cache)

    def _run(
        self,
        prepared: Prepared,
        request: Attribution | Capture,
        dtype: str,
        pixels: _SharedPixels,
        remember: bool,
    ) -> tuple[ModelOutput, bool]:
        """The engine's answer, and whether it was in the cache."""
        spec, processor = prepared.spec, prepared.processor
        own = request if isinstance(request, Attribution) else None
        off = prepared.knockout
        key = (prepared.photo.digest, spec.checkpoint, spec.revision, processor, dtype, own, off)
        known: ModelOutput | None = self._cache.get(key)
        if known is not None and (isinstance(request, Attribution) or covers(known, request)):
            return known, True
        if processor not in pixels:
            pixels[processor] = preprocess([prepared.photo], processor)
        values = pixels[processor].pixel_values
        if off:
            values, off = filled_in(self.backend, prepared, values, dtype)
            request = replace(request, knockouts=(off,))
        (output,) = self.backend.run(spec, values, request, dtype)
        if known is not None:
            output = replace(
                output, queries=output.queries or known.queries, features=output.features or known.features
            )
        if remember:
            self._cache.put(key, output, bytes_of(output))
        return output, False


def _adapted(request: ExplainRequest, spec: ModelSpec, missing: str) -> tuple[ExplainRequest, str]:
    """The request as this model can take it beside others, and why it has no such map; "" where it has."""
    reason = reason_against(request.method, spec) or missing
    if reason and request.method != "attention":
        return ExplainRequest(resolution=request.resolution), reason
    readout = request.readout if request.readout in readouts_of(spec) else None
    return replace(request, readout=readout), ""


def _engine_request(prepared: Prepared, wanted: Capture) -> tuple[Attribution | Capture, Capture]:
    """What the engine is asked for, and what of `wanted` the answer is going to have."""
    spec, resolved = prepared.spec, prepared.request
    method = resolved.method
    if method is not None and method.needs != "rows":
        patch = prepared.patch if method.name == "similarity" else 0
        request = resolved.request
        attribution = Attribution(
            method.name,
            resolved.target,
            resolved.rank,
            resolved.fusion,
            float(request.discard),
            patch,
            resolved.variant,
        )
        # A method's own map has neither rows nor features beside it.
        return attribution, Capture()
    attends = bool(spec.readouts)
    capture = Capture(
        tokens=tuple(index for index, name in enumerate(TOKEN_NAMES) if name in spec.readouts),
        mean="mean" in spec.readouts,
        queries=attends and (wanted.queries or resolved.readout == "patch"),
        features=attends and wanted.features,
    )
    return capture, capture
