"""vitdemo shows what Vision Transformers see.

    >>> import vitdemo
    >>> [spec.name for spec in vitdemo.available_models()][:2]
    ['vit-mini', 'deit-mini']
    >>> prediction = vitdemo.classify("assets/examples/cup.jpg")
    >>> explanation = vitdemo.explain("assets/examples/cup.jpg", "dino-mini", layer=-1, head="mean")
    >>> explanation.map.values.shape
    (14, 14)
    >>> comparison = vitdemo.compare("assets/examples/cup.jpg")
    >>> vitdemo.segment("assets/examples/cup.jpg", resolution=None).names
    ('object 1',)

Importing the package is cheap: torch is loaded by the first call that needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from vitdemo.registry import (
    available_models,
    console_progress,
    default_models,
    obtain,
    reconstructing_model,
    segmenting_model,
)
from vitdemo.settings import VERSION, get_settings

if TYPE_CHECKING:
    from vitdemo.models.loading import Classifier
    from vitdemo.pipeline import Pipeline
    from vitdemo.types import Comparison, Explanation, Prediction, Reconstruction, Segmentation

__version__ = VERSION
__all__ = ["available_models", "classify", "compare", "explain", "load", "reconstruct", "segment"]

_guard = threading.Lock()
_pipeline: Pipeline | None = None


def classify(image: Any, model: str | None = None, **options: Any) -> Prediction:
    """What one model says of a picture: see `vitdemo.pipeline.Pipeline.classify` for the options.

    Args:
        image: a path, an address, bytes, a Pillow picture or an array.
        model: a name from `available_models()`, a model of the Hub (fetched if it is not here), or a folder; the first one
            if not given.
    """
    pipeline = _shared()
    return pipeline.classify([pipeline.open(image)], _spec(model), **options)[0]


def explain(image: Any, model: str | None = None, **options: Any) -> Explanation:
    """A prediction and a map of where the model looked: see `vitdemo.pipeline.Pipeline.explain` for the options."""
    pipeline = _shared()
    return pipeline.explain(pipeline.open(image), _spec(model), **options)


def compare(image: Any, models: Sequence[str] | None = None, **options: Any) -> Comparison:
    """Several models on one picture, every embedded one if none are named."""
    pipeline = _shared()
    specs = [_spec(name) for name in models] if models else default_models(pipeline.settings)
    return pipeline.compare(pipeline.open(image), specs, **options)


def reconstruct(image: Any, model: str | None = None, **options: Any) -> Reconstruction:
    """What a masked autoencoder makes up for hidden patches: see `vitdemo.pipeline.Pipeline.reconstruct` for the options."""
    pipeline = _shared()
    spec = _spec(model) if model else reconstructing_model()
    return pipeline.reconstruct(pipeline.open(image), spec, **options)


@overload
def segment(image: list[Any] | tuple[Any, ...], model: str | None = ..., **parameters: Any) -> list[Segmentation]: ...


@overload
def segment(image: Any, model: str | None = ..., **parameters: Any) -> Segmentation: ...


def segment(image: Any, model: str | None = None, **parameters: Any) -> Segmentation | list[Segmentation]:
    """Masks of a picture, or of each of a list of them: see `vitdemo.options.segment.Parameters` for what can be chosen.

    Parts and principal components are shared over a list, and `similarity` looks in all of it for a patch of the first one.

    Args:
        image: as for `classify`, or a list or tuple of such.
        model: as for `classify`; a DINO if not given.
    """
    from vitdemo.options.segment import Parameters
    from vitdemo.pipeline.segment import segment as segment_photos

    asked, pipeline = Parameters(**parameters), _shared()
    several = isinstance(image, list | tuple)
    photos = [pipeline.open(one) for one in (image if several else [image])]
    found = segment_photos(pipeline, photos, _spec(model) if model else segmenting_model(), asked)
    return found if several else found[0]


def load(model: str | None = None, device: str = "auto", dtype: str = "auto") -> Classifier:
    """The network itself: a torch module that takes `[B, 3, H, W]` pixels and returns logits, in evaluation mode."""
    from vitdemo.engine.devices import pick_device, pick_dtype
    from vitdemo.models.loading import load_model

    spec = _spec(model)
    chosen = pick_device(device)
    return load_model(spec, chosen, pick_dtype(dtype, chosen, spec.parameters))


def _spec(model: str | None) -> Any:
    if model is None:
        return default_models(get_settings())[0]
    with console_progress(model) as report:
        return obtain(model, report)


def _shared() -> Pipeline:
    """One pipeline a process: models are loaded once."""
    global _pipeline
    from vitdemo.pipeline import Pipeline

    with _guard:
        if _pipeline is None:
            _pipeline = Pipeline()
        return _pipeline
