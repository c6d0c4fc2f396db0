"""The classifier read off after each block equals the network cut off after it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests import tiny
from vitdemo.engine import LocalBackend
from vitdemo.errors import OptionError
from vitdemo.export.inspection import lens_json
from vitdemo.models.layers import blocks
from vitdemo.models.loading import Classifier, load_model
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.lens import lens
from vitdemo.registry import PROBE_FILE, spec_from_folder
from vitdemo.settings import Settings
from vitdemo.types import Lens, ModelSpec, Photo

Spec = Callable[[str], ModelSpec]
Maker = Callable[..., Photo]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSpec]:
    """A model without a classifier, and a random probe beside it."""

    def made(kind: str) -> ModelSpec:
        folder: Path = tiny.save(tmp_path_factory.mktemp("probed") / kind, kind)
        width = 32 if kind == "dinov3" else 24
        save_file({"weight": torch.randn(7, width), "bias": torch.randn(7)}, folder / PROBE_FILE)
        labels = {"probe": {"labels": list(tiny.LABELS), "note": "Labels come from a probe."}}
        tiny.edit_json(folder / "config.json", vitdemo={"revision": "tiny", **labels["probe"]})
        return spec_from_folder(folder)

    return made


def _cut_off(model: Classifier, count: int) -> Classifier:
    """The network with its first `count` blocks only."""
    cut = copy.deepcopy(model)
    kept = blocks(cut.network)[:count]
    for module in cut.network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and kept[0] in list(child):
                setattr(module, name, nn.ModuleList(kept))
    return cut


def _assert_read_off(spec: ModelSpec) -> None:
    model = load_model(spec, CPU, torch.float32)
    pixels = torch.randn(2, 3, *spec.image_size)
    outputs = LocalBackend(Settings(device="cpu")).run(spec, pixels, Lens(target=4))
    for layer in range(spec.num_layers):
        with torch.no_grad():
            logits: Tensor | None = _cut_off(model, layer + 1)(pixels)
        assert logits is not None
        for row, output in enumerate(outputs):
            assert output.readings is not None
            torch.testing.assert_close(output.readings.logits[layer], logits[row], atol=1e-5, rtol=1e-5)
    last = outputs[0].readings
    assert last is not None
    assert last.patches.shape == last.best.shape == (spec.num_layers, *spec.patch_grid)
    torch.testing.assert_close(last.logits[-1], outputs[0].logits, atol=1e-5, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind not in tiny.HEADLESS])
def test_the_answer_of_a_layer_is_that_of_the_network_cut_off_after_it(kind: str, tiny_spec: Spec) -> None:
    _assert_read_off(tiny_spec(kind))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", tiny.HEADLESS)
def test_a_probe_is_read_off_as_a_classifier_is(kind: str, probed: Callable[[str], ModelSpec]) -> None:
    _assert_read_off(probed(kind))


def test_a_patch_alone_is_read_as_the_token_that_the_classifier_reads(pipeline: Pipeline, tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    network: Any = load_model(spec, CPU, torch.float32).network
    pixels = torch.randn(1, 3, *spec.image_size)
    (output,) = pipeline.backend.run(spec, pixels, Lens(target=2))
    with torch.no_grad():
        states = network(pixels, output_hidden_states=True).hidden_states
        for layer in range(3):
            tokens = network.vit.layernorm(states[layer + 1])[0, 1:]
            scores = network.classifier(tokens).softmax(dim=-1)
            assert output.readings is not None
            torch.testing.assert_close(output.readings.patches[layer].flatten(), scores[:, 2], atol=1e-5, rtol=1e-4)
            assert torch.equal(output.readings.best[layer].flatten(), scores.argmax(dim=-1))


def test_the_last_layer_gives_the_models_own_answer(pipeline: Pipeline, vit: ModelSpec, photo: Maker) -> None:
    one = photo()
    found = lens(pipeline, one, vit, top_k=3)
    own = pipeline.classify([one], vit, top_k=3)[0].labels
    assert [label.label for label in found.labels[-1]] == [label.label for label in own]
    np.testing.assert_allclose([label.score for label in found.labels[-1]], [label.score for label in own], atol=1e-5)
    assert found.target == own[0].index
    assert found.scores[-1] == pytest.approx(own[0].score, abs=1e-5)
    assert len(found.labels) == len(found.scores) == vit.num_layers
    answer = own[0].index
    assert all(labels[0].index == answer for labels in found.labels[found.decided :])
    assert not found.decided or found.labels[found.decided - 1][0].index != answer
    entry = lens_json(found)
    assert [layer["layer"] for layer in entry["layers"]] == list(range(vit.num_layers))
    row, column = entry["layers"][-1]["patches"]["strongest"]
    assert found.patches[-1, row, column] == pytest.approx(entry["layers"][-1]["patches"]["max"])


def test_another_class_and_resolution_can_be_asked_for(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    spec = tiny_spec("vit")
    found = lens(pipeline, photo(96, 64), spec, target="cup", resolution=48)
    assert found.target == spec.labels.index("cup")
    assert found.patches.shape == (3, 4, 6)
    second = lens(pipeline, photo(96, 64), spec, target="top:2")
    assert second.target == second.prediction.labels[1].index


@pytest.mark.parametrize(
    ("kind", "words"), [("resnet", "convolutional network: it has no blocks"), ("dino", "has no classifier that could")]
)
def test_models_without_blocks_or_classifier_say_so(
    kind: str, words: str, pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    with pytest.raises(OptionError, match=words):
        lens(pipeline, photo(), tiny_spec(kind))
