"""Users whose jobs wait share forward passes on the device, and each gets the answer of the own photo."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from scripts.gpu.rig import Rig
from tests.gpu.conftest import Keep
from vitdemo.models.preprocess import preprocess
from vitdemo.registry import get_spec
from vitdemo.types import Capture, ModelOutput

USERS, EACH = 20, 3

ROWS = {"fp32": 0.025, "bf16": 0.18}
"""Largest difference of a row, relative to its largest value: a batch of another size is computed by other kernels, which round
differently. The bounds of `test_precision`; in fp32, convolutions may be in TF32 with one kernel and not with another."""


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_twenty_users_share_forward_passes_and_get_what_they_would_alone(rig: Rig, keep: Keep, dtype: str) -> None:
    spec, backend = get_spec("vit-mini"), rig.backend()
    photos = rig.photos()
    pixels = preprocess(photos, spec.processor).pixel_values
    wanted = Capture(tokens=(0,))
    alone = [backend.run(spec, pixels[index : index + 1], wanted, dtype)[0] for index in range(len(photos))]
    each = rig.choose(EACH, 1)
    before, start = backend.forwards, threading.Barrier(USERS)

    def use(number: int) -> list[tuple[int, ModelOutput]]:
        found = []
        start.wait(60)
        for turn in range(each):
            index = (number + turn) % len(photos)
            (output,) = backend.run(spec, pixels[index : index + 1], wanted, dtype)
            found.append((index, output))
        return found

    with ThreadPoolExecutor(USERS) as pool:
        answers = [answer for found in pool.map(use, range(USERS)) for answer in found]
    forwards = backend.forwards - before
    differences = [_difference(output, alone[index]) for index, output in answers]
    apart = min(_difference(one, other) for one in alone for other in alone if one is not other)
    keep(jobs=len(answers), forwards=forwards, difference=max(differences), between_photos=apart)
    assert len(answers) == USERS * each
    assert all(not output.notes and output.device.startswith(rig.device.type) for _, output in answers)
    assert forwards <= len(answers) / 2
    assert max(differences) <= ROWS[dtype] < apart / 2, "nobody has the answer of another's photo"


def _difference(one: ModelOutput, other: ModelOutput) -> float:
    first, second = one.rows["class"], other.rows["class"]
    return float((first - second).abs().max() / second.abs().max())


def test_users_of_several_models_at_once_all_get_answers(rig: Rig) -> None:
    specs, backend = [get_spec(name) for name in ("vit-mini", "beit-mini", "cnn-mini")], rig.backend()
    pixels = torch.randn(1, 3, 224, 224)
    alone = {spec.name: backend.run(spec, pixels, Capture(), "fp32")[0] for spec in specs}
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda number: backend.run(specs[number % 3], pixels, Capture(), "fp32")[0], range(36)))
    for number, output in enumerate(found):
        expected = alone[specs[number % 3].name]
        assert output.logits is not None
        assert expected.logits is not None
        torch.testing.assert_close(output.logits, expected.logits, atol=5e-2, rtol=2e-2)
