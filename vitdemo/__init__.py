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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

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
    from pathlib import Path

    from vitdemo.evaluation.choose import Choice, Progress
    from vitdemo.models.loading import Classifier
    from vitdemo.options.knockout import RankBy
    from vitdemo.options.segment import SegmentOptions
    from vitdemo.pipeline import Pipeline
    from vitdemo.types import (
        Ablation,
        Comparison,
        Explanation,
        Fill,
        LayerAnswers,
        Prediction,
        Reconstruction,
        RobustnessCurve,
        Segmentation,
    )

__version__ = VERSION
__all__ = [
    "ablate",
    "available_models",
    "choose",
    "classify",
    "compare",
    "explain",
    "lens",
    "load",
    "reconstruct",
    "robustness",
    "segment",
]

_guard = threading.Lock()
_pipeline: Pipeline | None = None


def classify(image: Any, model: str | None = None, *, top_k: int = 5, dtype: str = "auto") -> Prediction:
    """One model's best labels for an image.

    Args:
        image: a path, a URL, bytes, a Pillow image or an array.
        model: a name from `available_models()`, a model on the Hub (downloaded if it is not here), or a folder; the first
            embedded one if not given.
        top_k: how many labels.
        dtype: "auto", "fp32", "bf16" or "fp16".
    """
    pipeline = _shared()
    return pipeline.classify([pipeline.open(image)], _spec(model), top_k=top_k, dtype=dtype)[0]


def explain(
    image: Any,
    model: str | None = None,
    *,
    method: str = "attention",
    layer: int | str = -1,
    head: int | str = "mean",
    readout: str | None = None,
    target: int | str | None = None,
    resolution: int | None = None,
    discard: float = 0.0,
    point: tuple[float, float] | None = None,
    variant: str | None = None,
    top_k: int = 5,
    dtype: str = "auto",
    keep: bool = False,
    features: bool = False,
) -> Explanation:
    """A prediction and a map of where the model looked.

    Args:
        image, model, top_k, dtype: as for `classify`.
        method, layer, head, readout, target, resolution, discard, point, variant: see
            `vitdemo.options.explain.ExplainRequest`.
        keep: also return `queries`, from which the attention of any patch follows.
        features: also return the `features` of the patches.
    """
    from vitdemo.options.explain import ExplainRequest
    from vitdemo.types import Capture

    request = ExplainRequest(method, layer, head, readout, target, resolution, discard, point, variant)
    pipeline, capture = _shared(), Capture(queries=keep, features=features)
    return pipeline.explain(pipeline.open(image), _spec(model), request, top_k=top_k, dtype=dtype, capture=capture)


def compare(
    image: Any,
    models: Sequence[str] | None = None,
    *,
    method: str = "attention",
    layer: int | str = -1,
    head: int | str = "mean",
    readout: str | None = None,
    target: int | str | None = None,
    resolution: int | None = None,
    discard: float = 0.0,
    point: tuple[float, float] | None = None,
    variant: str | None = None,
    top_k: int = 5,
    dtype: str = "auto",
) -> Comparison:
    """Several models on one image: every embedded one if none are named. The options are those of `explain`."""
    from vitdemo.options.explain import ExplainRequest

    request = ExplainRequest(method, layer, head, readout, target, resolution, discard, point, variant)
    pipeline = _shared()
    specs = [_spec(name) for name in models] if models else default_models(pipeline.settings)
    return pipeline.compare(pipeline.open(image), specs, request, top_k=top_k, dtype=dtype)


def reconstruct(
    image: Any, model: str | None = None, *, ratio: float = 0.75, seed: int = 0, dtype: str = "auto"
) -> Reconstruction:
    """What a masked autoencoder fills in for hidden patches.

    Args:
        image, dtype: as for `classify`.
        model: a masked autoencoder; the embedded one if not given.
        ratio: share of the patches that is hidden, above 0 and below 1.
        seed: which ones.
    """
    pipeline = _shared()
    spec = _spec(model) if model else reconstructing_model()
    return pipeline.reconstruct(pipeline.open(image), spec, ratio=ratio, seed=seed, dtype=dtype)


