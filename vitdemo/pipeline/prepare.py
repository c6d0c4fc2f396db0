"""A photo and a request, made ready for one model: how it is resized and cropped, and on which patch grid."""

from __future__ import annotations

from dataclasses import dataclass, field

from vitdemo.errors import OptionError
from vitdemo.models.preprocess import at_resolution, input_size, view_of
from vitdemo.options.explain import ExplainRequest, Point, ResolvedRequest, resolve
from vitdemo.options.knockout import heads_off, resolve_knockout
from vitdemo.types import Knockout, ModelSpec, Photo, Processor, View

MAX_TOKENS = 4000
"""Patches up to which a photo is enlarged."""

MAX_GRADIENT_TOKENS = 1024
"""The same for methods that keep all attention matrices, or, of BEiT, all position biases."""


@dataclass(frozen=True)
class Prepared:
    """What is known before any forward pass."""

    photo: Photo
    spec: ModelSpec
    request: ResolvedRequest
    processor: Processor
    """At the resolution of the request."""
    view: View
    grid: tuple[int, int]
    """`(rows, columns)` of patches."""
    notes: tuple[str, ...]
    knockout: Knockout = field(default_factory=Knockout)

    @property
    def silent(self) -> tuple[int, ...]:
        """Heads of the layer whose attention is shown that are off."""
        layer = int(self.request.request.layer) % max(1, self.spec.num_layers)
        return heads_off(self.knockout, layer, self.spec.num_heads)

    @property
    def point(self) -> Point:
        """The requested one, or the middle of the view."""
        left, top, right, bottom = self.view.crop
        return self.request.request.point or ((left + right) / 2, (top + bottom) / 2)

    @property
    def patch(self) -> int:
        """Number of the patch at the point, row by row from 0.

        Raises:
            OptionError: the model does not see that point.
        """
        (x, y), (left, top, right, bottom) = self.point, self.view.crop
        if not (left <= x < right and top <= y < bottom):
            raise OptionError(
                f"The point {x:g},{y:g} is not on what {self.spec.name} sees: "
                f"x from {left} to {right - 1}, y from {top} to {bottom - 1}."
            )
        rows, columns = self.grid
        return int((y - top) / (bottom - top) * rows) * columns + int((x - left) / (right - left) * columns)


def prepare(photo: Photo, spec: ModelSpec, request: ExplainRequest, knockout: Knockout | None = None) -> Prepared:
    """Check a request, and find what the model is going to see of a photo, without making its pixels.

    Raises:
        OptionError: see `vitdemo.options.explain.resolve` and `vitdemo.options.knockout.resolve_knockout`; or the resolution is
            below one patch.
    """
    resolved = resolve(request, spec)
    method = resolved.method
    heavy = method is not None and (
        method.needs == "gradients" or (method.name == "rollout" and spec.model_type == "beit")
    )
    limit = MAX_GRADIENT_TOKENS if heavy else MAX_TOKENS
    processor, notes = at_resolution(spec, photo.size, request.resolution, limit)
    grid = spec.grid_of(*input_size(spec, processor))
    off = resolve_knockout(knockout or Knockout(), spec, grid)
    return Prepared(photo, spec, resolved, processor, view_of(photo.size, processor), grid, notes, off)
