"""What the engine is asked for, and under which name its answer is remembered."""

from __future__ import annotations

from dataclasses import replace

from vitdemo.models.attention_tap import TOKEN_NAMES
from vitdemo.options.explain import ExplainRequest, readouts_of, reason_against
from vitdemo.pipeline.prepare import Prepared
from vitdemo.types import Attribution, Capture, Knockout, ModelSpec, Processor

Key = tuple[str, str, str, Processor, str, Attribution | None, Knockout]
"""Of an answer that is remembered."""


def key_of(prepared: Prepared, request: Attribution | Capture, dtype: str) -> Key:
    """What an answer depends on; what a `Capture` names is asked of the answer itself."""
    spec, own = prepared.spec, request if isinstance(request, Attribution) else None
    return prepared.photo.digest, spec.checkpoint, spec.revision, prepared.processor, dtype, own, prepared.knockout


def adapted(request: ExplainRequest, spec: ModelSpec, missing: str) -> tuple[ExplainRequest, str]:
    """The request as this model can take it beside others, and why it has no such map; "" where it has."""
    reason = reason_against(request.method, spec) or missing
    if reason and request.method != "attention":
        return ExplainRequest(resolution=request.resolution), reason
    readout = request.readout if request.readout in readouts_of(spec) else None
    return replace(request, readout=readout), ""


def engine_request(prepared: Prepared, wanted: Capture) -> tuple[Attribution | Capture, Capture]:
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