def ablate(
    image: Any,
    model: str | None = None,
    *,
    heads: Sequence[tuple[int, int]] = (),
    attention: Sequence[int] = (),
    mlp: Sequence[int] = (),
    patches: Sequence[int] = (),
    fill: Fill = "grey",
    rank: RankBy | None = None,
    method: str = "attention",
    layer: int | str = -1,
    head: int | str = "mean",
    readout: str | None = None,
    target: int | str | None = None,
    resolution: int | None = None,
    top_k: int = 5,
    dtype: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Ablation:
    """What changes while parts of a network are off, or patches hidden: scores and map before and after.

    Args:
        image, model, method, layer, head, readout, resolution, top_k, dtype: as for `explain`.
        heads: `(layer, head)` of each head that is off, from 0.
        attention, mlp: layers whose attention block or MLP block is off.
        patches: hidden ones, by row-major index.
        fill: what stands in for them: "grey" pixels, the "mean" of the visible patch tokens, or what a masked autoencoder,
            "mae", makes up.
        rank: also rank all "heads", or all attention and MLP "blocks", by what each one more does to the score.
        target: the class whose score is told; the one predicted before if not given.
        progress: called with how many parts of the ranking are done, and of how many.
    """
    from vitdemo.options.explain import ExplainRequest
    from vitdemo.options.knockout import resolve_ranking
    from vitdemo.pipeline.ablate import ablate as ablated
    from vitdemo.types import Knockout

    off = Knockout(tuple(heads), tuple(attention), tuple(mlp), tuple(patches), fill)
    request = ExplainRequest(method, layer, head, readout, target, resolution)
    pipeline, by = _shared(), resolve_ranking(rank)
    return ablated(
        pipeline, pipeline.open(image), _spec(model), off, request, rank=by, top_k=top_k, dtype=dtype, progress=progress
    )


def lens(
    image: Any,
    model: str | None = None,
    *,
    target: int | str | None = None,
    resolution: int | None = None,
    top_k: int = 5,
    dtype: str = "auto",
) -> LayerAnswers:
    """What the classifier says after each layer, read off what the model classifies from, and off each patch.

    Args:
        image, model, top_k, dtype: as for `classify`.
        target: the class that scores and patches are of, as a label, an index or "top:K"; the predicted one if not given.
        resolution: as for `explain`.
    """
    from vitdemo.pipeline.lens import lens as read_off

    pipeline = _shared()
    photo, spec = pipeline.open(image), _spec(model)
    return read_off(pipeline, photo, spec, target=target, resolution=resolution, top_k=top_k, dtype=dtype)


@overload
def segment(
    image: list[Any] | tuple[Any, ...], model: str | None = ..., **request: Unpack[SegmentOptions]
) -> list[Segmentation]: ...


@overload
def segment(image: Any, model: str | None = ..., **request: Unpack[SegmentOptions]) -> Segmentation: ...


def segment(
    image: Any, model: str | None = None, **request: Unpack[SegmentOptions]
) -> Segmentation | list[Segmentation]:
    """Masks of an image, or of each of a list of them.

    Parts and principal components are shared over a list, and `similarity` looks in all images for a patch of the first.

    Args:
        image: as for `classify`, or a list or tuple of such.
        model: as for `classify`; a DINO if not given.
        request: the fields of `vitdemo.options.segment.SegmentRequest`.
    """
    from vitdemo.options.segment import SegmentRequest
    from vitdemo.pipeline.segment import segment as segment_photos

    wanted, pipeline = SegmentRequest(**request), _shared()
    several = isinstance(image, list | tuple)
    photos = [pipeline.open(one) for one in (image if several else [image])]
    found = segment_photos(pipeline, photos, _spec(model) if model else segmenting_model(), wanted)
    return found if several else found[0]


def robustness(
    image: Any,
    models: Sequence[str] | None = None,
    kind: str = "shuffle",
    *,
    strengths: Sequence[float] = (),
    target: int | str | None = None,
    seed: int = 0,
    dtype: str = "auto",
) -> list[RobustnessCurve]:
    """One curve per model: how it answers while an image is perturbed more and more, and the perturbed images.

    Args:
        image, dtype: as for `classify`.
        models: every embedded one if none are named, but a masked autoencoder.
        kind: a name in `vitdemo.options.perturbations.PERTURBATIONS`.
        strengths: others than the default ones; the unperturbed image always comes first.
        target: the class whose score is followed, as for `explain`; the top class of the unperturbed image if not given.
        seed: of the order of cells and of dropped patches.
    """
    from vitdemo.evaluation.robustness import photo_curves
    from vitdemo.options.perturbations import plan_of

    plan, pipeline = plan_of([kind], strengths), _shared()
    specs = [_spec(name) for name in models] if models else default_models(pipeline.settings)
    return photo_curves(pipeline, pipeline.open(image), specs, plan, target=target, seed=seed, dtype=dtype)


def choose(
    data: str | Path | Sequence[str | Path],
    models: Sequence[str] | None = None,
    *,
    folds: int = 5,
    k: int = 20,
    strength: float = 1.0,
    clusters: int | None = None,
    labels: Mapping[str, str] | None = None,
    ignore_labels: bool = False,
    boxes: str | Path | None = None,
    photos: int | None = None,
    seed: int = 0,
    dtype: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Choice:
    """Which model for these photos: cross-validated accuracy on frozen features, time and memory of each, and a verdict.

    `vitdemo.evaluation.choose` has what reads the result: maps, neighbours, confusions, clusters, files, a probe as a model.

    Args:
        data: a folder, zip or tar, or several: one folder per class, or photos without labels.
        models: every embedded one that has labels and attention, if none are named.
        folds, k, strength, clusters, labels, ignore_labels, seed, dtype: see `vitdemo.evaluation.choose.ChooseRequest`.
        boxes: a COCO JSON file with boxes or masks of objects on these photos.
        photos: how many at most; all if None.
        progress: told how far it is.
        stopped: asked between batches; when it is true, the run ends with what is done kept, and the same call resumes.
    """
    from pathlib import Path

    from vitdemo.evaluation.choose import ChooseRequest
    from vitdemo.evaluation.choose import choose as chosen

    paths = [data] if isinstance(data, str | Path) else data
    request = ChooseRequest(
        data=tuple(Path(one) for one in paths),
        folds=folds,
        k=k,
        strength=strength,
        clusters=clusters,
        labels=labels,
        ignore_labels=ignore_labels,
        boxes=None if boxes is None else Path(boxes),
        most=photos,
        seed=seed,
        dtype=dtype,
    )
    pipeline = _shared()
    specs = [_spec(name) for name in models] if models else default_models(pipeline.settings)
    return chosen(pipeline, specs, request, report=progress, stopped=stopped)


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
    """One pipeline per process: models are loaded once."""
    global _pipeline
    from vitdemo.pipeline import Pipeline

    with _guard:
        if _pipeline is None:
            _pipeline = Pipeline()
        return _pipeline
