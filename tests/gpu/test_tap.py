"""The attention tap leaves flash attention in place: rows are recorded beside it, and the output is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from scripts.gpu.rig import Rig
from tests.gpu.conftest import Keep
from vitdemo.engine.devices import DTYPES
from vitdemo.evaluation.bench import implementation
from vitdemo.models.attention_tap import record_attention
from vitdemo.models.loading import load_model
from vitdemo.types import Capture

ROWS = Capture(tokens=(0,))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_rows_are_recorded_beside_flash_attention_and_are_those_of_eager_attention(
    rig: Rig, keep: Keep, tmp_path: Path, dtype: str
) -> None:
    model = load_model(rig.vit(tmp_path), rig.device, DTYPES[dtype]).requires_grad_(False)
    pixels = torch.randn(4, 3, *model.spec.image_size, device=rig.device, dtype=DTYPES[dtype])
    with torch.no_grad():
        # Nothing else is allowed: this fails where there is no flash attention for it.
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            with implementation(model, "sdpa"):
                plain = model(pixels)
            with record_attention(ROWS) as record:
                tapped = model(pixels)
        with implementation(model, "eager"):
            eager = model.body(pixels, output_attentions=True)
    rows = torch.stack(record.rows["class"])
    expected = torch.stack([layer[:, :, 0].float() for layer in eager.attentions])
    difference = ((rows - expected).abs().max() / expected.max()).item()
    keep(difference=difference, same_logits=bool(torch.equal(plain, tapped)))
    assert torch.equal(plain, tapped), "the tap changes nothing"
    assert rows.shape == expected.shape
    assert difference <= {"bf16": 0.1, "fp16": 0.02}[dtype]


def test_rows_of_long_inputs_take_memory_for_rows_and_not_for_matrices(cuda: Rig, keep: Keep, tmp_path: Path) -> None:
    model = load_model(cuda.vit(tmp_path, patch=8, small=True), cuda.device, torch.bfloat16).requires_grad_(False)
    pixels = torch.randn(1, 3, 480, 480, device=cuda.device, dtype=torch.bfloat16)

    @torch.no_grad()
    def plain() -> None:
        with implementation(model, "sdpa"), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            model(pixels)

    @torch.no_grad()
    def tapped() -> None:
        with record_attention(ROWS), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            model(pixels)

    for run in (plain, tapped):  # what is made once, such as a workspace of cuBLAS, is of neither
        run()
    found = {name: cuda.peak_mb(run) for name, run in (("plain", plain), ("tapped", tapped))}
    tokens = 60 * 60 + 1
    rows = 12 * 6 * tokens * 4 / 1e6
    matrix = 6 * tokens * tokens * 2 / 1e6
    keep(**found, rows_mb=rows, matrix_of_a_layer_mb=matrix)
    assert found["plain"] is not None
    assert found["tapped"] is not None
    # Rows of all layers, and their like before and after the softmax of one.
    assert found["tapped"] - found["plain"] <= 4 * rows + 8
    assert found["tapped"] < matrix
