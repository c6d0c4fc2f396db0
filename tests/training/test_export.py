"""A trained model loads like any other, can be a teacher, and initialises the next run."""

from __future__ import annotations

import copy
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests import tiny
from tests.photos import CLASSES, files, in_folder, in_tar
from vitdemo.errors import CheckpointError, OptionError, TrainingError
from vitdemo.evaluation.accuracy import evaluate, read_labelled
from vitdemo.evaluation.model_card import write_card
from vitdemo.models.loading import load_model
from vitdemo.models.preprocess import preprocess
from vitdemo.pipeline import Pipeline
from vitdemo.registry import PROBE_FILE, find_spec, get_spec, read_json, spec_from_folder
from vitdemo.settings import Settings
from vitdemo.training import config
from vitdemo.training.architectures import build
from vitdemo.training.augment import MEAN, STD, normalised
from vitdemo.training.config import ARCHITECTURES, MIN_FREE_BYTES, TrainJob
from vitdemo.training.export import Provenance, export
from vitdemo.training.init_weights import initialise
from vitdemo.training.probe import probe
from vitdemo.training.recipes.base import logits_of
from vitdemo.training.recipes.mim import MaskedModelling
from vitdemo.training.run import train
from vitdemo.training.teachers import Teacher, teacher_from_spec
from vitdemo.types import ModelSpec, Processor

CPU = torch.device("cpu")
CLASSIFIERS = tuple(arch for arch in ARCHITECTURES if arch != "mae")
HEADLESS = ("vit", "deit", "beit", "mae")
"""Architectures whose encoder alone may be the result of a run."""

PROVENANCE = Provenance(
    command="python -m vitdemo train data.tar --out runs/x",
    data=("one.tar", "two.zip"),
    photos=1234,
    recipe="supervised",
    family="DeiT",
    license="CC-BY-4.0",
    device="CPU, 2 threads",
    seconds=754.4,
    steps=96,
    score_name="accuracy",
    score=0.8125,
    curve=((32, 0.25), (64, 0.5), (96, 0.8125)),
)


