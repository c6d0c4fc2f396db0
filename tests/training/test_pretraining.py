"""The head of the paper at pre-training: an MLP with one hidden layer, which fine-tuning replaces by a linear layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, ViTModel

from tests.photos import CLASSES, files, in_tar
from vitdemo.errors import OptionError
from vitdemo.models.loading import load_model
from vitdemo.models.nn.vit import PretrainingHead, VisionTransformer
from vitdemo.registry import spec_from_folder
from vitdemo.training.architectures import build
from vitdemo.training.config import TrainConfig, TrainJob
from vitdemo.training.export import export
from vitdemo.training.init_weights import initialise
from vitdemo.training.recipes.base import logits_of
from vitdemo.training.run import train

ARCHS = ("vit", "scratch")
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def head_of(network: nn.Module) -> nn.Module:
    found: nn.Module = network.get_submodule("head" if isinstance(network, VisionTransformer) else "classifier")
    return found


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_the_head_has_one_hidden_layer_of_the_encoders_width_and_tanh(arch: str) -> None:
    network = build(arch, "mini", CLASSES, 32, pretrain=True).eval()
    head = head_of(network)
    assert isinstance(head, PretrainingHead)
    assert [tuple(value.shape) for value in head.parameters()] == [(192, 192), (192,), (3, 192), (3,)]
    assert logits_of(network, PIXELS).shape == (2, 3)
    token = torch.randn(2, 192)
    hidden, output = head.hidden, head.output
    by_hand = torch.tanh(token @ hidden.weight.T + hidden.bias) @ output.weight.T + output.bias
    torch.testing.assert_close(head(token), by_hand)
    # Both layers learn: neither bias nor weight is left as memory had it.
    assert 0.015 < float(hidden.weight.std()) < 0.025
    assert not output.bias.any()


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHS)
def test_the_exported_folder_is_a_plain_transformers_encoder_whose_pooler_is_the_hidden_layer(
    arch: str, tmp_path: Path
) -> None:
    network = build(arch, "mini", CLASSES, 32, pretrain=True).eval()
    export(network, tmp_path / "pretrained", CLASSES, 32, half=False)
    loaded, found = AutoModel.from_pretrained(tmp_path / "pretrained", output_loading_info=True)
    assert isinstance(loaded, ViTModel)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    head = head_of(network)
    assert isinstance(head, PretrainingHead)
    # What the output layer was given, and so the logits that it gave.
    logits = head.output(loaded.eval()(PIXELS).pooler_output)
    torch.testing.assert_close(logits, logits_of(network, PIXELS), rtol=0, atol=2e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("arch", ARCHS)
def test_it_has_no_classes_here_and_training_goes_on_after_an_export(arch: str, tmp_path: Path) -> None:
    network = build(arch, "mini", CLASSES, 32, pretrain=True).train()
    export(network, tmp_path / "pretrained", CLASSES, 32)
    spec = spec_from_folder(tmp_path / "pretrained")
    assert (spec.labels, spec.family, spec.readouts) == ((), "ViT", ("class",))
    assert load_model(spec, torch.device("cpu"), torch.float32)(PIXELS) is None
    assert network.training
    logits_of(network, PIXELS).sum().backward()
    assert all(value.grad is not None for value in head_of(network).parameters())


@pytest.mark.parametrize("arch", ARCHS)
def test_fine_tuning_keeps_the_encoder_and_begins_with_a_linear_head_of_zeros(arch: str, tmp_path: Path) -> None:
    export(build("vit", "mini", CLASSES, 32, pretrain=True), tmp_path / "pretrained", CLASSES, 32, half=False)
    weights = load_file(tmp_path / "pretrained" / "model.safetensors")
    network = build(arch, "mini", ("a", "b", "c", "d", "e"), 32)
    initialise(network, tmp_path / "pretrained")
    head = head_of(network)
    assert isinstance(head, nn.Linear)
    assert head.weight.shape == (5, 192)
    assert not head.weight.any()
    assert not head.bias.any()
    own = next(value for name, value in network.named_parameters() if name.endswith("position_embeddings"))
    saved = next(value for name, value in weights.items() if name.endswith("position_embeddings"))
    assert torch.equal(own, saved)


def test_other_initial_weights_leave_the_new_head_random(tmp_path: Path) -> None:
    export(build("vit", "mini", CLASSES, 32), tmp_path / "labelled", CLASSES, 32)
    network = build("vit", "mini", ("a", "b", "c", "d", "e"), 32)
    initialise(network, tmp_path / "labelled")
    assert head_of(network).weight.any()  # type: ignore[operator]


@pytest.mark.thorough
def test_a_network_is_pretrained_and_then_fine_tuned(tmp_path: Path) -> None:
    tar = in_tar(tmp_path / "photos.tar", files({"blue_sky": 8, "green": 8, "red": 8}))
    config = TrainConfig(steps=0, batch=8, resolution=32)

    def job(out: str, **changes: object) -> TrainJob:
        return TrainJob((tar,), "supervised", "scratch", tmp_path / out, cpu=True, config=config, **changes)  # type: ignore[arg-type]

    pretrained = train(job("pretrained", pretrain=True, epochs=3))
    assert pretrained.result.score > 0.6
    assert "accuracy on held-out photos" in (tmp_path / "pretrained" / "README.md").read_text(encoding="utf-8")
    tuned = train(job("tuned", init=tmp_path / "pretrained", epochs=3))
    assert tuned.result.score > 0.6
    assert spec_from_folder(tmp_path / "tuned").labels == CLASSES


@pytest.mark.parametrize(("recipe", "arch"), [("dino", "vit"), ("mim", "vit"), ("supervised", "deit")])
def test_it_is_refused_where_the_paper_has_none(recipe: str, arch: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="pre-training head is for the recipe supervised"):
        train(TrainJob((tmp_path,), recipe, arch, tmp_path / "out", pretrain=True))
