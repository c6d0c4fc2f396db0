"""What a model answers after each of its blocks."""

from __future__ import annotations

from vitdemo.errors import OptionError
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.targets import parse_target
from vitdemo.pipeline.outputs import labels_of, prediction_of
from vitdemo.pipeline.pipeline import Pipeline
from vitdemo.pipeline.prepare import prepare
from vitdemo.types import LayerAnswers, Lens, ModelSpec, Photo


def lens(
    pipeline: Pipeline,
    photo: Photo,
    spec: ModelSpec,
    *,
    target: int | str | None = None,
    resolution: int | None = None,
    top_k: int = 5,
    dtype: str = "auto",
) -> LayerAnswers:
    """The classifier read off after each block, from what the model classifies from and from each patch alone.

    Args:
        target: the class that scores and patches are of: a label, an index or "top:K"; None for the predicted one.
        resolution: long side in pixels to which the photo is enlarged; None for the model's own input.

    Raises:
        OptionError: the model has no classifier, no blocks or no such class.
    """
    if not spec.readouts:
        raise OptionError(
            f"{spec.name} is a convolutional network: it has no blocks with tokens of one width that its classifier could read. "
            "Choose a Vision Transformer."
        )
    if not spec.labels:
        raise OptionError(
            f"{spec.name} has no classifier that could be read off after its blocks. Choose a model with classes, or train a "
            "linear probe for this one (`vitdemo probe`)."
        )
    index, rank = parse_target(target, spec)
    prepared = prepare(photo, spec, ExplainRequest(resolution=resolution))
    pixels = preprocess([photo], prepared.processor).pixel_values
    (output,) = pipeline.backend.run(spec, pixels, Lens(index, rank), dtype)
    readings, chosen = output.readings, output.target
    assert readings is not None
    assert chosen is not None
    scores = (readings.logits / spec.temperature).softmax(dim=-1)[:, chosen]
    return LayerAnswers(
        prediction_of(spec, output, top_k),
        tuple(labels_of(spec, logits, top_k) for logits in readings.logits),
        chosen,
        tuple(scores.tolist()),
        readings.patches.numpy(),
        readings.best.numpy(),
        prepared.view,
        (*photo.notes, *prepared.notes, *((spec.note,) if spec.note else ()), *output.notes),
    )