def network_of(arch: str, seed: int = 0) -> nn.Module:
    """A network of the class names of `tests.photos` at 32 pixels, with no weight left at 0 or 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(arch, "mini", CLASSES, 32).eval()
        with torch.no_grad():
            for value in network.parameters():
                value += 0.02 * torch.randn(value.shape)
    return network


def encoder_of(arch: str) -> Any:
    """The result of masked modelling."""
    return MaskedModelling(network_of(arch), 32).result().eval()


def pixels_of(count: int = 3, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def loaded(folder: Path) -> tuple[ModelSpec, nn.Module]:
    spec = spec_from_folder(folder)
    return spec, load_model(spec, CPU, torch.float32)


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = files({"blue_sky": 8, "green": 8, "red": 8})
    return in_tar(tmp_path_factory.mktemp("photos") / "photos.tar", content)


# Export and back


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("arch", CLASSIFIERS)
def test_an_exported_classifier_gives_the_same_logits(arch: str, tmp_path: Path) -> None:
    network, pixels = network_of(arch), pixels_of()
    export(network, tmp_path / arch, CLASSES, 32, half=False)
    spec, model = loaded(tmp_path / arch)
    assert spec.labels == CLASSES
    assert spec.image_size == (32, 32)
    expected = logits_of(network, pixels)
    assert expected.std() > 0.01
    # Our own ViT adds up in another order than transformers', and a CNN that is being trained in another than one that is loaded;
    # of all others the numbers are the same.
    torch.testing.assert_close(model(pixels), expected, rtol=0, atol=2e-5 if arch in ("scratch", "cnn") else 0)


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("arch", CLASSIFIERS)
def test_in_half_the_size_the_logits_are_those_of_rounded_weights(arch: str, tmp_path: Path) -> None:
    network, pixels = network_of(arch), pixels_of()
    export(network, tmp_path / arch, CLASSES, 32)
    spec, model = loaded(tmp_path / arch)
    weights = load_file(tmp_path / arch / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    assert read_json(tmp_path / arch / "config.json")["dtype"] == "float16"
    assert spec.bytes < 2.1 * sum(value.numel() for value in network.parameters())
    rounded = logits_of(copy.deepcopy(network).half().float(), pixels)
    torch.testing.assert_close(model(pixels), rounded, rtol=0, atol=2e-5)
    expected = logits_of(network, pixels)
    assert float((rounded - expected).abs().max()) < 0.02 * float(expected.abs().max())


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("arch", HEADLESS)
def test_an_encoder_without_classifier_has_features_and_no_labels(arch: str, tmp_path: Path) -> None:
    network, pixels = encoder_of(arch), pixels_of()
    export(network, tmp_path / arch, (), 32, half=False)
    spec, model = loaded(tmp_path / arch)
    assert spec.labels == ()
    assert spec.note == ""
    config = read_json(tmp_path / arch / "config.json")
    assert not {"id2label", "label2id", "num_labels"} & set(config)
    assert model(pixels) is None
    if arch == "mae":
        network.config.mask_ratio = 0.0
        in_order = torch.arange(4.0).expand(3, -1)
        tokens = network.vit(pixels, noise=in_order).last_hidden_state
    else:
        tokens = network(pixels).last_hidden_state
    by_hand = tokens[:, 1:].mean(dim=1) if arch in ("mae", "beit") else tokens[:, 0]
    torch.testing.assert_close(model.features(pixels), by_hand, rtol=0, atol=2e-5)


def test_an_mae_is_exported_with_its_decoder_and_loaded_without(tmp_path: Path) -> None:
    export(encoder_of("mae"), tmp_path / "mae", (), 32)
    assert any(name.startswith("decoder.") for name in load_file(tmp_path / "mae" / "model.safetensors"))
    assert loaded(tmp_path / "mae")[0].num_prefix_tokens == 1


def test_export_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = network_of("cnn").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export(network, tmp_path / "cnn", CLASSES, 32)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_a_folder_can_be_exported_to_again(tmp_path: Path) -> None:
    for seed in (0, 1):
        export(network_of("vit", seed), tmp_path / "vit", CLASSES, 32, half=False)
    with torch.no_grad():
        expected = logits_of(network_of("vit", 1), pixels_of())
        torch.testing.assert_close(loaded(tmp_path / "vit")[1](pixels_of()), expected, rtol=0, atol=0)


def test_the_folder_loads_by_its_path_with_its_metadata(tmp_path: Path) -> None:
    export(network_of("deit"), tmp_path / "pupil", CLASSES, 32, PROVENANCE)
    spec = find_spec(str(tmp_path / "pupil"))
    assert (spec.name, spec.family, spec.license, spec.revision) == ("pupil", "DeiT", "CC-BY-4.0", "step-96")
    assert spec.source == "local"
    assert spec.readouts == ("class", "distillation")


@pytest.mark.parametrize("arch", ["vit", "cnn"])
def test_the_processor_prepares_what_evaluation_saw(arch: str, tmp_path: Path) -> None:
    export(network_of(arch), tmp_path / arch, CLASSES, 32)
    assert spec_from_folder(tmp_path / arch).processor == Processor(
        resize=32, crop=(32, 32), resample=2, rescale=1 / 255, mean=MEAN, std=STD
    )


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("arch", ["vit", "cnn", "scratch"])
def test_the_product_evaluates_the_exported_model(arch: str, tmp_path: Path, tar: Path) -> None:
    network = network_of(arch)
    export(network, tmp_path / arch, CLASSES, 32, half=False)
    spec = spec_from_folder(tmp_path / arch)
    found = evaluate(Pipeline(Settings(device="cpu")), spec, read_labelled(tar))
    labels, photos = zip(*read_labelled(tar), strict=True)
    guesses = logits_of(network, preprocess(photos, spec.processor).pixel_values).argmax(dim=1).tolist()
    right = [CLASSES[guess] == label for guess, label in zip(guesses, labels, strict=True)]
    assert (found.model, found.photos) == (arch, 24)
    assert found.top1 == pytest.approx(sum(right) / 24)


def test_a_network_that_transformers_cannot_load_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="transformers cannot load a Linear"):
        export(nn.Linear(3, 3), tmp_path / "x", CLASSES, 32)


# The card


def test_the_card_says_how_the_model_was_trained(tmp_path: Path) -> None:
    export(network_of("deit"), tmp_path / "pupil", CLASSES, 32, PROVENANCE)
    card = (tmp_path / "pupil" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\nlicense: cc-by-4.0\n---\n\n# pupil\n")
    for fact in (
        "A DeiT, trained with the recipe `supervised` at 32 px.",
        "accuracy on held-out photos at the end of training: 81.2%",
        "Data: one.tar, two.zip; 1234 photos.",
        "Steps: 96. Time: 12 min 34 s on CPU, 2 threads.",
        "Command: `python -m vitdemo train data.tar --out runs/x`",
        "| step | accuracy |\n|---|---|\n| 32 | 25.0% |\n| 64 | 50.0% |\n| 96 | 81.2% |\n",
    ):
        assert fact in card, fact


def test_measured_figures_find_their_place_in_the_card(tmp_path: Path, tar: Path) -> None:
    export(network_of("vit"), tmp_path / "vit", CLASSES, 32, PROVENANCE)
    spec, path = spec_from_folder(tmp_path / "vit"), tmp_path / "vit" / "README.md"
    before = path.read_text(encoding="utf-8")
    write_card(spec, evaluate(Pipeline(Settings(device="cpu")), spec, read_labelled(tar)), [tar])
    after = path.read_text(encoding="utf-8")
    assert "Measured on 24 photos of `photos.tar`" in after
    head, rest = after.split("<!-- measured -->")
    assert head + "<!-- measured -->\n<!-- /measured -->" + rest.split("<!-- /measured -->")[1] == before


# A probe


@pytest.mark.thorough
@pytest.mark.parametrize("arch", HEADLESS)
def test_a_saved_probe_gives_an_encoder_labels(arch: str, tmp_path: Path, tar: Path) -> None:
    export(encoder_of(arch), tmp_path / arch, (), 32, replace(PROVENANCE, family="MAE"))
    figures = probe(spec_from_folder(tmp_path / arch), [tar], save=True)
    assert (figures["model"], figures["photos"], figures["test_photos"]) == (arch, 21, 3)
    assert figures["linear_probe"] > 0.6
    spec = spec_from_folder(tmp_path / arch)
    assert spec.labels == CLASSES
    assert spec.note == "MAE has no classifier: the labels are a linear probe's on its features."
    pipeline = Pipeline(Settings(device="cpu"))
    photos = list(read_labelled(tar))
    predictions = pipeline.classify([photo for _, photo in photos], spec)
    right = [found.labels[0].label == label for found, (label, _) in zip(predictions, photos, strict=True)]
    assert sum(right) > 18
    assert all(found.spec.note for found in predictions)


def test_a_probe_that_is_not_saved_changes_nothing(tmp_path: Path, tar: Path) -> None:
    export(encoder_of("vit"), tmp_path / "vit", (), 32)
    before = {path.name: path.read_bytes() for path in (tmp_path / "vit").iterdir()}
    assert set(probe(spec_from_folder(tmp_path / "vit"), [tar])) == {
        "model",
        "linear_probe",
        "nearest_neighbours",
        "photos",
        "test_photos",
    }
    assert {path.name: path.read_bytes() for path in (tmp_path / "vit").iterdir()} == before


@pytest.mark.thorough
def test_a_probe_can_be_replaced_and_evaluated_on_separate_photos(tmp_path: Path, tar: Path) -> None:
    export(encoder_of("vit"), tmp_path / "vit", (), 32)
    for _ in range(2):
        figures = probe(spec_from_folder(tmp_path / "vit"), [tar], test=[tar], save=True)
        assert (figures["photos"], figures["test_photos"]) == (24, 24)
        assert figures["linear_probe"] == 1.0, "on the very photos that it was fitted to"
    two = in_folder(tmp_path / "two", files({"cat": 4, "dog": 4}))
    probe(spec_from_folder(tmp_path / "vit"), [two], save=True)
    spec, model = loaded(tmp_path / "vit")
    assert spec.labels == ("cat", "dog")
    assert model(pixels_of()).shape == (3, 2)


def test_a_model_with_a_classifier_saves_no_probe_but_can_be_evaluated(tmp_path: Path, tar: Path) -> None:
    export(network_of("vit"), tmp_path / "vit", CLASSES, 32)
    spec = spec_from_folder(tmp_path / "vit")
    with pytest.raises(OptionError, match="vit has a classifier; a probe is saved only with models that have none"):
        probe(spec, [tar], save=True)
    assert not (tmp_path / "vit" / PROBE_FILE).exists()
    assert spec_from_folder(tmp_path / "vit") == spec
    assert probe(spec, [tar])["test_photos"] == 3


# Teachers


@torch.no_grad()
@pytest.mark.parametrize("side", [32, 48, 20])
def test_a_teacher_of_another_normalisation_and_size_gives_its_own_logits(
    side: int, tiny_spec: Callable[[str], ModelSpec]
) -> None:
    spec = tiny_spec("vit")  # 32 pixels, mean and deviation 0.5
    random = torch.Generator().manual_seed(1)
    photo_bytes = torch.randint(0, 256, (4, 3, side, side), generator=random, dtype=torch.uint8)
    colours = photo_bytes.float() / 255
    if side != 32:
        colours = nn.functional.interpolate(colours, (32, 32), mode="bilinear", antialias=side > 32)
    by_hand = load_model(spec, CPU, torch.float32)((colours - 0.5) / 0.5)
    teacher = teacher_from_spec(spec, tiny.LABELS)
    assert by_hand is not None
    torch.testing.assert_close(teacher.logits(normalised(photo_bytes)), by_hand, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_feature_map_of_a_teacher_is_resized_to_the_patches_of_the_student() -> None:
    features = nn.Conv2d(3, 5, 8, stride=8)
    teacher = Teacher(nn.Identity(), 64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), features=features)
    pixels = pixels_of(2, 64)
    colours = pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    seen = (colours - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    found = teacher.feature_map(pixels, (8, 8))
    torch.testing.assert_close(found, features(seen).flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
    assert teacher.feature_map(pixels, (4, 2)).shape == (2, 8, 5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_the_feature_map_of_a_transformer_is_its_patch_tokens(kind: str, tiny_spec: Callable[[str], ModelSpec]) -> None:
    spec, pixels = tiny_spec(kind), pixels_of()
    scale, shift = torch.tensor(STD).view(3, 1, 1), torch.tensor(MEAN).view(3, 1, 1)
    model = load_model(spec, CPU, torch.float32)
    tokens = model.network.base_model((pixels * scale + shift - 0.5) / 0.5).last_hidden_state
    found = teacher_from_spec(spec, tiny.LABELS).feature_map(pixels, (4, 4))
    torch.testing.assert_close(found, tokens[:, spec.num_prefix_tokens :], rtol=1e-3, atol=1e-3)


def test_a_teacher_of_other_classes_or_without_a_feature_map_is_rejected(tiny_spec: Callable[[str], ModelSpec]) -> None:
    for classes in (CLASSES, tuple(reversed(tiny.LABELS))):
        with pytest.raises(OptionError, match="tiny-vit has 7 classes, which are not those of the photos"):
            teacher_from_spec(tiny_spec("vit"), classes)
    with pytest.raises(OptionError, match="has no feature map"):
        Teacher(network_of("cnn"), 32).feature_map(pixels_of(), (2, 2))


# Initial weights


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_network_copies_every_weight_of_its_own_architecture(arch: str, tmp_path: Path) -> None:
    network, other = network_of(arch), network_of(arch, seed=1)
    export(network, tmp_path / arch, () if arch == "mae" else CLASSES, 32, half=False)
    initialise(other, tmp_path / arch)
    expected = network.state_dict()
    assert [name for name, value in other.state_dict().items() if not torch.equal(value, expected[name])] == []


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("arch", ["vit", "scratch"])
def test_a_new_vit_with_the_weights_of_vit_mini_gives_its_logits(arch: str, vit: ModelSpec) -> None:
    network = build(arch, "mini", vit.labels, 224).eval()
    initialise(network, Path(vit.checkpoint))
    pixels = pixels_of(2, 224)
    expected = load_model(vit, CPU, torch.float32)(pixels)
    torch.testing.assert_close(logits_of(network, pixels), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_an_encoder_initialises_a_network_with_a_classifier() -> None:
    spec, pixels = get_spec("dino-mini"), pixels_of(2, 224)
    network: Any = build("vit", "mini", CLASSES, 224).eval()
    head = network.classifier.weight.clone()
    initialise(network, Path(spec.checkpoint))
    expected = load_model(spec, CPU, torch.float32).features(pixels)
    found = network.vit(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert torch.equal(network.classifier.weight, head), "what the encoder lacks is unchanged"


@torch.no_grad()
@pytest.mark.parametrize(("arch", "prefix"), [("vit", 1), ("deit", 2)])
def test_position_embeddings_are_resized_to_another_grid(arch: str, prefix: int, tmp_path: Path) -> None:
    network, larger = network_of(arch), build(arch, "mini", CLASSES, 64)
    name = f"{arch}.embeddings.position_embeddings"
    before = network.state_dict()[name]
    before[:, prefix:] = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1)  # the left half, the right half
    export(network, tmp_path / arch, CLASSES, 32, half=False)
    initialise(larger, tmp_path / arch)
    found = larger.state_dict()[name]
    assert torch.equal(found[:, :prefix], before[:, :prefix])
    grid = found[0, prefix:].unflatten(0, (4, 4))
    assert torch.equal(grid[0], grid[3]), "rows stay alike"
    assert (grid[:, 1:] >= grid[:, :-1]).all(), "columns rise"
    assert torch.equal(
        larger.state_dict()[f"{arch}.layernorm.weight"], network.state_dict()[f"{arch}.layernorm.weight"]
    )


def test_a_classifier_of_other_classes_is_not_copied(vit: ModelSpec) -> None:
    network: Any = build("vit", "mini", CLASSES, 224)
    head = network.classifier.weight.clone()
    initialise(network, Path(vit.checkpoint))
    assert torch.equal(network.classifier.weight, head)
    stored = load_file(Path(vit.checkpoint) / "model.safetensors")
    assert torch.equal(network.vit.layernorm.weight, stored["vit.layernorm.weight"].float())


def test_the_layers_of_one_family_initialise_those_of_another(vit: ModelSpec) -> None:
    network: Any = build("beit", "mini", CLASSES, 224)
    initialise(network, Path(vit.checkpoint))
    stored = load_file(Path(vit.checkpoint) / "model.safetensors")
    query = stored["vit.encoder.layer.3.attention.attention.query.weight"].float()
    assert torch.equal(network.beit.layers[3].attention.q_proj.weight, query)


@pytest.mark.thorough
def test_the_pooling_of_the_recipe_is_that_of_the_features(tmp_path: Path) -> None:
    from vitdemo.training.recipes.dino import Dino

    assert (MaskedModelling.pooling, Dino.pooling) == ("mean", "class")
    for pooling in ("mean", "class"):
        network: Any = network_of("vit")
        provenance = Provenance(
            "", (), 1, "mim", "ViT", "unknown", "CPU", 1.0, 1, "k-NN accuracy", 0.5, pooling=pooling
        )
        export(network.vit, tmp_path / pooling, (), network.config.image_size, provenance, half=False)
        model = load_model(find_spec(str(tmp_path / pooling)), torch.device("cpu"), torch.float32)
        pixels = torch.randn(2, 3, network.config.image_size, network.config.image_size)
        tokens = network.vit.eval()(pixels).last_hidden_state
        expected = tokens[:, 1:].mean(dim=1) if pooling == "mean" else tokens[:, 0]
        torch.testing.assert_close(model.features(pixels), expected)


def test_weights_that_do_not_match_are_rejected(tmp_path: Path) -> None:
    save_file({"classifier.weight": torch.zeros(9, 9), "foreign": torch.zeros(3)}, tmp_path / "model.safetensors")
    network = network_of("vit")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(TrainingError, match=f"Only 0% .* {tmp_path.name}: it does not fit"):
        initialise(network, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
def test_a_folder_without_readable_weights_is_rejected(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=f"{tmp_path.name} holds no weights to initialise from"):
        initialise(network_of("vit"), tmp_path)


# A full disk, a folder that is not writable


@contextmanager
def _file_limit(size: int) -> Iterator[None]:
    """As a full disk: no file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _job(tar: Path, out: Path) -> TrainJob:
    return TrainJob(data=(tar,), recipe="supervised", arch="vit", out=out, cpu=True)


