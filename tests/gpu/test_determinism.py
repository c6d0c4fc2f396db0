"""The same photo asked again alone gives the same numbers; whether to the last bit is noted for every method."""

from __future__ import annotations

import pytest
import torch

from scripts.gpu.rig import Rig
from tests.gpu.conftest import Keep
from vitdemo.models.preprocess import preprocess
from vitdemo.registry import get_spec
from vitdemo.types import Attribution, Capture, ModelOutput

AGAIN = 8


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["vit-mini", "beit-mini", "dino-mini", "hybrid-mini", "cnn-mini"])
def test_every_method_repeats_itself(rig: Rig, keep: Keep, name: str, dtype: str) -> None:
    if rig.tiny and name not in ("vit-mini", "cnn-mini"):
        pytest.skip("a rehearsal takes two models")
    spec, backend = get_spec(name), rig.backend()
    pixels = preprocess(rig.photos(1), spec.processor).pixel_values
    bits, worst = {}, {}
    for method in spec.methods:
        request = Capture(tokens=(0,)) if method == "attention" else Attribution(method)
        first, *others = [_numbers(backend.run(spec, pixels, request, dtype)[0]) for _ in range(rig.choose(AGAIN, 2))]
        bits[method] = all(torch.equal(first, other) for other in others)
        worst[method] = max(((first - other).abs().max() / first.abs().max()).item() for other in others)
    keep(same_bits=bits, difference=max(worst.values()))
    # A sum that is made in another order differs in the last bits of its format.
    assert max(worst.values()) <= {"fp32": 1e-4, "bf16": 0.03}[dtype], worst


def _numbers(output: ModelOutput) -> torch.Tensor:
    """Map or rows, and scores."""
    maps = output.values if output.values is not None else next(iter(output.rows.values()), torch.zeros(1))
    scores = torch.zeros(0) if output.logits is None else output.logits.softmax(0)
    return torch.cat([maps.flatten() / maps.abs().max().clamp_min(1e-12), scores])