def test_a_run_does_not_start_on_a_full_disk(tmp_path: Path, tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(Path(path))
        return SimpleNamespace(free=MIN_FREE_BYTES - 100_000_000)

    monkeypatch.setattr(config.shutil, "disk_usage", usage)
    with pytest.raises(TrainingError, match="Only 400 MB are free; a run needs 500 MB"):
        train(_job(tar, tmp_path / "a" / "b"))
    assert asked == [tmp_path], "the disk of the nearest folder that exists"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("place", ["file", "file/run", "file/a/run"])
def test_a_run_does_not_start_where_a_file_is_in_the_way(place: str, tmp_path: Path, tar: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="file is not a writable folder") as refusal:
        train(_job(tar, tmp_path / place))
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_run_does_not_start_in_a_read_only_folder(tmp_path: Path, tar: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(TrainingError, match="locked is not a writable folder"):
        train(_job(tar, tmp_path / "locked" / "run"))


@pytest.mark.parametrize("place", ["file", "file/model"])
def test_a_model_cannot_be_written_where_a_file_is_in_the_way(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="The model cannot be written to") as refusal:
        export(network_of("vit"), tmp_path / place, CLASSES, 32)
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that takes no files, even from root")
def test_a_model_cannot_be_written_to_a_folder_that_takes_no_files() -> None:
    with pytest.raises(TrainingError, match="The model cannot be written to vitdemo"):
        export(network_of("vit"), Path("/proc/vitdemo"), CLASSES, 32)


@pytest.mark.thorough
@pytest.mark.parametrize("room", [100, 100_000])
def test_a_disk_that_fills_up_while_a_model_is_written_is_reported(room: int, tmp_path: Path) -> None:
    network = network_of("vit").train()
    with _file_limit(room), pytest.raises(TrainingError, match=r"cannot be written to vit: .*[Ff]ile too large"):
        export(network, tmp_path / "vit", CLASSES, 32)
    assert network.training
    with pytest.raises(CheckpointError):
        loaded(tmp_path / "vit")
    export(network, tmp_path / "vit", CLASSES, 32)
    loaded(tmp_path / "vit")


def test_a_disk_that_is_full_when_a_probe_is_written_is_reported(tmp_path: Path, tar: Path) -> None:
    export(encoder_of("vit"), tmp_path / "vit", (), 32)
    spec = spec_from_folder(tmp_path / "vit")
    with _file_limit(100), pytest.raises(TrainingError, match="The probe cannot be written to vit"):
        probe(spec, [tar], save=True)
